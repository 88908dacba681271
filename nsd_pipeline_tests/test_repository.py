"""What a contributor looks for is there, valid, and true of the code."""

import json
import re
import subprocess
import sys
import tomllib
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

import nsd_pipeline

ROOT = Path(nsd_pipeline.__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SCHEMAS = files("check_jsonschema") / "builtin_schemas/vendor"
PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")


def read(path: str) -> Any:
    return yaml.safe_load((ROOT / path).read_text())


@pytest.mark.parametrize(
    ("path", "schema"),
    [
        ("CITATION.cff", "citation-file-format"),
        (".github/workflows/ci.yml", "github-workflows"),
    ],
)
def test_a_file_follows_its_schema(path: str, schema: str) -> None:
    # Read as JSON once more: the schemas know no dates, and `on` is no key of YAML 1.1.
    content = json.loads(json.dumps(read(path)).replace('"true":', '"on":'))
    jsonschema.validate(content, json.loads((SCHEMAS / f"{schema}.json").read_text()))


def test_the_citation_says_what_the_package_says() -> None:
    project, citation = PROJECT["project"], read("CITATION.cff")
    assert (citation["version"], citation["license"]) == (project["version"], project["license"])
    assert citation["authors"] == project["authors"]
    assert project["authors"][0]["name"] in (ROOT / "LICENSE").read_text()


def test_the_workflow_runs_what_any_machine_can_run() -> None:
    jobs = read(".github/workflows/ci.yml")["jobs"]
    for job, command in (("test", ".ci/run"), ("audit", "make audit")):
        assert command in [step.get("run") for step in jobs[job]["steps"]]


KNOWN = {"id": "CVE-1", "fix_versions": []}


@pytest.mark.parametrize(
    ("found", "says", "code"),
    [
        ([{"name": "a", "version": "1", "vulns": []}], "1 packages audited, 0 with", 0),
        (
            [{"name": "a", "version": "1", "vulns": [KNOWN]}],
            "a 1: CVE-1, fixed in no version yet",
            1,
        ),
        ([{"name": "a", "skip_reason": "not on PyPI"}], "NOT AUDITED: 1 of 1", 0),
        (None, "NOT AUDITED: PyPI could not be asked", 0),
    ],
)
def test_the_audit_fails_of_a_finding_and_says_what_it_did_not_look_at(
    tmp_path: Path, found: object, says: str, code: int
) -> None:
    report = tmp_path / "audit.json"
    if found is not None:
        report.write_text(json.dumps({"dependencies": found}))
    command = [sys.executable, ROOT / ".ci/audit.py", report]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (code, "")
    assert says in done.stdout


def test_hooks_before_a_commit_download_nothing() -> None:
    (repository,) = read(".pre-commit-config.yaml")["repos"]
    assert repository["repo"] == "local"
    for hook in repository["hooks"]:
        assert hook["language"] == "system"
        assert hook["entry"].startswith(".venv/bin/")


@pytest.mark.parametrize("page", PAGES)
def test_pages_link_to_files_that_are_there(page: str) -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", (ROOT / page).read_text())
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_tests_that_the_page_on_reliability_names_are_there() -> None:
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs/reliability.md").read_text()))
    tests = "".join(path.read_text() for path in (ROOT / "nsd_pipeline_tests").rglob("test_*.py"))
    assert len(named) > 30
    assert [name for name in sorted(named) if f"def {name}(" not in tests] == []


def test_types_are_part_of_the_package() -> None:
    data = PROJECT["tool"]["setuptools"]["package-data"]
    assert data["nsd_pipeline"] == ["py.typed", "*.pyi"]
    assert (ROOT / "nsd_pipeline/py.typed").exists()
