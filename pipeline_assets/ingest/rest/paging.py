"""The way from one page to the next, and the end of the pages.

A missing reference to a next page is the end of the pages: most APIs leave it out on their last page. But on a first
page it may mean that the declaration names the wrong place, or none. So `_doubt` looks for signs that more pages exist,
in the places where APIs mention pages: in headers and beside the records, not in the rest of an answer, which is about
its subject. With such a sign the poll is an error, instead of a table with one page in it. `single_page` declares that
the page is all that is wanted.
"""

import re
from collections.abc import Iterator, Mapping

from requests import Response

from pipeline_assets.ingest.rest.answer import NO_CONTENT, Answer, names_of, values_at
from pipeline_assets.ingest.rest.errors import IncompleteError, RestError
from pipeline_assets.ingest.rest.links import next_link
from pipeline_assets.ingest.rest.source import (
    Cursor,
    LinkHeader,
    NextUrl,
    Offset,
    PageNumber,
    Param,
    RestSource,
    SinglePage,
)

_NEXT_NAME = re.compile(r"(?i)(@?odata\.?)?next([_-]?(page|link|url|uri|href|cursor|token))*")
_MORE_NAME = re.compile(r"(?i)has[_-]?(more|next)([_-]?(items|pages?|results))?|more|truncated|is[_-]?truncated")
_TOTAL_NAME = re.compile(r"(?i)total([_-]?(count|records|results|items|elements|size|hits))?")
_PAGES_NAME = re.compile(r"(?i)(total|last|num(ber[_-]?of)?)[_-]?pages?|page[_-]?count")
# Names of objects that hold paging members: meta, _links, pageInfo, response_metadata, result_info.
_PAGING_NAME = re.compile(
    r"(?i)_?((response|search|result|results|page|paging|pagination)[_-]?)?"
    r"(meta([_-]?data)?|info|links?|page|pages|paging|pagination|pager|cursors?)"
)
_TOTAL_HEADERS = ("X-Total-Count", "X-Total", "X-WP-Total")
_PAGES_HEADERS = ("X-Total-Pages", "X-WP-TotalPages", "X-Page-Count")
_FLAGS = {"true": True, "false": False, "1": True, "0": False}


def paginator(source: RestSource) -> "ByNumber | ByReference":
    """Give what leads through the pages of a declared API. It counts, so each round of pages needs its own."""
    declared = source.pagination
    return ByNumber(declared) if isinstance(declared, PageNumber | Offset) else ByReference(source)


def _more(path: str | None, answer: Answer) -> bool | None:
    """Tell whether the API says that there are more pages; None if no flag is declared, or the answer has no content.

    Raises:
        RestError: The declared flag is missing or is not a flag.
    """
    if path is None or answer.envelope is None:
        return None
    found = values_at(path, answer.envelope)
    flag = _FLAGS.get(str(found[0]).lower()) if found else None
    if flag is None:
        said = repr(found[0])[:20] if found else "nothing"
        raise RestError(f"pagination.more: {path!r} must be true or false, found {said}")
    return flag


class ByNumber:
    """Pages by number or by offset. An empty page is the end only if the one after it is empty too.

    Attributes:
        param: The parameter by which a page is asked for.
        first: The parameters of the first page.
    """

    def __init__(self, declared: PageNumber | Offset) -> None:
        self._more = declared.more
        self._by_records = isinstance(declared, Offset)
        self._at = declared.first if isinstance(declared, PageNumber) else 0
        self._received = self._empty = 0
        self.param = declared.param
        self.first: dict[str, Param] = {declared.param: self._at}

    def next(self, response: Response, answer: Answer) -> int | None:
        """Give the number or offset of the next page; None at the end.

        Raises:
            IncompleteError: The API says that there are more pages, and sends nothing.
        """
        count = len(answer.records)
        self._received += count
        self._empty = 0 if count else self._empty + 1
        # Advance by the records that came, not by the number that was asked for: some servers send fewer.
        self._at += count if self._by_records else 1
        more = _more(self._more, answer)
        if more is None:  # otherwise the flag alone decides: a total may be stale
            more = answer.total is None or self._received < answer.total
        if self._more and more and self._empty >= 2:
            raise IncompleteError("two pages in a row are empty, but the API says that there are more")
        return self._at if more and self._empty < 2 else None


