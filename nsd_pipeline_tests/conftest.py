"""What holds for every test."""

import os

import hypothesis

# How long an example takes depends on the machine and says nothing about the code.
hypothesis.settings.register_profile("default", deadline=None, max_examples=50)
hypothesis.settings.load_profile("default")

# No test may reach beyond this machine, whatever the environment says.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["AWS_EC2_METADATA_DISABLED"] = "true"
os.environ.pop("NSD_ACCEPT_TERMS", None)
