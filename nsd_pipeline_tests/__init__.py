"""The tests, in the folders of what they test."""

import os

# No test looks at the data or settings of whoever starts it, such as the demo's. Here, because some
# are read when the package is imported.
for name in ("ACCEPT_TERMS", "SOURCE", "STORAGE", "ENCODER", "EXPERIMENTS"):
    os.environ.pop(f"NSD_{name}", None)
