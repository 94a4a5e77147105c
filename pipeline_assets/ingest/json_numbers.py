"""SQL that takes JSON apart without changing the text of a number.

DuckDB parses 1.50 to a double and prints 1.5, prints 1e5 as 100000.0 and 0.10000000000000000555 as 0.1. JSON that holds
such a number has all its numbers marked as strings before it is taken apart, and unmarked after.
"""

# A private-use character before the digits of a marked number. JSON that holds it already, as it is or as an escape,
# is not marked, and only marked JSON is unmarked: no text of the source is ever taken for a mark.
_MARK = "\ue0f1"
_MARK_ESCAPED = r"\ue0f1"
_STRING = r'"(?:[^"\\]|\\.)*"'
# Numbers whose text may not survive: a fraction that ends in 0, an exponent, a minus zero, 16 digits and more
# with a point among them (a double keeps 15), or so small that they are printed with an exponent.
_AT_RISK = r"\.[0-9]*0([^0-9]|$)|[0-9][eE][-+0-9]|[:,\[]\s*-0|[0-9.]{16}|\.000"


def is_at_risk(text: str) -> str:
    """Whether a number may change its text, and the JSON can be marked.

    Args:
        text: SQL of JSON as text.
    """
    return (
        f"regexp_matches({text}, '{_AT_RISK}') AND NOT contains({text}, '{_MARK}') "
        f"AND NOT contains(lower({text}), '{_MARK_ESCAPED}')"
    )


def marked(text: str) -> str:
    """The JSON with all its numbers as marked strings."""
    return (
        f"array_to_string(list_transform(regexp_extract_all({text}, '{_STRING}|[^\"]+'), "
        "lambda part: CASE WHEN starts_with(part, '\"') THEN part "
        f"ELSE regexp_replace(part, '-?[0-9][0-9.eE+-]*', '\"{_MARK}\\0\"', 'g') END), '')"
    )


def unmarked(value: str) -> str:
    """The JSON of a part of what was marked, with its numbers as they were.

    Args:
        value: SQL of JSON as text.
    """
    numbers = f"regexp_replace({value}, '\"{_MARK}([^\"]*)\"', '\\1', 'g')"
    return f"CASE WHEN contains({value}, '{_MARK}') THEN {numbers} ELSE {value} END"
