"""One machine of a cluster: runs parts of the graph, knowing nothing but its environment.

``python -m nsd_pipeline_tests.steps.machine PART...`` prints what each part said, as JSON.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import dagster as dg

from nsd_pipeline_tests.pipeline import SESSION_ASSETS, Pipeline

Facts = dict[str, dict[str, Any]]


class Machine:
    """Runs parts of the graph and notes which checks failed."""

    def __init__(self, graph: Pipeline) -> None:
        self._graph = graph
        self.failed_checks: list[str] = []

    def run_part(self, part: str) -> Facts:
        """Run one part: ``design``, a span of sessions, images or their embeddings, ``train``."""
        match part.split(":"):
            case ["design"]:
                return self._run("experiment_design")
            case ["images", stimulus_set]:
                return self._run("stimuli", first=stimulus_set)
            case ["embed", stimulus_set]:
                return self._run("stimuli", "stimulus_embeddings", first=stimulus_set)
            case ["train"]:
                quick = {"fmri_mlp": {"n_epochs": 2, "hidden": 8}}
                facts = self._run("fmri_mlp", "retrieval_metrics", first="subj01", config=quick)
                return facts | self._run("decoding_report")
            case _:
                first, _, last = part.partition("...")
                return self._run(*SESSION_ASSETS, first=first, last=last)

    def _run(self, *assets: str, **options: Any) -> Facts:
        facts = self._graph.run(*assets, **options)
        self.failed_checks += self._graph.failed_checks
        return facts


def main() -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        machine = Machine(
            Pipeline(
                source=os.environ["NSD_SOURCE"],
                artifacts=os.environ["NSD_STORAGE"],  # type: ignore[arg-type]
                encoder=Path(os.environ["NSD_ENCODER"]),
                instance=instance,
            )
        )
        facts = {part: machine.run_part(part) for part in sys.argv[1:]}
    json.dump(facts | {"failed checks": machine.failed_checks}, sys.stdout, default=str)


if __name__ == "__main__":
    main()
