"""Measures every stage against a named alternative: ``python -m nsd_pipeline.bench``.

A row states what is compared on which inputs (`surface`, `transfer`, `embeddings`, `training`,
`metrics`, `graph`); `harness` runs it and `report` shows it. Every side of a row has a process of
its own, so that memory can be told apart, and results are compared before a time counts.
"""
