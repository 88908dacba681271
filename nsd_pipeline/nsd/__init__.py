"""What NSD is: its layout, its experiment design, and readers of its files.

Nothing here knows where bytes come from, what is done with them later, or that Dagster exists.
"""
