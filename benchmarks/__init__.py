"""Measures every stage against a named alternative: ``python -m benchmarks``.

Run from the repository's folder: this is no part of the package that is installed, and it needs the
development packages and the servers of the tests.

A row states what is compared on which inputs (`surface`, `transfer`, `embeddings`, `training`,
`metrics`, `graph`); `harness` runs it and `report` shows it. Every side of a row has a process of
its own, so that memory can be told apart, and results are compared before a time counts.
"""
