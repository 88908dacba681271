"""What people ask for by name: one job for each way in which the graph is cut."""

import dagster as dg

session = dg.define_asset_job(
    "session",
    selection=dg.AssetSelection.assets("betas", "events", "fsaverage_events", "fsaverage5_betas"),
    description="Download and prepare sessions: from the bucket to fsaverage5 betas.",
)

embed = dg.define_asset_job(
    "embed",
    selection=dg.AssetSelection.assets("stimuli", "stimulus_embeddings"),
    description="Fetch and embed the images that the sessions at hand showed.",
)

decode = dg.define_asset_job(
    "decode",
    selection=dg.AssetSelection.assets("fmri_mlp", "retrieval_metrics"),
    description="Train a cohort's model on the sessions at hand and measure its retrieval.",
)

jobs = [session, embed, decode]
