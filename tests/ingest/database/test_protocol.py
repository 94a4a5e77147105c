"""Which column of a source is meant by a name of the contract."""

import pytest

from pipeline_assets.ingest.database.errors import DatabaseError
from pipeline_assets.ingest.database.protocol import column_of


def test_the_column_of_the_very_name_is_meant_else_the_only_one_like_it():
    assert column_of(["Id", "id"], "id", "a table") == "id"
    assert column_of(["createdAt", "id"], "created_at", "a table") == "createdAt"
    assert column_of(["created_at", "id"], "createdAt", "a table") == "created_at"
    with pytest.raises(DatabaseError, match="a table: ID and Id are both id: name one of them otherwise, with AS"):
        column_of(["ID", "Id"], "id", "a table")
    with pytest.raises(DatabaseError, match="a table has no column id: it has x"):
        column_of(["x"], "id", "a table")
