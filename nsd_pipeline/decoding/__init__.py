"""Decoding: from surface fMRI to the embedding of the image that was seen.

The model, its loss, the trials it learns from, training it and predicting with it. Nothing here
reads NSD's files or knows what artifacts are called.

Names are imported when they are first used, because most of them need torch, which takes seconds to
import. Which names there are, and from which module, says ``__init__.pyi``.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
