"""What NSD is: its layout and design, and for each kind of file how it is fetched and read.

- ``layout``: names and numbers. ``design``, ``mapping``: which image each trial showed.
- Betas: ``fsaverage_betas`` (``mgh``), ``space_betas`` (``nifti``, ``hdf5``, ``voxel_chunks``).
- Time series: ``series_runs``, of ``nsd_series`` or of ``bids`` (file names: ``bids_names``).
- ``stimuli``: the photos. ``small_files``: transforms, labels. ``text_tables``: text of any kind.

Nothing here knows what is done with the data later.
"""
