"""The Natural Scenes Dataset, from its S3 bucket to a trained fMRI -> image retrieval model.

The folders, in the order in which data flows through them:

- ``nsd``: what the dataset is: where its files lie, how they are laid out, what was shown when.
- ``storage``: where bytes come from, how they are fetched, where artifacts go.
- ``events``, ``surface``, ``embeddings``, ``decoding``, ``evaluation``, ``report``: the method, in
  plain Python.
- ``steps``, ``resources``, ``launchers``: the same as a Dagster graph; ``definitions`` shows it
  whole.
- ``demo``: generates a small dataset in the exact layout of the real one.

In a notebook, ``nsd_pipeline.open("artifacts")`` hands out what was made: see ``artifacts``. Names
are imported when they are first used; which there are says ``__init__.pyi``.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
