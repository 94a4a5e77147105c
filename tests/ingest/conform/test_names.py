"""Which name of a source is which column of a contract."""

import unicodedata

import pytest

from pipeline_assets.ingest.conform.names import Columns, Keys, clash_text, clashes, renamed, snake_case

NFD = unicodedata.normalize("NFD", "prénom")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("createdAt", "created_at"),
        ("Created At", "created_at"),
        ("created.at", "created_at"),
        ("HTTPStatus", "http_status"),
        ('"quo"ted', "_quo_ted"),
        ("a😀", "a"),
        ("❤️ heart", "_heart"),
        ("😀", "_"),
        ("नाम", "नाम"),
        ("हिन्दी नाम", "हिन्दी_नाम"),
        ("ชื่อ", "ชื่อ"),
        ("ชือ", "ชือ"),
        ("Straße", "straße"),
        ("Prénom", "prénom"),
        (NFD, "prénom"),
        ("名前", "名前"),
        ("_private", "_private"),
        ("x" * 63, "x" * 63),
    ],
)
def test_snake_case_keeps_letters_of_any_script_with_their_marks(name, expected):
    assert snake_case(name) == expected


def test_the_very_name_is_the_column_before_one_that_is_like_it():
    columns = Columns(["id", "Id", "created_at", "Odd Name"])
    assert [columns.column(name) for name in ("id", "Id", "ID", "createdAt", "Odd Name", "odd_name", "x")] == [
        "id", "Id", "Id", "created_at", "Odd Name", "Odd Name", None,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("names", "expected", "clash"),
    [
        (["ID", "createdAt", "other"], ["id", "created_at", "other"], ""),
        (["Id", "id"], ["Id", "id"], ""),
        (["ID", "Id", "created_at"], ["ID", "Id", "created_at"], "'ID' and 'Id' are both id"),
        ([NFD], ["prénom"], ""),
        (["prénom", NFD], ["prénom", NFD], ""),
        (["id", "created_at"], ["id", "created_at"], ""),
    ],
)
def test_a_row_has_the_contracts_names_and_none_is_lost(names, expected, clash):
    keys = Keys.of(["id"], ["id", "created_at", "prénom"])
    assert renamed(names, keys) == expected
    assert clash_text(clashes(names, keys)) == clash


def test_keys_without_a_contract_rename_nothing():
    assert renamed(["ID"], ["id"]) == ["ID"]
    assert clashes(["ID", "Id"], ["id"]) == {}
