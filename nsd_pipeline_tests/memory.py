"""Peak memory of a test's subprocess, measured from within it."""

import re
from pathlib import Path


def peak_bytes() -> int:
    """Largest resident size of this process since it was started.

    Not ``getrusage``: its figure starts at the size of the process that forked this one, and
    pytest is large.
    """
    status = Path("/proc/self/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found, "Linux tells the peak of a process as VmHWM"
    return int(found[1]) * 1024
