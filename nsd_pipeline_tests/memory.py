"""Memory of a test's subprocess: limited from without, measured from within."""

import json
import os
import re
import subprocess
import sys
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


def run_within(ceiling: float, code: str, argument: Path) -> dict[str, int]:
    """Run code that may allocate so many bytes (RLIMIT_DATA); what it prints last, as JSON."""
    limit = f"import resource\nresource.setrlimit(resource.RLIMIT_DATA, 2 * ({ceiling:.0f},))\n"
    done = subprocess.run(
        [sys.executable, "-c", limit + code, str(argument)],
        check=True,
        # Arrow's own allocator reserves 1 GiB at its first use, whatever it then needs.
        env={**os.environ, "ARROW_DEFAULT_MEMORY_POOL": "system"},
        stdout=subprocess.PIPE,
        text=True,
    )
    return json.loads(done.stdout.splitlines()[-1])
