"""The environment of every test: importing this sets it, before anything of the package reads it.

Processes that tests start are given what they need, and do not import this.
"""

import os

# No test looks at the data or settings of whoever starts it, such as the demo's.
for name in ("ACCEPT_TERMS", "SOURCE", "STORAGE", "ENCODER", "EXPERIMENTS"):
    os.environ.pop(f"NSD_{name}", None)
# No test may reach beyond this machine.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["AWS_EC2_METADATA_DISABLED"] = "true"
