"""What makes each artifact: one file a stage, and what a step is in `step`."""
