"""Where things are, as people write it: a folder, a bucket, and nothing else.

What is not understood is refused: a folder named ``gs:`` would fill with data that nobody finds.
"""

import re
from contextlib import suppress
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from nsd_pipeline.errors import NsdError

_SCHEME: Final = re.compile(
    r"([a-z][a-z0-9+.-]*):(?=[/\\])|(s3[an]?|gs|gcs|az|abfss?|file|https?|s?ftp|ssh|hf):", re.I
)
"""Start of a URL, of a drive or of a remote place; a folder may well have a colon in its name."""


def parse_place(text: str | Path, *, what: str) -> Path | str:
    """Understand the name of a place.

    Parameters
    ----------
    text
        A folder, also with ``~`` or as ``file:///folder``, or ``s3://bucket/prefix``.
    what
        The setting that names it, for messages.

    Returns
    -------
    Path or str
        The folder; or the bucket, which starts with ``s3://``.

    Raises
    ------
    NsdError
        If it is none of these.
    """
    text = str(text).strip()
    found = _SCHEME.match(text)
    scheme = (found[1] or found[2]).lower() if found else ""
    rest = text[len(scheme) + 1 :]
    if scheme == "s3" and rest.startswith("//"):
        return f"s3:{rest}"
    if scheme == "file":
        with suppress(ValueError):  # a host in brackets, which is no place anyway
            url = urlsplit(text)
            path = unquote(url.path + (f"#{url.fragment}" if url.fragment else ""))
            local = url.netloc in ("", "localhost") and path.startswith("/")
            if local and "?" not in text and "\0" not in path:
                return Path(path)
    if scheme or not text or "\0" in text:
        raise _not_understood(text, what)
    try:
        return Path(text).expanduser()
    except RuntimeError as error:  # ~somebody whom this machine does not know
        raise _not_understood(text, what) from error


def parse_folder(text: str | Path, *, what: str) -> Path:
    """Understand the name of a folder of this machine.

    Raises
    ------
    NsdError
        If it is not one.
    """
    place = parse_place(text, what=what)
    if isinstance(place, Path):
        return place
    raise NsdError(
        f"{what} is {text!s}, but has to be a folder of this machine.",
        next_step="copy or mount it, and name that folder.",
    )


def parse_model(text: str, *, what: str) -> str:
    """Understand the name of a model: a folder, or else the Hugging Face Hub's ``owner/name``.

    Raises
    ------
    NsdError
        If it is a URL of something else than a folder.
    """
    if _SCHEME.match(text.strip()) or text.startswith("~"):
        return str(parse_folder(text, what=what))
    return text


def _not_understood(text: str, what: str) -> NsdError:
    return NsdError(
        f"{what} is {text!r}, which is neither a folder nor s3://bucket/prefix.",
        next_step="write /folder, ~/folder, file:///folder or, where a bucket can be, "
        "s3://bucket/prefix. A folder that really has such a name is written "
        f"./{text or 'folder'}; a model on the Hugging Face Hub is owner/name.",
    )
