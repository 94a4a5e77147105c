"""A declared query's named parameters, `:lower` and `:upper`, in the form that each driver binds.

A colon in a string, a comment or a cast (`::date`) begins no parameter.
"""

import re
from collections.abc import Callable

# Parts that may hold a colon without a parameter: strings, quoted names, comments, PostgreSQL's $$...$$ and casts.
_TOKENS = re.compile(
    r"""'(?:[^']|'')*' | "(?:[^"]|"")*" | --[^\n]* | /\*.*?\*/ | \$(\w*)\$.*?\$\1\$ | ::
        | (?<![\w:]):(?P<name>lower|upper)\b""",
    re.VERBOSE | re.DOTALL,
)


_CUT = re.compile(
    r"\blimit\s+\d|\blimit\s*(?=$|offset\b)|\bfetch\s+(first|next)\b|\bselect\s+(distinct\s+)?top\b", re.I
)


def is_cut(query: str) -> bool:
    """Tell whether a query limits its own rows: LIMIT, FETCH FIRST or TOP outside of parentheses."""
    text, found = _TOKENS.sub(" ", query).strip(" \t\r\n;"), 1
    while found:
        text, found = re.subn(r"\([^()]*\)", " ", text)
    return _CUT.search(text.strip()) is not None


def names(query: str) -> frozenset[str]:
    """Return the parameters that a query has."""
    return frozenset(found["name"] for found in _TOKENS.finditer(query) if found["name"])


def render(query: str, parameter: Callable[[str], str], text: Callable[[str], str] = str) -> str:
    """Write a query for a driver; it is made `bare`.

    Args:
        query: As declared.
        parameter: Returns the driver's form of a parameter, `%(lower)s` say.
        text: Escapes what the driver would take for a parameter in the rest.
    """
    parts, end, query = [], 0, bare(query)
    for found in _TOKENS.finditer(query):
        if found["name"]:
            parts += [text(query[end : found.start()]), parameter(found["name"])]
            end = found.end()
    return "".join([*parts, text(query[end:])])


def bare(query: str) -> str:
    """Remove blanks, semicolons and comments from the end of a query, so that it can stand in parentheses."""
    end = place = 0
    for found in [*_TOKENS.finditer(query), None]:
        gap = query[place : found.start() if found else None].rstrip(" \t\r\n;")
        end = place + len(gap) if gap else end
        if found:
            place = found.end()
            end = end if found[0].startswith(("--", "/*")) else place
    return query[:end]
