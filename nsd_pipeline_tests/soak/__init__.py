"""Random trials of what must never fail: short in the test suite, long by ``make soak``."""
