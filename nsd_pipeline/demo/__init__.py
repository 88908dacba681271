"""A small made-up dataset in NSD's exact layout, to try and to test everything without NSD's data.

:func:`generate` writes pictures, experiment design, answers and betas in which a brain responds to
the pictures; :func:`write_tiny_encoder` writes an image encoder small enough for any machine. What
belongs here knows NSD's formats and nothing of the pipeline: the pipeline must not be able to tell
this dataset from the real one.
"""

from nsd_pipeline.demo.dataset import DemoDataset, generate
from nsd_pipeline.demo.experiment import DemoSettings
from nsd_pipeline.demo.tiny_encoder import write_tiny_encoder

__all__ = ["DemoDataset", "DemoSettings", "generate", "write_tiny_encoder"]
