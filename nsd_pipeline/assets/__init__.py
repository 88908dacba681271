"""The Dagster assets, one module per group: read, call the domain, write. No computation."""
