"""Figures, tables and the page of the decoding report."""
