from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from dagster import DagsterInstance

from nsd_pipeline_tests.deploy.postgres import postgres
from nsd_pipeline_tests.launchers.conftest import code_location, make_home

__all__ = ["code_location", "make_home", "postgres"]

DEPLOY = Path(__file__).parents[2] / "deploy"


@pytest.fixture
def settings(
    postgres: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], dict[str, object]]:
    """A dagster.yaml below deploy/, with the variables that it needs."""
    for name, value in postgres.items():
        monkeypatch.setenv(name, value)

    def read(name: str) -> dict[str, object]:
        return dict(yaml.safe_load((DEPLOY / name / "dagster.yaml").read_text()))

    return read


@pytest.fixture
def empty_postgres(settings: Callable[[str], dict[str, object]]) -> Iterator[None]:
    """Leave no run behind for the test that follows."""
    yield
    with DagsterInstance.local_temp(overrides=settings("postgres")) as instance:
        instance.wipe()
