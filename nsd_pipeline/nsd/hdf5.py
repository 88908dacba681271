"""What an HDF5 file of NSD's may be made of: nothing that lies in another file.

HDF5 can place a dataset in any other file of the machine, by a link, by external storage or by a
virtual dataset. NSD's files do not, so one that does is not NSD's, and would read what somebody
else chose.
"""

from typing import TYPE_CHECKING, Any

from nsd_pipeline.errors import InvalidFileError

if TYPE_CHECKING:
    import h5py

_NEXT_STEP = "use NSD's own file: download it again, or point the mirror to a whole copy."


def own_member(file: "h5py.File", member: str, *, name: str) -> Any:
    """Get a member of a file, if all of it lies in that file.

    Parameters
    ----------
    file
        The file.
    member
        Name of a member of its root.
    name
        What to call the file in an error.

    Returns
    -------
    object
        A dataset or a group; None if there is no such member.

    Raises
    ------
    InvalidFileError
        If the member, or its data, lies in another file.
    """
    import h5py

    if isinstance(file.get(member, getlink=True), h5py.ExternalLink):
        raise _elsewhere(name, member, "is a link to another file")
    found = file.get(member)
    if isinstance(found, h5py.Dataset):
        if found.external:
            raise _elsewhere(name, member, "has its data in another file (external storage)")
        if found.is_virtual:
            raise _elsewhere(name, member, "is put together from other datasets (virtual)")
    return found


def _elsewhere(name: str, member: str, problem: str) -> InvalidFileError:
    return InvalidFileError(f"{name}: {member} {problem}.", next_step=_NEXT_STEP)
