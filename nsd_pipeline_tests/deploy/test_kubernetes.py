"""What Dagster's own K8sRunLauncher asks an API server for, with deploy/kubernetes/values.yaml."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from dagster import DagsterInstance, DagsterRun
from dagster._core.instance.config import PoolGranularity
from dagster._core.launcher.base import WorkerStatus
from dagster._core.run_coordinator import QueuedRunCoordinator

from nsd_pipeline.definitions import defs
from nsd_pipeline.launchers.base import CONFIG_TAG, GPU_POOL
from nsd_pipeline_tests.deploy.conftest import DEPLOY
from nsd_pipeline_tests.deploy.runs import IMAGE, create_run, launch
from nsd_pipeline_tests.deploy.servers import Recorder, serving

VALUES = yaml.safe_load((DEPLOY / "kubernetes/values.yaml").read_text())
JOBS = "/apis/batch/v1/namespaces/research/jobs"
GPU = "nvidia.com/gpu"


def snake_case(name: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name)


def instance_settings(kubeconfig: Path) -> dict[str, Any]:
    """The dagster.yaml that the chart's templates make of the values, but for the storage."""
    given = VALUES["runLauncher"]["config"]["k8sRunLauncher"]
    monitoring = VALUES["dagsterDaemon"]["runMonitoring"]
    assert not VALUES["dagsterDaemon"]["runCoordinator"]["enabled"]
    launcher = {
        "load_incluster_config": False,
        "kubeconfig_file": str(kubeconfig),
        "job_namespace": "research",
        "service_account_name": "nsd-dagster",
        "dagster_home": "/opt/dagster/dagster_home",
        "instance_config_map": "nsd-dagster-instance",
        "postgres_password_secret": "dagster-postgresql-secret",
        "run_k8s_config": {snake_case(k): v for k, v in given["runK8sConfig"].items()},
    }
    launcher |= {snake_case(k): v for k, v in given.items() if k != "runK8sConfig"}
    return {
        "run_launcher": {"module": "dagster_k8s", "class": "K8sRunLauncher", "config": launcher},
        "run_monitoring": {snake_case(key): value for key, value in monitoring.items()},
        "telemetry": VALUES["telemetry"],
        **VALUES["additionalInstanceConfig"],
    }


def container_context() -> dict[str, Any]:
    """What the chart tells the code location to hand on to its runs."""
    (deployment,) = VALUES["dagster-user-deployments"]["deployments"]
    assert deployment["includeConfigInLaunchedRuns"]["enabled"]
    return {
        "k8s": {
            "env_config_maps": [f"nsd-{deployment['name']}-user-env"],
            "env_secrets": [secret["name"] for secret in deployment["envSecrets"]],
        }
    }


@pytest.fixture
def api() -> Iterator[Recorder]:
    with serving(Recorder(answers={("POST", JOBS): (201, None)})) as recorder:
        yield recorder


@pytest.fixture
def instance(api: Recorder, tmp_path: Path) -> Iterator[DagsterInstance]:
    kubeconfig = tmp_path / "kubeconfig"
    named = {"name": "test", "cluster": {"server": f"http://{api.address}"}}
    kubeconfig.write_text(
        yaml.safe_dump(
            {
                "clusters": [named],
                "users": [{"name": "test", "user": {}}],
                "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
                "current-context": "test",
            }
        )
    )
    settings = instance_settings(kubeconfig)
    with DagsterInstance.local_temp(str(tmp_path), overrides=settings) as instance:
        yield instance


def start(instance: DagsterInstance, job: str) -> DagsterRun:
    run = create_run(instance, job, context=container_context())
    launch(instance, run)
    return run


