"""Kafka Connect's logical types as text: makes readable what a connector encodes as numbers or bytes by default.

Holds one function, for values that come with their Connect schema. Without a schema milliseconds and microseconds look
alike; such values stay as they are, and are refused when they are cast. A connector that is configured as in
`ingest/cdc/connectors/README.md` sends text and does not need this.
"""

import base64
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

from pipeline_assets.ingest.cdc.formats.documents import encode, shown

_DAY_SECONDS = 86_400
# PostgreSQL's numeric has at most 131,072 digits before the point and 16,383 after it. More is an attack on memory.
_LARGEST_SCALE = 20_000
_MOST_DIGITS = 150_000
_MOST_BYTES = 65_536

# Debezium 3.6 writes PostgreSQL's infinity and -infinity as these numbers, by unit.
_INFINITE = {
    1_000: {9223372036825200: "infinity", -9223372036832400: "-infinity"},
    1_000_000: {9223372036825200000: "infinity", -9223372036832400000: "-infinity"},
    1_000_000_000: {9223372036854775807: "infinity", -9223372036854775808: "-infinity"},
}


def plain(value: Any, schema: Mapping[str, Any]) -> Any:  # noqa: ANN401 - any JSON value
    """Return a value as text that the caster reads, if its schema names a logical type; others stay as they are.

    Args:
        value: Value in the record's payload.
        schema: Its field of the record's schema.

    Raises:
        ValueError: The value does not belong to that type.
    """
    if value is None:
        return None
    try:
        if convert := _CONVERTERS.get(schema.get("name", "")):
            return convert(value, schema)
        if schema.get("type") == "array":
            return [plain(item, schema["items"]) for item in value]
    except (TypeError, KeyError, ValueError, AttributeError, ArithmeticError) as error:
        raise ValueError(f"{shown(value)} is not a valid {schema.get('name') or schema.get('type')}") from error
    return value


def _date(days: int, _: object) -> str:
    return _civil(_int(days))


def _timestamp(unit: int) -> Callable[[Any, object], str]:
    def convert(value: int, _: object) -> str:
        if value in _INFINITE[unit]:
            return _INFINITE[unit][value]
        seconds, fraction = divmod(_int(value), unit)
        days, seconds = divmod(seconds, _DAY_SECONDS)
        return f"{_civil(days)}T{_clock(seconds, fraction, unit)}"

    return convert


def _time(unit: int) -> Callable[[Any, object], str]:
    def convert(value: int, _: object) -> str:
        seconds, fraction = divmod(abs(_int(value)), unit)  # MySQL's TIME goes from -838 to 838 hours
        return f"{'-' if value < 0 else ''}{_clock(seconds, fraction, unit)}"

    return convert


def _duration(unit: int) -> Callable[[Any, object], str]:
    def convert(value: int, _: object) -> str:
        seconds, fraction = divmod(abs(_int(value)), unit)
        return f"PT{'-' if value < 0 else ''}{seconds}{_fraction(fraction, unit)}S"

    return convert


def _decimal(value: Any, schema: Mapping[str, Any]) -> str:  # noqa: ANN401 - any JSON value
    """Decode base64 of a two's complement number, or a plain number: the converter's `decimal.format` decides."""
    if isinstance(value, str):
        return _scaled(value, int(schema["parameters"]["scale"]))
    if isinstance(value, bool | dict | list):
        raise TypeError(value)
    number = Decimal(encode(value))
    if abs(number.adjusted()) > _MOST_DIGITS or len(number.as_tuple().digits) > _MOST_DIGITS:
        raise ValueError(value)
    return f"{number:f}"


def _variable_decimal(value: Mapping[str, Any], _: object) -> str:
    return _scaled(value["value"], _int(value["scale"]))


def _scaled(unscaled: str, scale: int) -> str:
    """Return a two's complement number (big-endian) times 10 to the minus scale."""
    data = base64.b64decode(unscaled, validate=True)
    if abs(scale) > _LARGEST_SCALE or not 0 < len(data) <= _MOST_BYTES:
        raise ValueError(scale)
    digits = _digits(abs(int.from_bytes(data, signed=True)))
    sign = "-" if data[0] & 0x80 else ""
    if scale <= 0:
        return sign + (digits + "0" * -scale).lstrip("0") if digits.strip("0") else "0"
    digits = digits.rjust(scale + 1, "0")
    return f"{sign}{digits[:-scale]}.{digits[-scale:]}"


def _digits(number: int) -> str:
    """Return the decimal digits of any number; str() refuses more than 4,300 digits."""
    if number.bit_length() < 13_000:
        return str(number)
    head, tail = divmod(number, 10**3_900)
    return _digits(head) + str(tail).rjust(3_900, "0")


def _int(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(value)
    return value


def _civil(days: int) -> str:
    """Return the date of a day since 1970 in the proleptic Gregorian calendar, any year (Hinnant, days_from_civil).

    Years are written as in ISO 8601 and Java: 0000 is 1 BC, years beyond 9999 have a sign.
    """
    days += 719_468
    era, day_of_era = divmod(days, 146_097)
    year_of_era = (day_of_era - day_of_era // 1_460 + day_of_era // 36_524 - day_of_era // 146_096) // 365
    day_of_year = day_of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    month = (5 * day_of_year + 2) // 153
    day = day_of_year - (153 * month + 2) // 5 + 1
    month += 3 if month < 10 else -9
    year = year_of_era + era * 400 + (month <= 2)
    sign = "-" if year < 0 else "+" if year > 9_999 else ""
    return f"{sign}{abs(year):04}-{month:02}-{day:02}"


def _clock(seconds: int, fraction: int, unit: int) -> str:
    minutes, second = divmod(seconds, 60)
    hour, minute = divmod(minutes, 60)
    return f"{hour:02}:{minute:02}:{second:02}{_fraction(fraction, unit)}"


def _fraction(fraction: int, unit: int) -> str:
    return f".{str(unit + fraction)[1:].rstrip('0')}" if fraction else ""


_CONVERTERS: Mapping[str, Callable[[Any, Any], str]] = {
    "io.debezium.time.Date": _date,
    "io.debezium.time.Timestamp": _timestamp(1_000),
    "io.debezium.time.MicroTimestamp": _timestamp(1_000_000),
    "io.debezium.time.NanoTimestamp": _timestamp(1_000_000_000),
    "io.debezium.time.Time": _time(1_000),
    "io.debezium.time.MicroTime": _time(1_000_000),
    "io.debezium.time.NanoTime": _time(1_000_000_000),
    "io.debezium.time.MicroDuration": _duration(1_000_000),
    "io.debezium.time.NanoDuration": _duration(1_000_000_000),
    "io.debezium.data.VariableScaleDecimal": _variable_decimal,
    "org.apache.kafka.connect.data.Date": _date,
    "org.apache.kafka.connect.data.Time": _time(1_000),
    "org.apache.kafka.connect.data.Timestamp": _timestamp(1_000),
    "org.apache.kafka.connect.data.Decimal": _decimal,
}
