"""What ``nsd run subj01 --experiment windows`` does, for recordings that lie on fsaverage5.

Real recordings lie on fsaverage, or come from NSD's volumes; generated ones are coarse, and a
setting of an asset, which `nsd run` has none of, says so.
"""

import sys
from contextlib import suppress

from nsd_pipeline import planned_runs
from nsd_pipeline.checks import AtChance
from nsd_pipeline.definitions import defs
from nsd_pipeline.demo.run import COARSE_RECORDINGS
from nsd_pipeline.experiments import chosen_file, read_experiments
from nsd_pipeline.history import open_history
from nsd_pipeline.nsd.layout import session_key
from nsd_pipeline.steps.measurement import choose_experiments, metrics_steps
from nsd_pipeline.steps.sessions import SERIES_STEPS, Preparation

SUBJECT = "subj01"

if __name__ == "__main__":
    experiments = choose_experiments(["windows"], metrics_steps(read_experiments(chosen_file())))
    sessions = [session_key(SUBJECT, number) for number in range(1, int(sys.argv[1]) + 1)]
    with open_history() as instance:
        for planned in (
            planned_runs.DESIGN,
            *planned_runs.prepare(sessions, Preparation("time series", SERIES_STEPS), at_most=1),
            *planned_runs.embed([SUBJECT], experiments),
            *planned_runs.decode([SUBJECT], experiments),
        ):
            with suppress(AtChance):  # the row compares the metrics itself
                planned_runs.execute(
                    defs.get_repository_def(), instance, planned, config=COARSE_RECORDINGS
                )
