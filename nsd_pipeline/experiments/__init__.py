"""Experiments: what is trained and compared, each a few lines of a YAML file."""

from nsd_pipeline.experiments.entry import DEFAULT, Experiment
from nsd_pipeline.experiments.file import chosen_file, json_schema, read_experiments

__all__ = ["DEFAULT", "Experiment", "chosen_file", "json_schema", "read_experiments"]
