"""The header `Link` as RFC 8288 defines it: relations are lists, case does not count, and there may be several headers.

`requests` reads a list of relations as one name, keeps its case, and cuts a URL at a comma followed by `<`.

Syntax: https://www.rfc-editor.org/rfc/rfc8288#section-3
"""

import re

from pipeline_assets.ingest.rest.errors import RestError

# A target, then `; name=token` or `; name="quoted"`, then a comma or the end. Empty elements are allowed. Possessive
# quantifiers: without them each space matches in two ways, and a header of sixty parameters that cannot be read is
# tried for ever.
_LINK = re.compile(
    r'[\s,]*<([^>]*)>((?:\s*+;\s*+(?:[^\s;,="]++(?:\s*+=\s*+(?:"(?:[^"\\]|\\.)*+"|[^\s;,"]*+))?+)?+)*+)\s*+(?=,|$)'
)
_PARAMETER = re.compile(r';\s*([^\s;,="]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s;,"]*))')


def next_link(header: str) -> str | None:
    """Give the target of the link with the relation `next`; None if there is none. It may be relative.

    Args:
        header: The value; for several headers, their values with commas between.

    Raises:
        RestError: The header cannot be read, and might name a next page; or it names two.
    """
    found: list[str] = []
    at = 0
    while header[at:].strip(" \t,"):
        match = _LINK.match(header, at)
        if match is None:
            raise RestError('the header Link cannot be read: it is not of the form <URL>; rel="next", ...')
        at = match.end()
        if "next" in _relations(match[2]):
            found.append(match[1].strip())
    if len(set(found)) > 1:
        raise RestError(f"the header Link names {len(set(found))} different next pages")
    return found[0] if found else None


def _relations(parameters: str) -> list[str]:
    """Give the relations of a link in lower case; none if the link's context is another page than this one."""
    values: dict[str, str] = {}
    for name, quoted, token in _PARAMETER.findall(parameters):
        values.setdefault(name.lower(), re.sub(r"\\(.)", r"\1", quoted) or token)  # the first `rel` counts
    return [] if values.get("anchor") else values.get("rel", "").lower().split()