@pytest.mark.parametrize(
    ("job", "gpus"),
    [("session", None), ("report", None), ("embed", "1"), ("train", "1"), ("subject", "1")],
)
def test_the_job_of_a_run(instance: DagsterInstance, api: Recorder, job: str, gpus: str) -> None:
    run = start(instance, job)
    manifest = api.sent("POST", JOBS)
    kubernetes_validate.validate(manifest, "1.36", strict=True)

    pod = manifest["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["image"] == IMAGE
    assert container["args"][:3] == ["dagster", "api", "execute_run"]
    # A GPU for those that need one, on top of what every run asks for.
    resources = container["resources"]
    assert resources["limits"].get(GPU) == gpus
    assert resources["requests"] == {"cpu": "2", "memory": "8Gi"}
    assert resources["limits"]["memory"] == "40Gi"
    assert [each["key"] for each in pod.get("tolerations", [])] == ([GPU] if gpus else [])
    # Settings and credentials come from where the code location has them, none from the manifest.
    sources = [tuple(each.items()) for each in container["envFrom"]]
    assert (("secretRef", {"name": "nsd-pipeline"}),) in sources
    assert (("configMapRef", {"name": "nsd-nsd-pipeline-user-env"}),) in sources
    env = {each["name"]: each.get("value") for each in container["env"]}
    assert env["XDG_CACHE_HOME"] == "/cache"
    assert env["DAGSTER_PG_PASSWORD"] is None
    assert {"name": "cache", "mountPath": "/cache"} in container["volumeMounts"]
    assert pod["securityContext"]["runAsNonRoot"]
    # Kubernetes must not repeat what Dagster's run retries repeat.
    assert manifest["spec"]["backoffLimit"] == 0
    assert pod["restartPolicy"] == "Never"
    assert manifest["spec"]["ttlSecondsAfterFinished"] == 86400
    assert manifest["metadata"]["labels"]["dagster/run-id"] == run.run_id


def test_whatever_needs_a_gpu_says_so_to_kubernetes() -> None:
    repository = defs.get_repository_def()
    for job in repository.get_all_jobs():
        pools = {getattr(node, "pool", None) for node in job.all_node_defs}
        if not job.name.startswith("__"):  # what is picked by hand has no job of its own
            assert (CONFIG_TAG in job.run_tags) == (GPU_POOL in pools), job.name
    assert CONFIG_TAG in repository.get_sensor_def("carry_on").run_tags


def test_a_terminated_run_leaves_no_pod(instance: DagsterInstance, api: Recorder) -> None:
    run = start(instance, "train")
    name = api.sent("POST", JOBS)["metadata"]["name"]
    path = f"{JOBS}/{name}"
    pods = "/api/v1/namespaces/research/pods"
    pod = {"metadata": {"name": f"{name}-x7"}, "spec": {"containers": [{"name": "dagster"}]}}
    api.answers |= {
        ("GET", pods): (200, {"kind": "PodList", "items": [pod]}),
        ("DELETE", path): (200, {"kind": "Status", "status": "Success"}),
        ("DELETE", f"{pods}/{name}-x7"): (200, pod),
    }
    assert instance.run_launcher.terminate(run.run_id)
    assert api.paths("DELETE") == [path, f"{pods}/{name}-x7"]


def test_a_job_whose_pod_failed_is_a_failed_worker(
    instance: DagsterInstance, api: Recorder
) -> None:
    run = start(instance, "train")
    job = api.sent("POST", JOBS)
    path = f"{JOBS}/{job['metadata']['name']}/status"
    for status, expected in (
        ({"active": 1}, WorkerStatus.RUNNING),
        ({"failed": 1}, WorkerStatus.FAILED),
    ):
        api.answers[("GET", path)] = (200, job | {"status": status})
        assert instance.run_launcher.check_run_worker_health(run).status == expected


def test_queue_retries_and_pools_are_those_of_the_values(instance: DagsterInstance) -> None:
    """Dagster refuses settings that it does not know, or that contradict each other."""
    assert isinstance(instance.run_coordinator, QueuedRunCoordinator)
    limits = instance.get_concurrency_config()
    assert limits.run_queue_config is not None
    assert limits.run_queue_config.max_concurrent_runs == 8
    assert limits.run_queue_config.tag_concurrency_limits
    assert limits.pool_config.default_pool_limit == 1
    assert limits.pool_config.pool_granularity == PoolGranularity.RUN
    assert instance.run_retries_max_retries == 2
    assert instance.run_monitoring_start_timeout_seconds == 3600
