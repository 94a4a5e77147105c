"""JSON text of values that DuckDB has no type for, or reads wrongly: exact, and in the form that `casts` reads.

A time is a string of ISO 8601 in the years 0001 to 9999. Outside these years it is the number that the file holds,
which fits no time column.
"""

import base64
import json
import math
import uuid
from datetime import date

_EPOCH = date(1970, 1, 1).toordinal()
_LAST = date.max.toordinal()


def of_date(days: int) -> str:
    """Write the day that is `days` after 1970-01-01."""
    ordinal = days + _EPOCH
    return f'"{date.fromordinal(ordinal).isoformat()}"' if 1 <= ordinal <= _LAST else str(days)


def of_time(value: int, per_second: int) -> str:
    """Write the time of a day that is `value` / `per_second` seconds after midnight."""
    return f'"{_clock(value, per_second)}"' if 0 <= value < 86_400 * per_second else str(value)


def of_timestamp(value: int, per_second: int, zone: str = "") -> str:
    """Write the moment `value` / `per_second` seconds after 1970-01-01 00:00:00."""
    days, rest = divmod(value, 86_400 * per_second)
    ordinal = days + _EPOCH
    if not 1 <= ordinal <= _LAST:
        return str(value)
    return f'"{date.fromordinal(ordinal).isoformat()} {_clock(rest, per_second)}{zone}"'


def _clock(value: int, per_second: int) -> str:
    seconds, fraction = divmod(value, per_second)
    digits = f".{fraction:0{len(str(per_second)) - 1}}" if fraction else ""
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}{digits}"


def of_decimal(unscaled: int, scale: int) -> str:
    """Write the number `unscaled` / 10 ** `scale`, with all its digits."""
    sign, digits = ("-" if unscaled < 0 else ""), str(abs(unscaled)).rjust(scale + 1, "0")
    return f"{sign}{digits[: len(digits) - scale]}.{digits[len(digits) - scale :]}" if scale else f"{sign}{digits}"


def of_float(value: float) -> str:
    """Write the number, or a string where JSON has no such number."""
    return json.dumps(value) if math.isfinite(value) else f'"{value}"'


def of_bytes(data: bytes) -> str:
    """Write the text; an object with base64 if the bytes are not UTF-8, as `json_text` does."""
    try:
        return json.dumps(data.decode(), ensure_ascii=False)
    except UnicodeDecodeError:
        return f'{{"base64":"{base64.b64encode(data).decode()}"}}'


def of_uuid(data: bytes) -> str:
    """Write the UUID of 16 bytes."""
    return f'"{uuid.UUID(bytes=data)}"'
