"""What Dagster's own DockerRunLauncher asks an engine for, and what the compose file says."""

import json
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from dagster import DagsterInstance

from nsd_pipeline_tests.deploy.conftest import DEPLOY
from nsd_pipeline_tests.deploy.runs import IMAGE, create_run, launch
from nsd_pipeline_tests.deploy.servers import Recorder, serving

COMPOSE = yaml.safe_load((DEPLOY / "docker/docker-compose.yaml").read_text())
SCHEMA = "builtin_schemas/vendor/compose-spec.json"
ENGINE = "/v1.44"
CONTAINER = {"Id": "c0ffee", "State": {"Status": "running"}}


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Recorder]:
    answers: dict[tuple[str, str], tuple[int, Any]] = {
        ("GET", "/version"): (200, {"ApiVersion": ENGINE[2:]}),
        ("POST", f"{ENGINE}/containers/create"): (201, {"Id": "c0ffee"}),
        ("GET", f"{ENGINE}/containers/c0ffee/json"): (200, CONTAINER),
        ("POST", f"{ENGINE}/containers/c0ffee/start"): (204, None),
        ("POST", f"{ENGINE}/containers/c0ffee/stop"): (204, None),
    }
    with serving(Recorder(answers)) as recorder:
        monkeypatch.setenv("DOCKER_HOST", f"tcp://{recorder.address}")
        yield recorder


@pytest.fixture
def instance(
    settings: Callable[[str], dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[DagsterInstance]:
    """An instance with deploy/docker/dagster.yaml, in the environment that compose gives it."""
    for name, value in COMPOSE["services"]["daemon"]["environment"].items():
        if name.startswith(("NSD_", "AWS_")):
            monkeypatch.setenv(name, f"value of {name}" if "$" in value else value)
    overrides = settings("docker")
    with DagsterInstance.local_temp(str(tmp_path), overrides=overrides) as instance:
        yield instance
        instance.wipe()


def test_a_run_s_container(instance: DagsterInstance, engine: Recorder) -> None:
    run = create_run(instance, "train")
    launch(instance, run)
    asked = engine.sent("POST", f"{ENGINE}/containers/create")
    assert asked["Image"] == IMAGE
    assert asked["Cmd"][:3] == ["dagster", "api", "execute_run"]
    host = asked["HostConfig"]
    (gpus,) = host["DeviceRequests"]
    assert (gpus["Driver"], gpus["Count"], gpus["Capabilities"]) == ("nvidia", -1, [["gpu"]])
    assert host["Binds"] == ["nsd_data:/data", "nsd_cache:/cache"]
    assert host["NetworkMode"] == "nsd"
    assert f"{ENGINE}/containers/c0ffee/start" in engine.paths("POST")
    # Runs know what the code location knows: the same variables, and no other secrets.
    names = {name.partition("=")[0] for name in asked["Env"]} - {"DAGSTER_RUN_JOB_NAME"}
    assert names == set(COMPOSE["services"]["daemon"]["environment"])

    assert instance.run_launcher.terminate(run.run_id)
    assert f"{ENGINE}/containers/c0ffee/stop" in engine.paths("POST")


def test_the_compose_file_is_one() -> None:
    schema = json.loads(files("check_jsonschema").joinpath(SCHEMA).read_text())
    jsonschema.validate(COMPOSE, schema)


def test_names_agree_between_the_files() -> None:
    """The compose file, dagster.yaml, workspace.yaml and the Dockerfile name the same things."""
    services, volumes = COMPOSE["services"], COMPOSE["volumes"]
    launcher = yaml.safe_load((DEPLOY / "docker/dagster.yaml").read_text())["run_launcher"]
    mounted = {each.split(":")[0] for each in launcher["config"]["container_kwargs"]["volumes"]}
    assert mounted == {volumes["data"]["name"], volumes["cache"]["name"]}
    assert launcher["config"]["network"] == COMPOSE["networks"]["nsd"]["name"]
    assert services["code"]["environment"]["DAGSTER_CURRENT_IMAGE"] == services["code"]["image"]
    (location,) = yaml.safe_load((DEPLOY / "docker/workspace.yaml").read_text())["load_from"]
    assert location["grpc_server"]["host"] in services
    for service in services.values():
        for mount in service.get("volumes", []):
            source = mount.split(":")[0]
            there = source in volumes or (DEPLOY / "docker" / source).exists()
            assert there or source == "/var/run/docker.sock"
    dockerfile = (DEPLOY / "docker/Dockerfile").read_text()
    copied = [
        name
        for line in dockerfile.splitlines()
        if line.startswith("COPY ")
        for name in line.split()[1:-1]
    ]
    ignored = (DEPLOY.parent / ".dockerignore").read_text().splitlines()
    assert {f"!{name}" for name in copied} == {line for line in ignored if line.startswith("!")}
    assert all((DEPLOY.parent / name).exists() for name in copied if name != "README.md")
