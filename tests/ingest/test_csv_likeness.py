"""Lines look like records unless all of them have what no records have."""

import pytest

from pipeline_assets.ingest.csv_likeness import are_like


@pytest.mark.parametrize(
    ("lines", "around", "expected"),
    [
        pytest.param([[b"1", b"a"], [b"2", b"b"]], [[b"7", b"x"]], True, id="the same"),
        pytest.param([[b"1", b"a"], [b"2", b"b"]], [[b"c7", b"x"]], False, id="digits, and text around"),
        pytest.param([[b"a", b""], [b"b", b""]], [[b"c", b"x"]], False, id="empty, and filled around"),
        pytest.param([[b"a", b""], [b"b", b""]], [[b"c", b"x"], [b"d", b""]], True, id="empty, as half around"),
        pytest.param([[b"a", b""], [b"b", b"y"], [b"c", b"y"]], [[b"c", b"x"]], True, id="one is empty"),
        pytest.param([[b"a", b" b"]], [[b"c", b"x"]], False, id="prose"),
        pytest.param([[b"a", b""]], [[b"c", None]], False, id="empty, and nothing is known"),
        pytest.param([[b"a", b"1"]], [[b"c", None]], True, id="filled, and nothing is known"),
    ],
)
def test_lines_are_like_records(lines, around, expected):
    assert are_like(lines, around, 2) is expected
