"""The whole job on windows by neuralbench 0.4.0, in its own environment (Python 3.12).

Theirs, as released: the task's configuration (`fmri/image`, `Allen2022MassiveRaw`, `fmri_mlp`,
`fsaverage5`), study, event reading, extractors with their caches, segments, DataLoader, Lightning
training, checkpoint and test metrics. Changed, because the data is generated: the sessions that
there are instead of all 3,408 runs, recordings on fsaverage5 instead of fsaverage, a small encoder
instead of DINOv2-giant, no captions. Their preparation writes each image as PNG after reading all
39.6 GB of the stimulus file; here it writes those that are shown. All of it is in this process, as
`CLUSTER: null` says. Calls nothing of nsd_pipeline.
"""

# mypy: ignore-errors
# What is imported here is only in the other environment.
import json
import os
import sys
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
from PIL import Image

CONFIG = {
    "USER": "benchmark",
    "ENTITY_NAME": "benchmark",
    "PROJECT_NAME": "benchmark",
    "CACHE_DIR": "cache",
    "SAVE_DIR": "save",
    "DATA_DIR": "study",
    "WANDB_HOST": "",
    "SLURM_PARTITION": "",
    "SLURM_CONSTRAINT": "",
    "N_CPUS": 0,
    "CLUSTER": None,
}
"""`N_CPUS` is the number of the DataLoader's processes: with 0 there are no copies in memory."""
ENCODER = "generated/encoder"
_RUNS = 12


def main(nsd: Path, encoder: Path, n_sessions: int) -> None:
    """Prepare, train and test in the current folder; write what they report to result.json."""
    here = Path.cwd()
    folders = {
        name: str(here / value) if name.endswith("_DIR") else value
        for name, value in CONFIG.items()
    }
    (here / "neuralbench.json").write_text(json.dumps(folders))
    os.environ["NEURALBENCH_CONFIG"] = str(here / "neuralbench.json")
    _prepare(nsd, here, n_sessions)
    _put_into_hub_cache(encoder, here / "hub")
    result = _run(json.loads((encoder / "config.json").read_text())["hidden_size"])
    (here / "result.json").write_text(json.dumps(result))


def _prepare(nsd: Path, here: Path, n_sessions: int) -> None:
    """Put recordings where the study looks for them, and write the images that are shown."""
    derivatives = here / "study/GeneratedRaw/derivatives/deepprep"
    derivatives.mkdir(parents=True)
    (derivatives / "bids").symlink_to(nsd / "derivatives")
    (here / "study/GeneratedRaw/nsddata_rawdata").symlink_to(nsd / "nsddata_rawdata")
    (here / "study/nsd_common/nsd_stimuli").mkdir(parents=True)
    _study()._extract_test_images_ids_of(nsd, here / "study/nsd_common")
    sessions = [
        nsd / f"nsddata_rawdata/sub-01/ses-nsd{n:02}/func" for n in range(1, n_sessions + 1)
    ]
    tables = [
        pd.read_csv(path, sep="\t") for each in sessions for path in each.glob("*_events.tsv")
    ]
    with h5py.File(nsd / "nsddata_stimuli/stimuli/nsd/nsd_stimuli.hdf5") as file:
        for image_id in np.unique(pd.concat(tables)["73k_id"]) - 1:
            image = Image.fromarray(file["imgBrick"][image_id])
            image.save(here / f"study/nsd_common/nsd_stimuli/{image_id}.png")


def _put_into_hub_cache(encoder: Path, cache: Path) -> None:
    """Let a folder look like a download from the Hub: their extractor takes nothing else."""
    model = cache / f"models--{ENCODER.replace('/', '--')}"
    (model / "refs").mkdir(parents=True)
    (model / "refs/main").write_text("0" * 40)
    (model / "snapshots").mkdir()
    (model / "snapshots" / ("0" * 40)).symlink_to(encoder)
    os.environ["HF_HUB_CACHE"] = str(cache)


def _study():
    """Their study, limited to the runs that there are."""
    from neuralfetch.studies.allen2022massive import Allen2022MassiveRaw, _loadmat

    class GeneratedRaw(Allen2022MassiveRaw):
        _info = None  # which demands all 3,408 runs

        def iter_timelines(self):
            for found in sorted((self.path / self.BIDS_FOLDER).glob("sub-01/ses-nsd*")):
                if int(found.name[-2:]) <= int(os.environ["N_SESSIONS"]):
                    for run in range(1, _RUNS + 1):
                        yield {
                            "subject": 1,
                            "session": int(found.name[-2:]),
                            "task": self.TASK,
                            "run": run,
                        }

        def _get_captions(self, image_id):  # noqa: ARG002
            return ""

        @staticmethod
        def _extract_test_images_ids_of(nsd, folder):
            design = _loadmat(nsd / "nsddata/experiments/nsd/nsd_expdesign.mat")
            np.save(folder / "test_images_ids.npy", design["sharedix"])

    return GeneratedRaw


def _run(width: int) -> dict[str, float]:
    from neuralbench.experiment_config import build_experiment_configs
    from neuralbench.main import Experiment

    config, *_ = build_experiment_configs(
        "fmri",
        "image",
        model="fmri_mlp",
        dataset="Allen2022MassiveRaw",
        space="fsaverage5",
        quiet=True,
    )
    config["data.study.source.name"] = "GeneratedRaw"
    config["data.study.filter_fmri_space.query"] = 'type != "Fmri" or space == "fsaverage5"'
    config["data.neuro.from_space"] = None
    config["data.neuro.query"] = 'space == "fsaverage5"'
    config["data.target.model_name"] = ENCODER
    config["data.target.device"] = "cpu"
    config["brain_model_output_size"] = width
    config["brain_model_config.output_head_config.hidden_sizes"] = [width]
    return Experiment(**config).run()


if __name__ == "__main__":
    os.environ["N_SESSIONS"] = sys.argv[3]
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
