"""Landing files into bronze: which files of a day are new (`plan`), reading them, and the commit (`ingest`).

The file formats are in `ingest.formats`.
"""
