"""Errors of change data capture that a run reacts to. The database's own errors are in `ingest.postgres_session`."""

from pipeline_assets.ingest.postgres_session import SourceDatabaseError


class PublicationGapError(SourceDatabaseError):
    """The slot cannot be read to its end: the publication did not exist when something in the slot was committed."""
