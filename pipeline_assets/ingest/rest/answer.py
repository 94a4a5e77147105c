"""One answer of an API taken apart: the exact text of each record, and how many records there are in all.

A parsed number is no longer the text that was sent (1.50, 1e5, 20 digits). So records are cut out of the body, not
parsed and written again. `formats.json_records` decides later, for each text, whether it is a record.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from jsonpath_ng import Child, Fields, JSONPath, Root
from jsonpath_ng.exceptions import JSONPathError
from jsonpath_ng.ext.parser import parse

from pipeline_assets.ingest.rest.errors import BrokenBodyError, RestError

_LONGEST_INTEGER = 18


def _integer(text: str) -> int | str:
    return int(text) if len(text) <= _LONGEST_INTEGER else text


# Numbers stay text: they are not rounded, and 4,300 digits are no error. Not strict: a tab in a string spoils only its
# own record.
_RECORD = json.JSONDecoder(parse_float=str, parse_int=str, strict=False)
_ENVELOPE = json.JSONDecoder(parse_float=str, parse_int=_integer, strict=False)
_SPACE = re.compile(r"[ \t\r\n]*")
# Possessive quantifiers: what they match takes no memory, however long a string is.
_SIGN = re.compile(r'"(?:[^"\\]++|\\.)*+"|[\[\]{}"]', re.DOTALL)
_CLOSES = {"[": "]", "{": "}"}
_LEVELS_KEPT = 100
_NAMES_SHOWN = 10
_ERRORS = ("error", "errors")


@dataclass(frozen=True)
class Answer:
    """One page.

    Attributes:
        envelope: The body, parsed, with only the last record in the list; numbers other than integers are text. If the
            last record is nested too deep for the parser, the envelope has its upper levels.
        records: The text of each record, as it was sent.
        total: How many records there are on all pages, if the source says so.
    """

    envelope: object
    records: Sequence[str]
    total: int | None


NO_CONTENT = Answer(None, (), None)
"""The answer without content."""


def read_answer(body: bytes, records: str, total: str | None) -> Answer:
    """Take a body apart.

    Args:
        body: The body.
        records: JSONPath of the list of records; a null there, or on the way there, counts as an empty list.
        total: JSONPath of the number of all records.

    Raises:
        BrokenBodyError: It is not JSON from beginning to end.
        RestError: The records, or the total, are not where they should be; or instead of records there is an error.
    """
    names = names_of(records)
    if not body.strip():
        raise BrokenBodyError("the body is empty, which is not JSON")
    try:
        text = body.decode("utf-8-sig", "surrogateescape")  # bytes that are not UTF-8 cost only their own record
        start = _find(text, names)
        found, end = _elements(text, start) if start is not None else ([], 0)
        # Parse the body without the records, which were parsed before: the body is JSON if they and the rest are.
        last = found[-1] if found else ""
        if _is_too_deep(last):
            last = _by_brackets(last, 0)[1]
        envelope = _ENVELOPE.decode(f"{text[:start]}[{last}]{text[end:]}" if start is not None else text)
        listed = _ENVELOPE.decode(f"[{last}]") if start is not None else None
        if not body.isascii():
            (f"{text[:start]}{text[end:]}" if start is not None else text).encode()
            found = [_spelled_out(record) for record in found]
    except (ValueError, IndexError, RecursionError) as error:
        raise BrokenBodyError(f"the body is not JSON in UTF-8 ({error})") from None
    _check(envelope, names, records, listed)
    if not found and (name := _refusal(envelope, names)):
        raise RestError(f"there is no record in it, but something at {name}")
    return Answer(envelope, found, _total(envelope, total))


def _check(envelope: object, names: Sequence[str], path: str, listed: object) -> None:
    """Raise an error that says why there is no list of records where one should be; null counts as an empty list.

    `listed` is what was cut out as the list: if the member is there twice, a parser sees another list.
    """
    found = envelope
    for place, name in enumerate(names):
        if found is None and listed is None:
            return
        if not isinstance(found, dict) or name not in found:
            raise RestError(f"no list of records at {path!r}: {_shown(names[:place], found)}")
        found = found[name]
    if found != listed:
        twice = "" if listed is None else "; it is there twice"
        raise RestError(f"no list of records at {path!r}: {_shown(names, found)}{twice}")


def _refusal(envelope: object, names: Sequence[str]) -> str | None:
    """Give the member by which an answer without records says that it failed, whatever its status; None if it did not.

    `names` lead to the records: they may be errors themselves.
    """
    members = envelope if isinstance(envelope, dict) else {}
    return next(
        (name for name, value in members.items() if value and name.lower() in _ERRORS and name not in names[:1]), None
    )


def _spelled_out(record: str) -> str:
    """Give a record; bytes in it that are not UTF-8 become escapes that JSON does not know, `xff` after a backslash."""
    return record.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _total(envelope: Any, path: str | None) -> int | None:  # noqa: ANN401  JSON
    if path is None:
        return None
    if envelope is None:
        return None
    found = values_at(path, envelope)
    if not found or not re.fullmatch(r"[0-9]{1,18}", str(found[0])):
        raise RestError(f"no number of all records at {path!r}: found {str(found[0])[:20] if found else 'nothing'}")
    return int(found[0])


def values_at(path: str, envelope: object) -> list[Any]:
    """Give the values at a JSONPath.

    Raises:
        RestError: The text is not a JSONPath.
    """
    return [found.value for found in _compiled(path).find(envelope)]


@lru_cache
def _compiled(path: str) -> JSONPath:
    try:
        return parse(path)
    except JSONPathError as error:
        raise RestError(f"{path!r} is no JSONPath: {error}") from None


def names_of(path: str) -> list[str]:
    """Give the names on a path, from the root on.

    Raises:
        RestError: The path has other parts than names.
    """
    names: list[str] = []
    step = _compiled(path)
    while isinstance(step, Child):
        names[:0] = _fields(step.right, path)
        step = step.left
    return names if isinstance(step, Root) else [*_fields(step, path), *names]


def _fields(step: JSONPath, path: str) -> Sequence[str]:
    if not isinstance(step, Fields) or len(step.fields) != 1 or step.fields[0] == "*":
        raise RestError(f"records: {path!r} must be names with dots between, such as data.items")
    return [str(step.fields[0])]


def _shown(names: Sequence[str], found: object) -> str:
    where = ".".join(names) or "the body"
    if isinstance(found, dict):
        return f"{where} has {', '.join(sorted(found)[:_NAMES_SHOWN]) or 'nothing'}"
    return f"{where} is of the type {type(found).__name__}"


def _after_space(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return match.end() if match else at


def _find(text: str, names: Sequence[str]) -> int | None:
    """Find where the list of records begins; None if there is none."""
    at: int | None = _after_space(text, 0)
    for name in names:
        at = None if at is None or text[at] != "{" else _member(text, at, name)
    return at if at is not None and text[at] == "[" else None


def _member(text: str, at: int, name: str) -> int | None:
    """Find where the value of an object's member begins.

    Text that is not JSON is found later, when the envelope is parsed.
    """
    at = _after_space(text, at + 1)
    while text[at] == '"':
        key, at = _RECORD.raw_decode(text, at)
        at = _after_space(text, _after_space(text, at) + 1)
        if key == name:
            return at
        at = _after_space(text, _RECORD.raw_decode(text, at)[1])
        if text[at] != ",":
            return None
        at = _after_space(text, at + 1)
    return None


def _elements(text: str, at: int) -> tuple[list[str], int]:
    """Give the texts of a list's elements, and where the list ends."""
    found: list[str] = []
    at = _after_space(text, at + 1)
    if text[at] == "]":
        return found, at + 1
    while True:
        end = _end(text, at)
        found.append(text[at:end])
        at = _after_space(text, end)
        if text[at] == "]":
            return found, at + 1
        if text[at] != ",":
            raise ValueError(f"',' is missing at character {at}")
        at = _after_space(text, at + 1)


