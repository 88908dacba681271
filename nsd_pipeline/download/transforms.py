"""NSD's coordinate transforms of one subject: small files, needed once a subject and space."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from nsd_pipeline.download.small_files import local_file
from nsd_pipeline.download.volumes import volume_shape
from nsd_pipeline.errors import SourceError
from nsd_pipeline.nsd.layout import Space
from nsd_pipeline.nsd.spaces import valid_prefix
from nsd_pipeline.storage.source import ObjectInfo, Source
from nsd_pipeline.surface.nsd_transforms import transform_keys


@dataclass(frozen=True)
class Transforms:
    """The transforms from one space to a subject's cortex and on to fsaverage, on the source.

    Attributes
    ----------
    objects
        Every file, by its key.
    volume_shape
        Voxels along each axis of the space; None for a native surface.
    """

    objects: Mapping[str, ObjectInfo]
    volume_shape: tuple[int, int, int] | None


def find_transforms(source: Source, subject: str, space: Space) -> Transforms:
    """Find the transforms of a subject, and the shape of the volumes that they are for.

    Raises
    ------
    SourceError
        If the source lacks one of the files, or every mask that would tell the shape.
    InvalidFileError
        If the mask is not one.
    """
    objects = {key: source.describe(key) for key in transform_keys(subject, space)}
    if space == "nativesurface":
        return Transforms(objects, None)
    prefix = valid_prefix(subject, space)
    masks = [key for key in source.list(prefix) if key.endswith(".nii.gz")]
    if not masks:
        raise SourceError(
            f"{source.url} has no {prefix}*.nii.gz, which says how large {space} of {subject} is.",
            next_step="add the masks of that folder to the mirror, or set NSD_SOURCE to a source"
            " that has them.",
        )
    return Transforms(objects, volume_shape(source, source.describe(masks[0])))


def copy_transforms(source: Source, found: Transforms, folder: Path) -> dict[str, Path]:
    """Copy the files into a folder, unless a mirror has them on this machine: paths by key."""
    return {key: local_file(source, info, folder) for key, info in found.objects.items()}
