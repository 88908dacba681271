"""What comes from NSD's bucket: the experiment design, and a session's betas."""

from dataclasses import replace
from pathlib import PurePosixPath

import dagster as dg
from pydantic import Field

from nsd_pipeline import partitions
from nsd_pipeline.errors import NsdError
from nsd_pipeline.nsd import layout
from nsd_pipeline.nsd.design import (
    ExperimentDesign,
    copy_design,
    find_design,
    read_experiment_design,
)
from nsd_pipeline.nsd.fsaverage_betas import FsaverageDownload, inspect_betas
from nsd_pipeline.nsd.mapping import read_stimulus_info
from nsd_pipeline.nsd.space_betas import FormatChoice, SpaceDownload, inspect_space
from nsd_pipeline.steps.operators import Operator
from nsd_pipeline.steps.running import step_asset
from nsd_pipeline.steps.step import Metadata, Plan, Step, Tools
from nsd_pipeline.storage.store import Draft, Store
from nsd_pipeline.surface.projected_betas import check_shapes

DESIGN_FILE = "nsd_expdesign.mat"
STIMULUS_INFO_FILE = "nsd_stim_info_merged.csv"


class Design(Step):
    """Which trial showed which image: NSD's design, stimulus info and responses, validated.

    The files are kept as they are on the bucket: `nsd_expdesign.mat`, `nsd_stim_info_merged.csv`
    and every subject's `responses.tsv`.
    """

    name = "experiment_design"
    asks_source = True

    def __init__(self, tools: Tools, config: None = None) -> None:
        super().__init__(tools, config)
        self.objects = find_design(self.source)

    @classmethod
    def asset(cls) -> dg.AssetsDefinition:
        return step_asset(cls, group_name="raw", kinds={"s3"})

    def plan(self, partition: str) -> Plan:
        return Plan(
            inputs={info.key: info.etag for info in self.objects.values()},
            expected_bytes=sum(info.n_bytes for info in self.objects.values()),
        )

    def make(self, partition: str, plan: Plan, draft: Draft) -> Metadata:
        kind = self._kind_of_dataset()
        copy_design(self.source, self.objects, draft.folder)
        # By the source's names: a draft that fails is gone when the message is read.
        names = {file: f"{self.source.url}/{info.key}" for file, info in self.objects.items()}
        design = read_experiment_design(draft.folder / DESIGN_FILE, names[DESIGN_FILE])
        stimulus_info = read_stimulus_info(
            draft.folder / STIMULUS_INFO_FILE, names[STIMULUS_INFO_FILE]
        )
        trials = [design.n_trials(session) for session in range(1, 41)]
        return {
            "dataset": kind,
            "images": len(stimulus_info),
            "shared images": len(design.sharedix),
            "subjects with responses": sum(name.startswith("subj") for name in self.objects),
            "trials per session": sorted({count for count in trials if count}),
        }

    def _kind_of_dataset(self) -> str:
        """What the dataset is; an NsdError if the store's is of the other kind.

        A model learns from all sessions at hand: it would learn from those of the demo, too.
        """
        generated = layout.GENERATED_KEY in self.source.list(layout.GENERATED_KEY)
        kind = layout.GENERATED if generated else "of people"
        before = self.store.manifest(self.key())
        if before is not None and before.metadata.get("dataset", kind) != kind:
            raise NsdError(
                f"The artifacts in {self.store.url} are of another dataset (generated, as the"
                f" demo's, or of people) than {self.source.url}.",
                next_step="let NSD_STORAGE name another folder for this dataset.",
            )
        return kind

    @classmethod
    def read(cls, store: Store) -> ExperimentDesign:
        """Read the design; an ArtifactError if it has not been made, or is damaged."""
        return read_experiment_design(store.folder(cls.made(store).key) / DESIGN_FILE)


class BetasConfig(dg.Config):
    """What is fetched of a session's betas."""

    space: layout.Space = Field(
        default="fsaverage",
        description="where the betas lie: fsaverage, func1pt8mm, func1mm, nativesurface or MNI"
        " (betas_fithrf there); the events' query has to keep the same space",
    )
    file_format: FormatChoice = Field(
        default="auto",
        description="of func1pt8mm and func1mm: nii.gz (whole files), hdf5 (only the voxels that"
        " fsaverage5 needs, which can be more bytes), or auto: nii.gz where the source has it",
    )
    whole_file: bool = Field(
        default=False,
        description="of fsaverage: fetch all 163,842 vertices of a hemisphere (983 MB a session),"
        " not only fsaverage5's 10,242 (61 MB)",
    )


class Betas(Step):
    """Single-trial betas of a session, as NSD has them: on fsaverage, or in a space by config.

    Only the bytes that fsaverage5 needs: the first 10,242 vertices of every frame (percent
    signal change), or the voxels that `fsaverage5_operator` looks at (percent x 300), by
    concurrent range requests bound to one version of the object. A local mirror is read in
    place.
    """

    name = "betas"
    code_version = "2"
    partitions = partitions.sessions
    config: BetasConfig = BetasConfig()
    set_in_runs = BetasConfig
    asks_source = True

    def __init__(self, tools: Tools, config: BetasConfig | None = None) -> None:
        super().__init__(tools, config)
        self._design = Design.read(self.store)
        self._found: dict[str, FsaverageDownload | SpaceDownload] = {}

    @classmethod
    def asset(cls) -> dg.AssetsDefinition:
        needed = [Design.name, *Operator.needed_for(cls.config.space)]
        return step_asset(cls, group_name="raw", kinds={"s3"}, deps=needed)

    def plan(self, partition: str) -> Plan:
        download = self._found[partition] = self._inspect(partition)
        settings: dict[str, object] = {"space": self.config.space}
        if self.config.space == "fsaverage":
            settings["whole_file"] = self.config.whole_file
        return Plan(
            inputs={info.key: info.etag for info in download.objects},
            settings=settings,
            found={"in_place": download.in_place, **download.config},
            expected_bytes=0 if download.in_place else download.fetched_bytes,
        )

    def _inspect(self, partition: str) -> FsaverageDownload | SpaceDownload:
        subject, session = layout.parse_session_key(partition)
        n_trials = self._design.n_trials(session)
        space = self.config.space
        if space == "fsaverage":
            hemispheres = inspect_betas(self.source, subject, session, n_trials=n_trials)
            return FsaverageDownload(self.source, hemispheres, self.config.whole_file)
        download = inspect_space(
            self.source,
            subject,
            session,
            space,
            file_format=self.config.file_format,
            n_trials=n_trials,
        )
        if download.file_format == "hdf5" and not download.in_place:
            operator = Operator.load(self.store, subject, space)
            check_shapes([info.key for info in download.betas], download.shapes, operator)
            download = replace(download, voxels=operator.touched_voxels)
        return download

    def make(self, partition: str, plan: Plan, draft: Draft) -> Metadata:
        download = self._found[partition]
        report = download.download(draft.folder, self.store.scratch(self.key(partition)))
        transfer = {
            "bytes fetched": report.n_bytes,
            "bytes resumed": report.resumed_bytes,
            "requests": report.n_requests,
            "seconds of download": report.seconds,
            "MB/s": report.n_bytes / report.seconds / 1e6 if report.seconds else 0.0,
        }
        return {
            "space": self.config.space,
            "trials": download.n_trials,
            "bytes on the source": sum(info.n_bytes for info in download.objects),
            **({"read": "in place, on the mirror"} if download.in_place else transfer),
            "etags": {PurePosixPath(info.key).name: info.etag for info in download.objects},
        }
