"""Places in a binary log as numbers."""

import pytest

from pipeline_assets.ingest.cdc.formats import binlog
from pipeline_assets.ingest.cdc.formats.documents import RefusedError


def test_positions_grow_with_the_log() -> None:
    places = [("mysql-bin.000001", 4), ("mysql-bin.000001", 2**32), ("mysql-bin.000002", 4), ("b.c.999999", 4)]
    places += [("b.1000000", "4"), ("b.8388607", 2**40 - 1)]
    found = [binlog.position(file, offset) for file, offset in places]
    assert found == sorted(set(found))
    assert found[-1] == 2**63 - 1


@pytest.mark.parametrize(
    ("file", "offset"),
    [
        (None, 4),
        ("", 4),
        ("mysql-bin", 4),
        ("b.00000x", 4),
        ("b.1", None),
        ("b.1", -1),
        ("b.1", 2**40),
        ("b.8388608", 4),
        ("b." + "9" * 500, 4),
        (7, 4),
    ],
)
def test_what_is_no_place_is_refused(file: object, offset: object) -> None:
    with pytest.raises(RefusedError, match="is not a place in a binary log"):
        binlog.position(file, offset)
