"""A folder that appears whole, and takes no other's place than that of an export before it."""

import json
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from nsd_pipeline.errors import NsdError
from nsd_pipeline.export.formats import FORMATS, may_be_passed_on
from nsd_pipeline.export.model_to_export import ModelToExport
from nsd_pipeline.storage.damage import sha256_of
from nsd_pipeline.storage.disk import exchange, sync_tree

RECORD_FILE: Final = "nsd_export.json"
"""Says what a folder was exported from, and what its files were: by it an export is known."""


@dataclass(frozen=True)
class Exported:
    """What was written: the size in bytes of each file, and what may be done with them."""

    folder: Path
    format: str
    files: Mapping[str, int]
    terms: str


def write_export(model: ModelToExport, to: str, output: Path) -> Exported:
    """Write models, or what they retrieve, to a folder.

    Parameters
    ----------
    model
        Whose.
    to
        One of `FORMATS`.
    output
        The folder. If it is there it has to be empty, or an export that nobody changed: that is
        replaced when the new one is complete.

    Raises
    ------
    NsdError
        If something else lies there, or the models cannot be written in that format.
    ArtifactError
        If what is needed of the store is missing or damaged.
    """
    output = output.resolve()  # or a link would be replaced, and not what it leads to
    replaced, terms = _may_replace(output), may_be_passed_on(model, to)
    output.parent.mkdir(parents=True, exist_ok=True)
    beside = output.with_name(f".{output.name}.{uuid.uuid4().hex[:8]}")
    beside.mkdir()
    try:
        FORMATS[to](model, beside, terms)
        record = {"format": to, **model.provenance(), "terms": terms, "files": _digests(beside)}
        (beside / RECORD_FILE).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        sync_tree(beside)
        if replaced:
            exchange(beside, output, aside=beside.with_name(f"{beside.name}~"))
        else:
            beside.rename(output)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    files = {name: (output / name).stat().st_size for name in [*record["files"], RECORD_FILE]}
    return Exported(output, to, files, terms)


def _may_replace(output: Path) -> bool:
    """Whether an unchanged export lies there; False if nothing does, an error for anything else."""
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return False
    try:
        record: Any = json.loads((output / RECORD_FILE).read_text(encoding="utf-8"))
        known = record["files"]
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError) as error:
        raise NsdError(
            f"{output} is there, and is no export of this command: it has no valid {RECORD_FILE}.",
            next_step="name a folder that is not there yet.",
        ) from error
    if _digests(output) != known:
        raise NsdError(
            f"{output} is an export that somebody has changed since: files were added, edited or"
            " taken away.",
            next_step="name another folder, or delete this one if nobody needs it.",
        )
    return True


def _digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of an export but its record."""
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*"))}
    return {
        name: sha256_of(path)
        for name, path in files.items()
        if path.is_file() and name != RECORD_FILE
    }
