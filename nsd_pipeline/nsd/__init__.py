"""What NSD is: its layout, its experiment design, and readers of its files.

Nothing here knows what is done with the data later.
"""
