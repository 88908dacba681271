from pathlib import Path

import pytest

from nsd_pipeline_tests.storage.servers import moto_server, s3rver, s3rver_script, scripted_server

__all__ = ["moto_server", "s3rver", "s3rver_script", "scripted_server"]


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the settings, the cache and the AWS account of whoever runs the tests out of them."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "no_aws_config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "no_aws_credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "NSD_ACCEPT_TERMS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def terms_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NSD_ACCEPT_TERMS", "1")
