"""Backfills by the clock: a schedule per subject that prepares what is left of its sessions.

All are off until turned on, in the web UI or by ``NSD_BACKFILL_SUBJECTS``. The sensor ``carry_on``
does the rest: embeddings, models, metrics.
"""

import os
from collections.abc import Mapping
from typing import Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import dagster as dg
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from nsd_pipeline import partitions
from nsd_pipeline.dagster_private import partition_span, range_tags
from nsd_pipeline.errors import NsdError
from nsd_pipeline.launchers import run_processes
from nsd_pipeline.nsd.layout import SUBJECTS
from nsd_pipeline.nsd.session_lists import parse_sessions, sessions_of
from nsd_pipeline.resources import SourceResource, StoreResource
from nsd_pipeline.steps.sessions import look_at_sessions

_PREFIX = "NSD_BACKFILL_"
_ENDED = ("SUCCESS", "FAILURE", "CANCELED")
_NOT_ENDED = [status for status in dg.DagsterRunStatus if status.value not in _ENDED]


class BackfillSettings(BaseModel):
    """Which sessions are backfilled when; each is read from ``NSD_BACKFILL_<NAME>``.

    Schedules of `subjects` (separated by commas), and the sensor ``carry_on``, run unless somebody
    turns them off in the web UI. They are about `sessions`, such as ``1-10,15``, and run at `cron`
    in a time zone. One run prepares `sessions_per_run` consecutive ones. One that fails holds up
    the others of its run until the next tick; more than 1 saves the start of a process, or the wait
    for a cluster.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    subjects: str = ""
    sessions: str = "all"
    cron: str = "0 1 * * *"
    timezone: str = "UTC"
    sessions_per_run: int = Field(default=1, ge=1)

    @field_validator("subjects")
    @classmethod
    def _check_subjects(cls, text: str) -> str:
        unknown = [name for name in text.replace(" ", "").split(",") if name not in (*SUBJECTS, "")]
        if unknown:
            raise ValueError(f"NSD has no {unknown[0]}; subjects are {', '.join(SUBJECTS)}")
        return text

    @field_validator("sessions")
    @classmethod
    def _check_sessions(cls, text: str) -> str:
        parse_sessions(text)
        return text

    @field_validator("cron")
    @classmethod
    def _check_cron(cls, text: str) -> str:
        try:
            dg.ScheduleDefinition(job_name="session", cron_schedule=text)
        except dg.DagsterInvalidDefinitionError as error:
            raise ValueError("it is not a cron expression such as 0 1 * * *") from error
        return text

    @field_validator("timezone")
    @classmethod
    def _check_timezone(cls, text: str) -> str:
        try:
            ZoneInfo(text)
        except (ValueError, ZoneInfoNotFoundError) as error:
            raise ValueError("there is no such time zone; write it like Europe/Berlin") from error
        return text

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Self:
        """Read the settings from environment variables; an NsdError if one has no such value."""
        given = {
            name: value
            for name in cls.model_fields
            if (value := environment.get(_PREFIX + name.upper())) is not None
        }
        try:
            return cls.model_validate(given)
        except ValidationError as error:
            first = error.errors()[0]
            variable = _PREFIX + str(first["loc"][0]).upper()
            raise NsdError(
                f"{variable}={first['input']!r}: {first['msg']}.",
                next_step=f"correct {variable} or unset it.",
            ) from error

    @property
    def running(self) -> tuple[str, ...]:
        """Subjects whose schedules run by default."""
        return tuple(filter(None, self.subjects.replace(" ", "").split(",")))


def backfill_schedule(subject: str, settings: BackfillSettings) -> dg.ScheduleDefinition:
    """Schedule that prepares what is missing or stale of one subject's sessions.

    A tick looks at the store and at the source, and launches a run for every session (or stretch of
    sessions) that is left. A session that fails does not stop the others; the next tick finds it
    still missing, and launches it alone. Sessions that another run is preparing are left to it, but
    not those of a shell's run whose process is gone.
    """

    @dg.schedule(
        name=f"backfill_{subject}",
        job_name="session",
        cron_schedule=settings.cron,
        execution_timezone=settings.timezone,
        default_status=(
            dg.DefaultScheduleStatus.RUNNING
            if subject in settings.running
            else dg.DefaultScheduleStatus.STOPPED
        ),
        description=f"Prepares the sessions of {subject} ({settings.sessions}) that are missing or"
        f" stale, {settings.sessions_per_run} a run. Set {_PREFIX}SESSIONS, {_PREFIX}CRON,"
        f" {_PREFIX}TIMEZONE or {_PREFIX}SESSIONS_PER_RUN to change that.",
    )
    def backfill(
        context: dg.ScheduleEvaluationContext, source: SourceResource, store: StoreResource
    ) -> list[dg.RunRequest] | dg.SkipReason:
        states = look_at_sessions(
            source.open(), store.open(), sessions_of(subject, settings.sessions)
        )
        under_way = _under_way(context)
        to_do = [session for session in states.to_do if session not in under_way]
        message = f"{subject}: {states}" + (f", {len(under_way)} under way" if under_way else "")
        context.log.info(message)
        if not to_do:
            return dg.SkipReason(message)
        tick = context.scheduled_execution_time
        return [
            dg.RunRequest(
                f"{tick:%Y-%m-%dT%H:%M}:{first}",
                partition_key=first if first == last else None,
                tags=None if first == last else range_tags(first, last),
            )
            for first, last in partitions.ranges(to_do, settings.sessions_per_run)
        ]

    return backfill


def _under_way(context: dg.ScheduleEvaluationContext) -> set[str]:
    """Sessions that a run which has not ended, or not begun, is for.

    A run of a shell whose process was killed would never end: it is ended here.
    """
    found: set[str] = set()
    for run in context.instance.get_runs(dg.RunsFilter(statuses=_NOT_ENDED)):
        span = partition_span(run)
        if not (span and set(span) <= set(partitions.SESSIONS)):
            continue
        host = run_processes.signed_host(run)
        if host is not None and run_processes.end_if_gone(context.instance, run):
            context.log.warning(f"Run {run.run_id} of {span[0]} had no process left; it has ended.")
            continue
        if host is not None and run_processes.is_elsewhere(run.tags):
            context.log.info(
                f"{span[0]} is left to run {run.run_id}, whose process is on {host}, out of sight"
                " from here. If it is gone, terminate the run."
            )
        found |= partitions.between(*span)
    return found
