"""Errors of change data capture that a run reacts to. The database's own are in `ingest.postgres_session`."""

from pipeline_assets.ingest.postgres_session import SourceDatabaseError


class PublicationGapError(SourceDatabaseError):
    """The slot cannot be read through: the publication was missing when something in it was committed."""
