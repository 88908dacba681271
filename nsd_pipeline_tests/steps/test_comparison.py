"""A difference between experiments is theirs, or the page says what else it may come from."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from nsd_pipeline.evaluation import query_ranks
from nsd_pipeline.steps.comparison import QUERIES_FILE, Measured, compare


def test_other_sessions_at_hand_are_told_though_the_candidates_are_the_same(tmp_path: Path) -> None:
    targets = np.random.default_rng(0).standard_normal((12, 5))

    def measured(experiment: str, sessions: list[str]) -> Measured:
        (tmp_path / experiment).mkdir()
        queries = query_ranks(targets[None], targets, [*range(12)], ["subj01"] * 12, [0])
        queries.to_parquet(tmp_path / experiment / QUERIES_FILE)
        step: Any = SimpleNamespace(
            model=SimpleNamespace(experiment=SimpleNamespace(name=experiment))
        )
        model: Any = SimpleNamespace(metadata={"sessions": sessions})
        files = {QUERIES_FILE: {}}
        metrics: Any = SimpleNamespace(key=experiment, partition="subj01", files=files)
        return Measured(step, metrics, model)

    store: Any = SimpleNamespace(folder=lambda key: tmp_path / key)
    three = [f"subj01_ses0{number}" for number in (1, 2, 3)]
    table, notes = compare(
        store,
        [
            measured("default", three[:2]),
            measured("later", three),
            measured("others", [*three[:2], "subj02_ses01"]),
        ],
    )
    assert table["experiment"].tolist() == ["later", "others"]
    (note,) = notes
    assert note.startswith("later, subj01: made when 3 sessions were at hand, and default when 2")
