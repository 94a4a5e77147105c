"""SQL that reads a row from a JSON document: the texts of its columns, and the typed value of a text.

Bronze tests every event with these expressions before it accepts it, and silver reads rows with the same ones. So
silver never meets a value that it cannot cast. Tables and batches are not handled here.
"""

from collections.abc import Sequence

from pipeline_assets.ingest.conform import casts, json_numbers
from pipeline_assets.ingest.conform.json_records import pointers


def texts(columns: Sequence[str], document: str) -> str:
    """Give the texts of columns in a JSON object, as one VARCHAR[] in the order of `columns`.

    A string gives its characters, another value gives its JSON unchanged, with every digit, and a null or missing
    column gives NULL. The document is parsed once, whatever the number of columns.

    Args:
        columns: Names of the object's fields, any characters.
        document: SQL expression of the JSON text; NULL gives NULL.
    """
    marked = [json_numbers.marked_name(name) for name in columns]
    exact = f"json_extract_string({json_numbers.marked(document)}, {pointers(marked)})"
    unmarked = f"list_transform({exact}, lambda part: {json_numbers.unmarked_text('part')})"
    at_risk = json_numbers.is_at_risk(document)
    return f"CASE WHEN {at_risk} THEN {unmarked} ELSE json_extract_string({document}, {pointers(columns)}) END"


def typed(text: str, dtype: str) -> str:
    """Give the value of a text as the source wrote it; NULL if it is not exactly a value of the type.

    It accepts PostgreSQL's and ISO 8601 texts of times, Debezium's `isostring` (a `Z` also after times without zone,
    and after dates) and base64 of bytes. It does not accept bare epoch numbers as times: milli- and microseconds look
    alike. A list is the text of a JSON array; each element has to fit, and an array within an array fits a list of
    lists, or text.

    Args:
        text: SQL expression.
        dtype: DuckDB type.
    """
    target = casts.normal(dtype)
    if target.endswith("[]"):
        # A text that is not JSON (such as PostgreSQL's {1,2} from a text column) would raise an error instead of giving
        # null.
        return f"CASE WHEN json_valid({text}) THEN {casts.from_json(text, target, scalar=_scalar)} END"
    return _scalar(text, target)


def _scalar(text: str, target: str) -> str:
    if target == "VARCHAR":
        return text
    if target == "BLOB":
        return f"TRY(from_base64({text}))"
    if target == "DATE":
        text = f"rtrim({text}, 'Z')"
    return casts.from_text(text, target)
