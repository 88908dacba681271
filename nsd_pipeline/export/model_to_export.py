"""One cohort's models of an experiment, with all that is said about them outside of the store."""

from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import PurePath
from typing import Self

from nsd_pipeline.artifacts import find_models
from nsd_pipeline.decoding.config import KNOWN_MODELS, TrainingConfig
from nsd_pipeline.errors import ArtifactError
from nsd_pipeline.folders import artifact_key, metrics_folder
from nsd_pipeline.nsd.layout import GENERATED
from nsd_pipeline.storage.manifest import Manifest
from nsd_pipeline.storage.store import Store


@dataclass(frozen=True)
class ModelToExport:
    """Models that differ in their seeds, by their manifest, and how they were trained.

    The subject is ``all`` for the joint model.
    """

    store: Store
    subject: str
    experiment: str
    made: Manifest
    config: TrainingConfig

    @classmethod
    def find(cls, store: Store, subject: str, experiment: str) -> Self:
        """Find the models in a store; an ArtifactError if they are not there, or damaged."""
        made = find_models(store, subject, experiment)
        return cls(store, subject, experiment, made, TrainingConfig.of_model(made.config))

    @cached_property
    def _measured(self) -> Manifest | None:
        return self.store.find(artifact_key(metrics_folder(self.experiment), self.subject))

    @property
    def metrics(self) -> Manifest:
        """What was measured of these very models; an ArtifactError if nothing was."""
        found = self._measured
        if found is None or self.made.fingerprint not in found.inputs.values():
            earlier = "" if found is None else ", but only earlier ones"
            raise ArtifactError(
                f"The models of {self.subject} of the experiment {self.experiment} have not been"
                f" measured{earlier}.",
                next_step=f"run `nsd run {self.subject} --experiment {self.experiment}`, which"
                " makes what is left, and export then.",
            )
        return found

    @property
    def generated(self) -> bool:
        """Whether it is known that they learned from data generated in NSD's layout."""
        return self._measured is not None and self._measured.metadata.get("pictures") == GENERATED

    @property
    def own_class(self) -> bool:
        """Whether the network is of a class that is not part of this package."""
        return self.config.model not in KNOWN_MODELS

    @property
    def region(self) -> str | None:
        """Region as the settings name it; of a path on this machine only the file's name."""
        return None if self.config.region is None else PurePath(self.config.region).name

    def describe_input(self) -> str:
        """Say what the network takes: which numbers, how prepared."""
        config, where = self.config, "all 20,484 vertices of fsaverage5"
        if config.windowed:
            what = (
                f"windows of time series ({config.window_duration:g} s, from"
                f" {config.window_start:g} s after the image's onset; each run detrended and"
                " z-scored, as nilearn.signal.clean does)"
            )
        elif config.zscore:
            what = "betas, each vertex z-scored over the finite trials of its session (ddof 1)"
        else:
            what = "betas in percent signal change"
        if self.region:
            up_to = "" if config.region_up_to is None else f" and up to {config.region_up_to:g}"
            where = (
                "in ascending order, the vertices of fsaverage5 whose label in"
                f" {self.region} is above {config.region_above:g}{up_to}"
            )
        return (
            f"{what}, prepared from {self.made.metadata['space']}; {where}, left hemisphere first;"
            " 0 where a value is not finite"
        )

    def provenance(self) -> dict[str, str]:
        """Which models these are, to find them again, and the versions of the programs."""
        programs = ("nsd_pipeline", "torch", "safetensors")
        return {
            "subject": self.subject,
            "experiment": self.experiment,
            "key": self.made.key,
            "fingerprint": self.made.fingerprint,
            "version of the code": self.made.code_version,
            "trained": f"{self.made.created:%Y-%m-%d %H:%M} UTC",
            **{f"{name} at export": version(name) for name in programs},
        }
