"""The Dagster assets, one module per group: read, call the domain, write, report. No computation."""
