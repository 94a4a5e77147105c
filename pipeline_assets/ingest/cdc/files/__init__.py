"""Landed files of change records into the change tables of several source tables.

`plan` decides what to read, `ingest` reads and commits.
"""
