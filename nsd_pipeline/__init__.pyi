from .artifacts import Artifacts as Artifacts
from .artifacts import TrainedDecoder as TrainedDecoder
from .artifacts import open as open  # noqa: A004 - nsd.open reads well
from .artifacts import to_surface_image as to_surface_image
