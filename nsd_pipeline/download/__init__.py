"""Which bytes of NSD a step needs, and how they get here.

Stands between ``nsd`` (what the files are) and ``storage`` (how bytes move).
"""
