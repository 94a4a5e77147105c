"""One SELECT that turns records into rows of a contract's raw shape, or says why they do not fit.

Holds field matching and faithful casts. Records are read in `ingest.files.formats`, `ingest.database` and
`ingest.rest`; dead letters are kept by `ingest.batch`.

A cast is faithful if no information is lost. DuckDB's own casts round ('1.5' to BIGINT is 2), drop time zones and
accept '1_000' and '0x1F' as numbers. Here each of these makes the record a dead letter.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime

from pipeline_assets.contracts.base import RawColumn, RawShape
from pipeline_assets.ingest.conform import casts, json_text
from pipeline_assets.ingest.conform.fields import RecordSet, SourceField
from pipeline_assets.ingest.conform.names import Columns, snake_case
from pipeline_assets.sql import quote_name, quote_text

TECHNICAL_COLUMNS: tuple[RawColumn, ...] = (
    RawColumn("_partition_date", "DATE", True, "Landing date in the file's path; the partition."),
    RawColumn("_batch_id", "VARCHAR", True, "Content id of the file: hash of its bytes and their number."),
    RawColumn("_extracted_at", "TIMESTAMP WITH TIME ZONE", True, "Modification time of the file, UTC."),
    RawColumn(
        "_source", "STRUCT(file VARCHAR, line BIGINT)", True, "File below the landing root, line in it, 1-based."
    ),
    RawColumn("_rescued", "VARCHAR", False, "JSON object of the fields that the contract does not know."),
)

# Column type by the field's type. Delta has no unsigned integers, and few engines read its nanoseconds; nested values,
# times and intervals stay in `_rescued`.
_COLUMN_TYPES = {
    **{kind: kind for kind in ("BOOLEAN", "TINYINT", "SMALLINT", "INTEGER", "BIGINT", "FLOAT", "DOUBLE", "VARCHAR")},
    **{kind: kind for kind in ("DATE", "TIMESTAMP", "TIMESTAMP WITH TIME ZONE")},
    **dict.fromkeys(("TIMESTAMP_S", "TIMESTAMP_MS", "TIMESTAMP_NS"), "TIMESTAMP"),
    "JSON": "VARCHAR",
    "UTINYINT": "SMALLINT",
    "USMALLINT": "INTEGER",
    "UINTEGER": "BIGINT",
    "UBIGINT": "DECIMAL(20,0)",
}


@dataclass(frozen=True)
class Matching:
    """Which field of the source feeds which column.

    Attributes:
        matched: Column name to the fields that carry it; several only where JSON keys differ in spelling.
        added: Columns that schema evolution adds for unknown fields.
        unknown: Fields for `_rescued`.
        missing: Required columns that no field of the file carries.
    """

    matched: dict[str, tuple[SourceField, ...]]
    added: tuple[RawColumn, ...]
    unknown: tuple[SourceField, ...]
    missing: tuple[str, ...]


def match_fields(fields: Iterable[SourceField], shape: RawShape, *, schema_evolution: bool = False) -> Matching:
    """Match a source's fields with a contract's columns by their names in snake case.

    Args:
        fields: The source's fields.
        shape: The contract's columns, with those that evolution has already added to the table.
        schema_evolution: True to turn unknown fields into new columns: text for CSV and JSON, else the native type.

    Returns:
        The matching. A second field of the same name goes to `_rescued`, except for JSON, where one object may spell
        `customerId` and the next `customer_id`; the exact name comes first.
    """
    known = {column.name for column in shape.columns}
    reserved = {column.name for column in TECHNICAL_COLUMNS} | {
        "_deleted",
        "_line",
        "_text",
        "_problem",
        "_reason",
        "_raw",
        "_raw_types",
        "filename",  # DuckDB's own, in scans of files
        "file_row_number",
    }
    matched: dict[str, tuple[SourceField, ...]] = {}
    added: list[RawColumn] = []
    unknown: set[SourceField] = set()
    fields, columns = list(fields), Columns(known)
    # The field with exactly the column's name comes first: of two fields it feeds the column, new columns included.
    for field in sorted(fields, key=lambda field: (field.name not in known, field.name != snake_case(field.name))):
        name = columns.column(field.name)
        dtype = _column_type(field.dtype) if field.evolves_to is None else field.evolves_to
        if schema_evolution and dtype and name is None:
            new = snake_case(field.name)
            if new.strip("_") and new not in reserved:
                added.append(RawColumn(new, dtype, description=f"Added from the source's field {field.name!r}."))
                columns.add(new)
                name = new
        if name is not None and (name not in matched or field.dtype == "JSON"):
            matched[name] = (*matched.get(name, ()), field)
        else:
            unknown.add(field)
    missing = tuple(c.name for c in shape.columns if c.required and c.name not in matched)
    return Matching(matched, tuple(added), tuple(field for field in fields if field in unknown), missing)


def _column_type(dtype: str) -> str | None:
    """Return the type of the column that evolution adds for a field; None if Delta has no faithful type for it."""
    if dtype.startswith("DECIMAL("):
        return dtype
    return _COLUMN_TYPES.get(dtype)


def conform_sql(
    records: RecordSet,
    shape: RawShape,
    *,
    file: str,
    partition_date: date,
    batch_id: str,
    extracted_at: datetime,
    schema_evolution: bool = False,
) -> str:
    """Build one SELECT over records: the contract's columns, added and technical ones, `_reason`, `_raw`, `_raw_types`.

    Args:
        records: The opened file, or the records that a pull reads.
        shape: The contract's columns, with those that evolution has already added to the table.
        file: Path below the landing root, or what was pulled.
        partition_date: The date in the path, or of the pull.
        batch_id: The file's content id, or the pull's name.
        extracted_at: The file's modification time, or the time of the pull; with its zone.
        schema_evolution: As in `match_fields`, whose `added` names the new columns.

    Returns:
        The SELECT. A value that does not fit a column which evolution added is null there, and is kept in `_rescued`.
        `_reason` VARCHAR is null for a row that fits; else `_raw` VARCHAR holds the record: its line for
        JSON, a JSON object of its fields for other formats; `_raw_types` says how to read it (`raw_records`). Needs
        `SET TimeZone = 'UTC'`.
    """
    if extracted_at.tzinfo is None:
        raise ValueError("extracted_at has no time zone: give it as UTC")
    found = match_fields(records.fields, shape, schema_evolution=schema_evolution)
    all_columns = shape.extended(found.added).columns
    columns = [(column, found.matched.get(column.name, ())) for column in all_columns]
    fitted = _column_casts(columns)
    selected = ", ".join(f"{cast.fitting_value} AS {quote_name(cast.column.name)}" for cast in fitted)
    rescued, types = _rescued(found.unknown, fitted), quote_text(raw_types(records))
    return f"""SELECT {selected},
        DATE '{partition_date.isoformat()}' AS _partition_date,
        {quote_text(batch_id)} AS _batch_id,
        TIMESTAMPTZ '{extracted_at.isoformat(sep=" ")}' AS _extracted_at,
        struct_pack(file := {quote_text(file)}, line := _line) AS _source,
        {rescued} AS _rescued, _reason, _raw,
        CASE WHEN _reason IS NOT NULL THEN {types} END AS _raw_types
        FROM ({fit_sql(records, columns, missing=found.missing)})"""


def raw_types(records: RecordSet) -> str:
    """Say how the raw records of dead letters are read again: as JSON of their own, or each field by its type.

    Returns:
        "JSON"; or a JSON list of name, DuckDB type, and type of the column that evolution makes, of each field.
    """
    if records.has_problems:
        return "JSON"
    return json.dumps([[field.name, field.dtype, field.evolves_to] for field in records.fields], ensure_ascii=False)


def fit_sql(
    records: RecordSet, columns: Sequence[tuple[RawColumn, tuple[SourceField, ...]]], *, missing: Sequence[str] = ()
) -> str:
    """Build one SELECT over records: the columns of `records.sql`, typed values, `_reason`, `_raw`.

    Args:
        records: The records that are read; all of their fields are in `_raw`.
        columns: Each column with the fields that carry it, as in `Matching.matched`; without a field it is null.
        missing: Required columns that no field carries, which is the reason of every record.

    Returns:
        The SELECT. `v0`, `v1`, ... are the values of the columns in order; `_reason` and `_raw` are as in
        `conform_sql`.
    """
    casts_ = _column_casts(columns)
    texts = "".join(f", {cast.text} AS {cast.text_name}" for cast in casts_ if cast.text)
    values = "".join(f", {cast.value} AS {cast.value_name}" for cast in casts_)
    raw = "_text" if records.has_problems else json_object(records.fields)
    return f"""SELECT *, CASE WHEN _reason IS NOT NULL THEN {raw} END AS _raw
        FROM (SELECT *, {_reason(casts_, missing, records)} AS _reason
        FROM (SELECT *{values} FROM (SELECT *{texts} FROM ({records.sql}))))"""


@dataclass(frozen=True)
class _ColumnCast:
    """SQL of one column: `text` is what is cast (empty where the value is taken as it is), `value` the result."""

    column: RawColumn
    text_name: str
    value_name: str
    text: str
    value: str
    doubled: str = ""
    fields: tuple[SourceField, ...] = ()

    @property
    def dtype(self) -> str:
        return casts.normal(self.column.dtype)

    @property
    def misfits(self) -> list[tuple[str, str]]:
        """Conditions under which the value does not fit the column, each with SQL of the reason."""
        name, found = self.column.name, []
        conditions = [f"({self.text_name} IS NOT NULL AND {self.value_name} IS NULL)"] if self.text else []
        if self.fields and (beyond := casts.out_of_range(self.value_name, self.dtype)):
            conditions.append(f"coalesce({beyond}, false)")
        if conditions:
            shown = f"{self.text_name if self.text else self.value_name}::VARCHAR"
            found.append((" OR ".join(conditions), casts.misfit_reason(name, shown, self.dtype)))
        if self.doubled:
            found.append((f"({self.doubled} > 1)", quote_text(f"json: {name} is given twice, in two spellings")))
        return found

    @property
    def misfit(self) -> str:
        """The condition under which the value does not fit an evolved column; empty if it always fits."""
        return " OR ".join(condition for condition, _ in self.misfits) if self.column.evolved else ""

    @property
    def fitting_value(self) -> str:
        return f"CASE WHEN {self.misfit} THEN NULL ELSE {self.value_name} END" if self.misfit else self.value_name


def _column_casts(columns: Sequence[tuple[RawColumn, tuple[SourceField, ...]]]) -> list[_ColumnCast]:
    return [
        replace(_column_cast(number, column, fields), fields=fields) for number, (column, fields) in enumerate(columns)
    ]


def _column_cast(index: int, column: RawColumn, fields: tuple[SourceField, ...]) -> _ColumnCast:
    text_name, value_name = f"t{index}", f"v{index}"
    if not fields:
        return _ColumnCast(column, text_name, value_name, "", f"NULL::{column.dtype}")
    field, source, target = fields[0].column, casts.normal(fields[0].dtype), casts.normal(column.dtype)
    if source == target:
        return _ColumnCast(column, text_name, value_name, "", field)
    doubled = ""
    if source == "JSON":
        is_list = target.endswith("[]")
        texts = [casts.json_value(f.column) if is_list else casts.json_text(f.column) for f in fields]
        text = texts[0]
        if len(fields) > 1:
            text = f"coalesce({', '.join(texts)})"
            doubled = " + ".join(f"({found} IS NOT NULL)::INT" for found in texts)
            if fields[0].name == column.name:  # it is the column, and the others go to `_rescued`
                doubled = f"CASE WHEN {texts[0]} IS NULL THEN {doubled} ELSE 0 END"
        if target == "VARCHAR":
            return _ColumnCast(column, text_name, value_name, "", text, doubled)
        if is_list:
            return _ColumnCast(column, text_name, value_name, text, casts.from_json(text_name, target), doubled)
        source = "VARCHAR"
    elif source == "BLOB" and target not in ("VARCHAR", "BLOB"):  # text that its writer did not mark as text
        text, source = f"coalesce({json_text.text_of_bytes(field)}, {field}::VARCHAR)", "VARCHAR"
    else:
        text = field
    if source == "VARCHAR":
        return _ColumnCast(
            column,
            text_name,
            value_name,
            f"nullif({casts.trimmed(text)}, '')",
            casts.from_text(text_name, target),
            doubled,
        )
    return _ColumnCast(column, text_name, value_name, text, casts.from_native(text_name, source, target))


def _reason(columns: list[_ColumnCast], lacking: Sequence[str], records: RecordSet) -> str:
    """Build SQL of the reason: null for a record that fits, so that the common case evaluates only conditions."""
    if lacking and not records.has_problems:
        return quote_text(f"header: lacks {', '.join(lacking)}")
    bad: list[tuple[str, str]] = []
    for cast in columns:
        if not cast.column.evolved:
            bad += [(f"({condition})", message) for condition, message in cast.misfits]
        if cast.column.required:
            missing = f"({cast.text_name if cast.text else cast.value_name} IS NULL)"
            if cast.dtype == "VARCHAR":
                missing = f"({missing} OR {cast.value_name} = '')"
            bad.append((missing, quote_text(f"required: {cast.column.name} is missing")))
    misfit = "NULL::VARCHAR"
    if bad:
        messages = ", ".join(f"CASE WHEN {condition} THEN {message} END" for condition, message in bad)
        misfit = f"CASE WHEN {' OR '.join(c for c, _ in bad)} THEN concat_ws('; ', {messages}) END"
    return f"CASE WHEN _problem IS NOT NULL THEN _problem ELSE {misfit} END" if records.has_problems else misfit


def _rescued(unknown: Iterable[SourceField], columns: Iterable[_ColumnCast]) -> str:
    """Build SQL of `_rescued`: fields without a column, and those whose value does not fit an evolved column."""
    columns = list(columns)
    unfit = [(field, cast.misfit) for cast in columns if cast.misfit for field in cast.fields]
    unfit += [
        (
            field,
            f"{casts.json_value(cast.fields[0].column)} IS NOT NULL AND {casts.json_value(field.column)} IS NOT NULL",
        )
        for cast in columns
        if cast.fields and cast.fields[0].name == cast.column.name and not cast.misfit
        for field in cast.fields[1:]
    ]
    parts = [(field, f"{field.column} IS NOT NULL") for field in unknown]
    parts += [(field, f"{field.column} IS NOT NULL AND ({condition})") for field, condition in unfit]
    members = [f"CASE WHEN {condition} THEN {_json_member(field)} END" for field, condition in parts]
    return f"'{{' || nullif(concat_ws(',', {', '.join(members)}), '') || '}}'" if members else "NULL::VARCHAR"


def json_object(fields: Iterable[SourceField]) -> str:
    """Build SQL of a JSON object of all fields: the raw record of formats other than JSON."""
    members = ", ".join(f"coalesce({_json_member(field)}, {quote_text(_json_key(field) + 'null')})" for field in fields)
    return f"'{{' || concat_ws(',', {members or 'NULL'}) || '}}'"


def _json_member(field: SourceField) -> str:
    return f"{quote_text(_json_key(field))} || {json_text.to_json(field.column, field.dtype)}"


def _json_key(field: SourceField) -> str:
    return json.dumps(field.name, ensure_ascii=False) + ":"
