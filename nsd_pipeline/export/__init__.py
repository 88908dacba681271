"""Trained models and what they retrieve, in files for programs that are not ours.

What leaves the store is what NSD's terms let one pass on, or says that it must not be passed on.
Nothing here is an artifact: it can be made again from the store at any time.
"""

from nsd_pipeline.export.export_folder import Exported, write_export
from nsd_pipeline.export.formats import FORMATS, may_be_passed_on
from nsd_pipeline.export.model_to_export import ModelToExport

__all__ = ["FORMATS", "Exported", "ModelToExport", "may_be_passed_on", "write_export"]
