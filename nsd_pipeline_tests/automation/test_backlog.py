"""What makes a session stale, on artifacts that are records and nothing else."""

from pathlib import Path

import pytest

from nsd_pipeline.assets import keys
from nsd_pipeline.assets.backlog import SESSION_ASSETS, find_backlog
from nsd_pipeline.nsd import layout
from nsd_pipeline.storage.opening import open_source, open_store

SESSION = "subj01_ses01"
FILES = layout.betas_keys("subj01", 1, "fsaverage")
VERSIONS = dict.fromkeys((keys.EXPERIMENT_DESIGN, *SESSION_ASSETS, "fsaverage5_operator"), "1")
# What each artifact is made from, beside the files of the source.
UPSTREAM = {
    "betas": (),
    "events": (keys.EXPERIMENT_DESIGN,),
    "fsaverage_events": ("events",),
    "fsaverage5_betas": ("betas", "fsaverage_events", "fsaverage5_operator"),
}


def fingerprint(name: str) -> str:
    return name.encode().hex().ljust(64, "0")[:64]


@pytest.mark.parametrize(
    ("changed", "state"),
    [
        ("nothing", "up_to_date"),
        ("code of events", "stale"),
        ("experiment_design", "stale"),
        ("file", "stale"),
        ("no fsaverage_events", "missing"),
        ("no file", "unavailable"),
    ],
)
def test_what_is_to_be_done_about_a_session(tmp_path: Path, changed: str, state: str) -> None:
    for key in FILES:
        (tmp_path / "nsd" / key).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "nsd" / key).write_text("betas")
    source, store = open_source(str(tmp_path / "nsd")), open_store(tmp_path / "artifacts")
    artifacts = {keys.EXPERIMENT_DESIGN: keys.EXPERIMENT_DESIGN} | {
        asset: getattr(keys, asset)(SESSION) for asset in SESSION_ASSETS
    }
    for asset, key in artifacts.items():
        if changed == f"no {asset}":
            continue
        inputs = {name: fingerprint(name) for name in UPSTREAM.get(asset, ())}
        if asset == "betas":
            inputs = {name: source.describe(name).etag for name in FILES}
        with store.write(
            key,
            asset=asset,
            partition=None,
            fingerprint=fingerprint(asset if asset != changed else "another design"),
            code_version="0" if changed == f"code of {asset}" else "1",
            inputs=inputs,
            config={},
        ) as draft:
            (draft.folder / "file").touch()
    if changed == "file":
        (tmp_path / "nsd" / FILES[1]).write_text("other betas")
    if changed == "no file":
        (tmp_path / "nsd" / FILES[1]).unlink()
    backlog = find_backlog(source, store, [SESSION], VERSIONS)
    assert getattr(backlog, state) == [SESSION], backlog
    assert backlog.to_do == ([SESSION] if state in ("missing", "stale") else [])