def _end(text: str, at: int) -> int:
    """Find where a value ends. One that is nested too deep must not keep the page's other records from landing."""
    try:
        return _RECORD.raw_decode(text, at)[1]
    except RecursionError:
        return _by_brackets(text, at)[0]


def _is_too_deep(text: str) -> bool:
    """Tell whether the parser may fail at a record, which is nested deeper in the answer; cheap, not exact."""
    return text[:1] in _CLOSES and text.count("[") + text.count("{") > _LEVELS_KEPT


def _by_brackets(text: str, at: int) -> tuple[int, str]:
    """Find where an object or list ends, by brackets and strings alone; give its upper levels, null for the rest.

    Raises:
        ValueError: The object or list does not end.
    """
    kept: list[str] = []
    awaited: list[str] = []
    for sign in _SIGN.finditer(text, at):
        if closing := _CLOSES.get(sign[0]):
            awaited.append(closing)
            if len(awaited) == _LEVELS_KEPT + 1:
                kept += [text[at : sign.start()], "null"]
        elif sign[0] in ("]", "}"):
            if awaited.pop() != sign[0]:
                break
            if len(awaited) == _LEVELS_KEPT:
                at = sign.end()
            if not awaited:
                return sign.end(), "".join([*kept, text[at : sign.end()]])
        elif sign[0] == '"':
            break
    raise ValueError(f"brackets or quotes do not match from character {at} on")
