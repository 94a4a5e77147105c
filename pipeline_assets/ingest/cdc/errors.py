"""The error of everything that reads a database's changes. Nothing else lives here."""


class CdcError(Exception):
    """A database cannot be read as declared. The message says which, why and what to do, and never holds a password."""


class PublicationGapError(CdcError):
    """The slot cannot be read through: the publication was missing when something in it was committed."""
