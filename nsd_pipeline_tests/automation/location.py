"""The graph as a code location of its own, so that a test's environment decides what it is."""

import os

from nsd_pipeline.definitions import build_defs

defs = build_defs(os.environ["NSD_SOURCE"], os.environ["NSD_STORAGE"])
