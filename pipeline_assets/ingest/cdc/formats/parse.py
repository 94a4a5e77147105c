"""The formats of records by name, so that files, Kafka and replays choose a parser in the same way."""

from collections.abc import Mapping, Sequence
from typing import Literal

from pipeline_assets.ingest.cdc.events import ChangeEvent, Reject
from pipeline_assets.ingest.cdc.formats import debezium, maxwell
from pipeline_assets.ingest.cdc.formats.documents import Raw

Format = Literal["debezium", "maxwell"]


def parse(
    record_format: Format, value: Raw, key: Raw = None, *, origin: str, place: int, keys: Mapping[str, Sequence[str]]
) -> Sequence[ChangeEvent | Reject]:
    """Parse a record of some format: into one event, two for a changed key, or a reject; nothing if it has no data."""
    if record_format == "maxwell":
        found = maxwell.parse(value, key, origin=origin, place=place, keys=keys)
        if isinstance(found, list):
            return found
        return [found] if found else []
    event = debezium.parse(value, key, origin=origin, place=place, keys=keys)
    return [event] if event else []
