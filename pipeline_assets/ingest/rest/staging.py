"""The pages of one poll, collected before anything of them is committed: are they complete, and what came twice?

Pages lie in temporary tables of DuckDB, which spills to disk what exceeds its memory. `api` gives the pages, `poll`
decides what becomes of the records.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import duckdb
import pyarrow as pa

from pipeline_assets.contracts.base import RawColumn, raw_shape
from pipeline_assets.ingest.batch.watermark import Watermark
from pipeline_assets.ingest.conform import casts, json_records
from pipeline_assets.ingest.conform.conform import match_fields
from pipeline_assets.ingest.conform.fields import SourceField
from pipeline_assets.ingest.rest.answer import Answer
from pipeline_assets.ingest.rest.errors import IncompleteError, RestError
from pipeline_assets.ingest.rest.source import Offset, PageNumber, RestSource

_PAGES, _RECORDS = "rest_pages", "rest_records"
# A server may filter pages empty while a cursor leads on, but not for ever.
_EMPTY_PAGES = 1_000


@dataclass(frozen=True)
class Staged:
    """The records of all pages, as `conform.RecordSet` describes them. They live until the next poll on the connection.

    Attributes:
        sql: One row for each record that is not an older version.
        fields: Names found in the records.
        pages: How many answers there were.
        received: Records in them.
        older_versions: Number of records that were left out for another record of the same key.
        total: The least number of records that the API promised; None if it promised no number.
        has_problems: Whether some of the texts may not be records.
    """

    sql: str
    fields: tuple[SourceField, ...]
    pages: int
    received: int
    older_versions: int
    total: int | None
    has_problems: bool = True

    @property
    def distinct(self) -> int:
        """Number of records to be written."""
        return self.received - self.older_versions


def stage(con: duckdb.DuckDBPyConnection, source: RestSource, answers: Iterable[Answer]) -> Staged:
    """Read all pages.

    Of records with the same key, the one with the newest watermark stays, otherwise the one that came last.
    An older version must not pass for the present one, even if the newer one is a dead letter.

    Raises:
        IncompleteError: The pages are not complete.
        RestError: A page cannot be read.
    """
    pages, received, total = _take_in(con, source, answers)
    records = json_records.record_set(con, _PAGES)
    if len(records.fields) > json_records.MAX_FIELDS:
        raise RestError(f"{len(records.fields)} different fields, more than {json_records.MAX_FIELDS}")
    _find_older_versions(con, source, records)
    found = con.execute(f"SELECT count(*) FROM {_RECORDS} WHERE _is_older").fetchone()
    staged = Staged(
        f"SELECT * EXCLUDE (_is_older, _watermark) FROM {_RECORDS} WHERE NOT _is_older",
        records.fields,
        pages,
        received,
        int(found[0]) if found else 0,
        total,
    )
    if total is not None and staged.distinct < total:
        raise IncompleteError(
            f"{staged.distinct} different records came on {pages} pages, {total} were promised; is the "
            "pagination declared as the API has it?"
        )
    return staged


def watermarks(con: duckdb.DuckDBPyConnection, mark: Watermark) -> tuple[int | None, int | None]:
    """Give the positions of the least and the greatest watermark among the staged records; None if there are none."""
    value = "epoch_us(_watermark::TIMESTAMP)" if mark.is_time else "_watermark::BIGINT"
    found = con.execute(f"SELECT min({value}), max({value}) FROM {_RECORDS}").fetchone()
    return found or (None, None)


def digest(con: duckdb.DuckDBPyConnection, source: RestSource) -> int:
    """Give a number that changes with the staged records or the contract, but not with the order of the records."""
    found = con.execute(
        f"SELECT coalesce(sum(md5_number_lower(_text)::HUGEINT), 0)::VARCHAR FROM {_RECORDS} WHERE NOT _is_older"
    ).fetchone()
    content = f"{found} {raw_shape(source.model)} {source.schema_evolution}"
    return int.from_bytes(hashlib.sha256(content.encode()).digest()[:7], "big")


def _take_in(
    con: duckdb.DuckDBPyConnection, source: RestSource, answers: Iterable[Answer]
) -> tuple[int, int, int | None]:
    """Store the records of all pages. Give the numbers of pages and records, and the least total that was named."""
    con.execute(f"CREATE OR REPLACE TEMP TABLE {_PAGES} (_text VARCHAR)")
    by_number = isinstance(source.pagination, PageNumber)
    may_shift = by_number or isinstance(source.pagination, Offset)
    seen: dict[bytes, int] = {}
    number = received = received_until = empty = 0
    total: int | None = None
    for number, answer in enumerate(answers, 1):
        if answer.total is not None:
            if may_shift and total is not None and answer.total < total:
                raise IncompleteError(
                    f"the total went from {total} down to {answer.total} while paging: what moved up "
                    "in the meantime was passed over"
                )
            total = answer.total if total is None else min(total, answer.total)
        empty = 0 if answer.records else empty + 1
        if empty > _EMPTY_PAGES:
            raise RestError(f"{empty} pages in a row without a record; the API seems not to end")
        if not answer.records:
            continue
        if by_number and total is None and number > received_until + 1:
            raise IncompleteError(
                f"page {received_until + 1} was empty, page {number} is not: records may be missing; "
                "declare `total`, if the API tells it, so that this can be known"
            )
        received_until = number
        received += len(answer.records)
        content = hashlib.sha256("\n".join(answer.records).encode()).digest()
        if content in seen:
            raise IncompleteError(
                f"page {number} holds the same records as page {seen[content]}; does the API know the "
                "declared parameters of its pagination? If it sends its last page for ever, declare `total`"
            )
        seen[content] = number
        con.register("rest_page", pa.table({"_text": pa.array(answer.records, pa.string())}))
        con.execute(f"INSERT INTO {_PAGES} SELECT _text FROM rest_page")
        con.unregister("rest_page")
    return number, received, total


def _find_older_versions(con: duckdb.DuckDBPyConnection, source: RestSource, records: json_records.JsonRecords) -> None:
    """Store the records with `_is_older` and `_watermark`."""
    fields = records.fields
    shape = raw_shape(source.model)
    matched = match_fields(fields, shape).matched
    mark = source.watermark
    columns = [column for column in shape.columns if column.name in {*source.keys, *([mark.column] if mark else [])}]
    texts, values = [], {}
    for at, column in enumerate(columns):
        texts.append(f"{_text_of(matched.get(column.name, ()))} AS _t{at}")
        values[column.name] = _value_of(f"_t{at}", column)
    keys = [values[key] for key in source.keys]
    known = " AND ".join(f"{key} IS NOT NULL" for key in keys)
    watermark = values[mark.column] if mark else "NULL"
    newest = f"PARTITION BY {', '.join(keys)} ORDER BY {watermark} DESC NULLS LAST, _line DESC"
    names = "".join(f", {field.column}" for field in fields)
    con.execute(
        f"""CREATE OR REPLACE TEMP TABLE {_RECORDS} AS
        SELECT _line, _text, _problem{names}, {watermark} AS _watermark,
            {known} AND row_number() OVER ({newest}) > 1 AS _is_older
        FROM (SELECT *, {", ".join(texts)} FROM ({records.sql}))"""
    )


def _text_of(fields: tuple[SourceField, ...]) -> str:
    """Give the SQL of a field's text, in whichever spelling the record has it."""
    return f"coalesce({', '.join([casts.json_text(field.column) for field in fields])})" if fields else "NULL::VARCHAR"


def _value_of(text: str, column: RawColumn) -> str:
    """Give the SQL of the value that a row would have: records of one key may spell it differently."""
    dtype = casts.normal(column.dtype)
    return text if dtype == "VARCHAR" else casts.from_text(f"nullif({casts.trimmed(text)}, '')", dtype)
