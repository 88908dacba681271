"""How sessions stand: which are still to be prepared, and which are not."""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple, get_args

from nsd_pipeline.decoding.config import TrainingConfig
from nsd_pipeline.errors import ArtifactError, InvalidFileError
from nsd_pipeline.nsd import layout
from nsd_pipeline.nsd.layout import DEFAULT_SPACE, Space
from nsd_pipeline.steps.events import Events, FsaverageEvents
from nsd_pipeline.steps.raw import Design
from nsd_pipeline.steps.series_files import BoldConfig, SeriesEvents, SeriesFiles
from nsd_pipeline.steps.series_surface import Series, SeriesConfig
from nsd_pipeline.steps.spaces import betas_step, space_of, surface_step
from nsd_pipeline.steps.step import Change, Step, Tools
from nsd_pipeline.storage.source import Source
from nsd_pipeline.storage.store import Store


def betas_steps(space: Space) -> tuple[type[Step], ...]:
    """What prepares a session for a model of a space's betas, in order."""
    return betas_step(space), Events, FsaverageEvents, surface_step(space)


BETAS_STEPS: Final[tuple[type[Step], ...]] = betas_steps(DEFAULT_SPACE)
SERIES_STEPS: Final[tuple[type[Step], ...]] = (
    Events,
    FsaverageEvents,
    SeriesFiles,
    SeriesEvents,
    Series,
)
"""What prepares a session for a model of betas on fsaverage, or of windows of time series."""


class Preparation(NamedTuple):
    """What is prepared of every session, and how that is called."""

    name: str
    steps: tuple[type[Step], ...]
    space: Space | None = None
    """Of betas; None for time series."""

    @classmethod
    def for_all(cls, trainings: Iterable[TrainingConfig]) -> "list[Preparation]":
        """All that some experiments need, each once."""
        kinds = dict.fromkeys(map(space_of, trainings))
        return [
            cls("time series", SERIES_STEPS)
            if space is None
            else cls(
                "sessions" if space == DEFAULT_SPACE else f"sessions in {space}",
                betas_steps(space),
                space,
            )
            for space in kinds
        ]


State = Literal["missing", "stale", "left alone", "up to date", "not on the source"]


@dataclass(frozen=True)
class SessionStates:
    """Sessions (by their keys, in order) by how they stand.

    ``missing``: the store lacks something of them. ``stale``: made from other files or by another
    version of the code. ``left alone``: made with other settings than the default, by somebody who
    chose them, and not to be replaced by a schedule.
    """

    by_state: dict[State, list[str]] = field(default_factory=dict)

    def __getitem__(self, state: State) -> list[str]:
        """Sessions that stand like that, in order."""
        return self.by_state.get(state, [])

    @property
    def to_do(self) -> list[str]:
        """Sessions to prepare, in order."""
        return sorted(self["missing"] + self["stale"])

    def __str__(self) -> str:
        counts = (f"{len(self[state])} {state}" for state in get_args(State) if self[state])
        return ", ".join(counts).replace("left alone", "left alone (made with other settings)")


def look_at_sessions(
    source: Source,
    store: Store,
    sessions: Sequence[str],
    space: Space | None = DEFAULT_SPACE,
    *,
    bold: BoldConfig | None = None,
    series: SeriesConfig | None = None,
) -> SessionStates:
    """Ask every step how it stands with some sessions (by their keys).

    Betas are those of a space, by their default settings; if it is None, time series are looked at,
    by their default settings or other ones. Nothing is fetched but headers: the store's manifests
    are compared with each other, with the code's versions and with the source's files.

    A SourceError if the source does not answer, or no longer has a file of the experiment's design;
    an ArtifactError if the store does not answer.
    """
    subjects = {layout.parse_session_key(session)[0] for session in sessions}
    bold = bold or BoldConfig()
    on_source = {
        key
        for subject in subjects
        if space
        # As a folder, so that one which is a link to a disk that is away is an error.
        for key in source.list(f"{layout.betas_folder(subject, space)}/")
    }
    tools = Tools(store, lambda: source)
    design = Design(tools).look("")
    steps: list[Step] = []
    if design.manifest is not None:
        settings = {SeriesFiles: bold, Series: series}
        needed = betas_steps(space) if space else SERIES_STEPS
        steps = [step(tools, settings.get(step)) for step in needed]

    def is_on_source(session: str) -> bool:
        if not space:
            return bold.has_session(source, session)
        formats = layout.betas_files(*layout.parse_session_key(session), space)
        return any(on_source.issuperset(files) for files in formats.values())

    def state_of(session: str) -> State:
        if not is_on_source(session):
            return "not on the source"
        if not steps:
            return "missing"
        changes: set[Change | None] = {design.change}
        for step in steps:
            change = _change(step, session)
            if change is Change.MISSING:
                return "missing"
            if change is Change.SETTINGS:
                return "left alone"
            changes.add(change)
        return "up to date" if changes == {None} else "stale"

    # Each is some requests on S3, and there are up to 284 sessions.
    with ThreadPoolExecutor(max_workers=16) as threads:
        states = dict(zip(sessions, threads.map(state_of, sessions), strict=True))
    by_state: dict[State, list[str]] = {}
    for session in sorted(states):
        by_state.setdefault(states[session], []).append(session)
    return SessionStates(by_state)


def _change(step: Step, session: str) -> Change | None:
    try:
        return step.look(session).change
    except (InvalidFileError, ArtifactError) as error:
        # A store or a source that does not answer says nothing about a session.
        if isinstance(error, ArtifactError) and error.remake is None:
            raise
        # It cannot be made now. The run that is started for it says why, where people look.
        return Change.MISSING