class ByReference:
    """Pages of which each but the last refers to the next one, by a cursor or URL in its body or by its header `Link`.

    An API without pagination has only the last one.

    Attributes:
        param: The parameter to send the cursor with; None if references are URLs.
        first: The parameters of the first page: none.
    """

    def __init__(self, source: RestSource) -> None:
        self._source = source
        self._declared = declared = source.pagination
        self._path = declared.path if isinstance(declared, Cursor | NextUrl) else None
        self._more = declared.more if isinstance(declared, Cursor | NextUrl) else None
        self._pages = self._received = self._promised = 0
        self.param = declared.param if isinstance(declared, Cursor) else None
        self.first: dict[str, Param] = {}

    def next(self, response: Response, answer: Answer) -> Param | None:
        """Give the reference to ask for the next page with; None at the end.

        Raises:
            IncompleteError: The API says that there are more pages, but not how to get them.
            RestError: The reference cannot be used, or is missing though the first page seems not to be the only one.
        """
        if isinstance(self._declared, SinglePage):
            return None
        reference = self._reference(response, answer)
        self._pages += 1
        self._received += len(answer.records)
        self._promised = max([self._promised, *_totals(answer, self._source.records)])
        is_cut = answer is NO_CONTENT and self._pages > 1 and self._received < self._promised
        if is_cut and self._source.total is None:  # a declared total is compared when all pages have come
            raise IncompleteError(
                f"page {self._pages} has no content (HTTP {response.status_code}), after {self._received} records of "
                f"{self._promised} that the API spoke of"
            )
        more = _more(self._more, answer)
        if more is False:
            return None
        if more and reference is None:
            raise IncompleteError(f"page {self._pages} says that there are more, and names no next one")
        is_odd = reference is None and more is None and self._pages == 1 and answer.records
        if is_odd and (doubt := self._doubt(response, answer)):
            where = f" at {self._path}" if self._path else ""
            raise RestError(f"the first page names no next one{where}, but {doubt}")
        return reference

    def _reference(self, response: Response, answer: Answer) -> Param | None:
        """Give the reference in an answer; None for null, "", 0 and false too."""
        if isinstance(self._declared, LinkHeader):
            return next_link(response.headers.get("Link", "")) or None
        found = next(iter(values_at(self._path, answer.envelope)), None) if self._path is not None else None
        if not found:
            return None
        if isinstance(found, str) or (self.param is not None and isinstance(found, int)):
            return found
        raise RestError(f"no {'URL' if self.param is None else 'cursor'} at {self._path}, but {type(found).__name__}")

    def _doubt(self, response: Response, answer: Answer) -> str | None:
        """Give the sign that a first page is not the only one; None if there is no such sign."""
        count = len(answer.records)
        if answer.total is not None:
            return None  # the records are counted when all have come
        remedy = (
            "declare pagination as the API has it or, if this one answer is all that is wanted, as "
            "pagination: {type: single_page}"
        )
        if not isinstance(self._declared, LinkHeader) and next_link(response.headers.get("Link", "")):
            return f"its header Link names one: type: link_header; {remedy}"
        for path, name, value in _members(answer.envelope, self._source.records):
            if path != self._path and _NEXT_NAME.fullmatch(name) and value and isinstance(value, str | int | dict):
                return f"there is something at {path}: {remedy}"
            if _MORE_NAME.fullmatch(name) and value is True:
                return f"{path} says that there are more: {remedy}"
            if _TOTAL_NAME.fullmatch(name) and isinstance(value, int) and value > count:
                return f"{path} is {value}, and {count} records came: {remedy}"
            if _PAGES_NAME.fullmatch(name) and isinstance(value, int) and value > 1:
                return f"{path} is {value}: {remedy}"
        if more := _more_by_headers(response.headers, count):
            return f"{more}: {remedy}"
        limits = {name: value for name, value in self._source.params.items() if _is_limit(name, value, count)}
        if self._declared is not None and limits:
            return (
                f"it is full ({next(iter(limits))}={count}): declare `total` or pagination.more, if the API tells "
                "either; if these are all records, ask for larger pages"
            )
        return None


def _more_by_headers(headers: Mapping[str, str], count: int) -> str | None:
    """Give what headers say of more pages than the first, or of more records than it has."""
    if (after := headers.get("X-Next-Page", "").strip()) and after != "0":
        return f"its header X-Next-Page is {after}"
    range_of = re.search(r"/\s*([0-9]+)\s*$", headers.get("Content-Range", ""))
    found = [(name, headers.get(name, "").strip(), count) for name in _TOTAL_HEADERS]
    found += [(name, headers.get(name, "").strip(), 1) for name in _PAGES_HEADERS]
    found += [("Content-Range", range_of[1], count)] if range_of else []
    for name, number, most in found:
        if re.fullmatch(r"[0-9]{1,18}", number) and int(number) > most:
            return f"its header {name} is {number}, and {count} records came"
    return None


def _totals(answer: Answer, records: str) -> Iterator[int]:
    """Yield the numbers of all records, from members of an answer whose names say so."""
    for _, name, value in _members(answer.envelope, records):
        if _TOTAL_NAME.fullmatch(name) and isinstance(value, int):
            yield value


def _is_limit(name: str, value: object, count: int) -> bool:
    """Tell whether a parameter is the page size, and the page has as many records."""
    is_size = re.search(r"(?i)limit|size|per_?page|count|top|rows|results|first", name)
    return bool(is_size) and not isinstance(value, bool) and str(value) == str(count)


def _members(envelope: object, records: str) -> Iterator[tuple[str, str, object]]:
    """Yield what stands beside the records, as path, name and value.

    These are members of the objects on the way to the list of records, and of those objects in them that are there for
    paging. Any other object belongs to the API's subject: an order's total is not a number of records.
    """
    found, path = envelope, ""
    for step in names_of(records):
        if not isinstance(found, Mapping):
            return
        yield from _of_paging(found, path, step)
        found, path = found.get(step), f"{path}{step}."


def _of_paging(found: Mapping[str, object], path: str, without: str | None = None) -> Iterator[tuple[str, str, object]]:
    """Yield the members of an object, except one, and of those objects in it that are there for paging."""
    for name, value in found.items():
        if name == without:
            continue
        yield f"{path}{name}", name, value
        if isinstance(value, Mapping) and _PAGING_NAME.fullmatch(name):
            yield from _of_paging(value, f"{path}{name}.")
