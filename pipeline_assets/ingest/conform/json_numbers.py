"""SQL that takes JSON apart without changing the text of a number: a JSON column holds its exact text.

DuckDB parses 1.50 to a double and prints 1.5; it prints 1e5 as 100000.0 and 0.10000000000000000555 as 0.1. JSON that
holds such a number gets all its numbers marked as strings before it is taken apart, and unmarked afterwards.

DuckDB also accepts NaN and Infinity, which Python writes but JSON does not allow. They become strings for good.
"""

# A private-use character marks the digits of a number. A second one escapes both where the JSON itself holds them, so
# no text of the source is ever mistaken for a mark. JSON that writes one of them as an escape is not marked.
_MARK, _ESCAPE = "\ue0f1", "\ue0f0"
_WRITTEN_AS_ESCAPE = r"(?i)\\ue0f[01]"
_STRING = r'"[^"\\]*(?:\\.[^"\\]*)*"'
_NUMBER = "[0-9.eE+-]+"
_NOT_A_NUMBER = "(?i:nan|inf(?:inity)?)"

# 16 digits and more with a point among them: a double keeps 15.
_LONG = "|".join(rf"[0-9]{{{whole},}}[.][0-9]{{{16 - whole},}}" for whole in range(1, 16))
# Numbers whose text may not survive: with an exponent, minus zero, two or more digits after the point that end in 0,
# long ones, and ones so small that they are printed with an exponent. A match within a string only costs time.
_AT_RISK = (
    r"(?:^|[:,\[])\s*(?:-0(?:[^.0-9]|$)"
    rf"|-?(?:(?i:nan|inf)|[0-9]+(?:[.][0-9]+0(?:[^0-9]|$)|[.]000|(?:[.][0-9]+)?[eE])|{_LONG}|0[.]0*(?:[^0-9]|$)))"
)


def is_at_risk(text: str) -> str:
    """Return SQL for whether a number may change its text and the JSON can be marked.

    Args:
        text: SQL of JSON as text.
    """
    can_be_marked = f"NOT regexp_matches({text}, '{_WRITTEN_AS_ESCAPE}')"
    return f"CASE WHEN regexp_matches({text}, '{_AT_RISK}') THEN {can_be_marked} ELSE false END"


def marked(text: str) -> str:
    """Return SQL for the JSON with all its numbers as marked strings, and NaN and infinities as strings."""
    escaped = f"replace(replace({text}, '{_ESCAPE}', '{_ESCAPE}0'), '{_MARK}', '{_ESCAPE}1')"
    escaped = f"CASE WHEN {_has_marks(text)} THEN {escaped} ELSE {text} END"
    # Each string is followed by a mark, and each number is preceded by one; then the marks after strings are removed.
    both = rf"regexp_replace({escaped}, '({_STRING})|(-?(?:[0-9]{_NUMBER[:-1]}*|{_NOT_A_NUMBER}))', '\1{_MARK}\2', 'g')"
    words = rf"""regexp_replace(replace({both}, '"{_MARK}', '"'), '{_MARK}(-?{_NOT_A_NUMBER})', '"\1"', 'g')"""
    return rf"""regexp_replace({words}, '{_MARK}({_NUMBER})', '"{_MARK}\1"', 'g')"""


def marked_name(name: str) -> str:
    """Return the name of a field as marked JSON holds it."""
    return name.replace(_ESCAPE, f"{_ESCAPE}0").replace(_MARK, f"{_ESCAPE}1")


def unmarked(value: str) -> str:
    """Return SQL for the JSON of a part of marked JSON, with its numbers as they were.

    Args:
        value: SQL of JSON as text.
    """
    numbers = rf"""regexp_replace({value}, '"{_MARK}([^"]*)"', '\1', 'g')"""
    return _restored(value, numbers)


def unmarked_text(value: str) -> str:
    """Return SQL for the text of a part of marked JSON, as `json_extract_string` gives it, with its original numbers.

    Args:
        value: SQL of the characters of a string, or of JSON of any other value.
    """
    numbers = rf"""replace(regexp_replace({value}, '"{_MARK}([^"]*)"', '\1', 'g'), '{_MARK}', '')"""
    return _restored(value, numbers)


def _restored(value: str, numbers: str) -> str:
    own = f"replace(replace({numbers}, '{_ESCAPE}1', '{_MARK}'), '{_ESCAPE}0', '{_ESCAPE}')"
    return f"CASE WHEN {_has_marks(value)} THEN {own} ELSE {value} END"


def _has_marks(text: str) -> str:
    return f"contains({text}, '{_MARK}') OR contains({text}, '{_ESCAPE}')"
