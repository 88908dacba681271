"""Files that appear whole: a kill, a full disk or a power cut leaves the old file or the new one.

For single files. Artifacts of several files are published by a store (``store``).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nsd_pipeline.storage.durable import sync


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a file to write that takes the place of ``path`` if nothing goes wrong.

    Parameters
    ----------
    path
        The file that is to appear, or to be replaced. One process at a time may write it.

    Yields
    ------
    Path
        The file to write, in the same folder. It is removed if an error leaves the block.
    """
    partial = path.with_name(f"{path.name}.partial")
    try:
        yield partial
        # Or the name could be on the disk before the content, and a power cut leave neither.
        sync(partial)
        partial.replace(path)
        sync(path.parent)
    finally:
        partial.unlink(missing_ok=True)
