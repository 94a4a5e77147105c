"""The declaration of a REST source: where it is, who may read it, how it pages, what is new in it.

This module only holds declarations, each as `defs.yaml` spells it; secrets are named, never held. `auth`, `paging`
and `poll` use them.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from pipeline_assets.contracts.base import raw_shape
from pipeline_assets.ingest.batch.rows import RowSource
from pipeline_assets.ingest.batch.watermark import SECONDS, Watermark

Param = str | int | float | bool

_LAG_SECONDS = 3600


class _Declaration(BaseModel):
    """The base of declarations. Fields have types only: Dagster's YAML loader takes only such models from outside."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @field_validator("*")
    @classmethod
    def _is_as_its_name_says(cls, value: object, info: ValidationInfo) -> object:
        name = info.field_name or ""
        if name.endswith("_env") and not re.fullmatch(r"[A-Z][A-Z0-9_]*", str(value)):
            raise ValueError("must be the name of an environment variable, which holds the secret")
        if name.endswith("_url") and not re.fullmatch(r"https?://[^@\s]+", str(value)):
            raise ValueError("must be an http(s) URL without credentials")
        if name == "lag" and isinstance(value, int) and value < 0:
            raise ValueError("must not be negative")
        return value


class Bearer(_Declaration):
    """A token in the header `Authorization`."""

    type: Literal["bearer"]
    token_env: str


class Basic(_Declaration):
    """User and password in the header `Authorization`."""

    type: Literal["basic"]
    user_env: str
    password_env: str


class ApiKey(_Declaration):
    """A key in a header, or in the query; some servers and proxies log the query."""

    type: Literal["api_key"]
    name: str
    key_env: str
    location: Literal["header", "query"] = "header"


class OAuth2ClientCredentials(_Declaration):
    """A token from a token endpoint, fetched anew when it expires."""

    type: Literal["oauth2_client_credentials"]
    token_url: str
    client_id_env: str
    client_secret_env: str
    scope: str = ""


Auth = Annotated[Bearer | Basic | ApiKey | OAuth2ClientCredentials, Field(discriminator="type")]


class _Flagged(_Declaration):
    """Pages that may come with a flag."""

    more: str | None = None
    """JSONPath of a flag that says whether there are more pages: `has_more`. False always ends the pages."""


class PageNumber(_Flagged):
    """Pages by number, until no record comes or `total` is reached. Page sizes belong into `params`."""

    type: Literal["page"]
    param: str = "page"
    first: int = 1


class Offset(_Flagged):
    """Pages by the number of records before them, until no record comes or `total` is reached."""

    type: Literal["offset"]
    param: str = "offset"


class Cursor(_Flagged):
    """Each answer names the cursor of the next one; the last answer names none."""

    type: Literal["cursor"]
    param: str = "cursor"
    path: str
    """JSONPath: `meta.next`, `data[-1].id`."""


class NextUrl(_Flagged):
    """Each answer holds the URL of the next one; the last answer holds none."""

    type: Literal["next_url"]
    path: str
    """JSONPath: `links.next`, `"@odata.nextLink"`."""


class LinkHeader(_Declaration):
    """Each answer names the next one in its header `Link`; the last answer names none."""

    type: Literal["link_header"]


class SinglePage(_Declaration):
    """One answer is all that is wanted, even if it mentions more: the latest ten of 250, for example."""

    type: Literal["single_page"]


Pagination = Annotated[PageNumber | Offset | Cursor | NextUrl | LinkHeader | SinglePage, Field(discriminator="type")]


class Incremental(_Declaration):
    """A poll asks only for records that are new since the last poll."""

    param: str
    """Query parameter: records from this point on, e.g. `updated_since`. Times are sent as 2026-01-31T23:59:00Z."""

    field: str
    """Column of the contract by which a record is new: a time, a date or a number that grows with each change."""

    lag: int | None = None
    """How far before the newest record of the last poll the next one begins, because a record may become visible after
    younger ones: seconds (3600 if not given), or numbers (0). Records that come again are recognised as duplicates."""


@dataclass(frozen=True, kw_only=True)
class RestSource(RowSource):
    """A source as declared.

    Attributes:
        base_url: Root of the API.
        path: The resource, below the root.
        requests_per_second: The most requests that are sent to the API, retries included.
        timeout_seconds: How long to wait for a connection, and for the next bytes of an answer.
        params: Query of each first request; the next URLs of `next_url` and `link_header` contain all that they need.
        auth: The credentials to read with.
        pagination: The way from one answer to the next; None if there is only one, which must not mention more.
        records: JSONPath, names alone, of the list of records in an answer; `$` if the answer is the list.
        total: JSONPath of the number of all records. A poll that does not reach it is not committed. Reaching it does
            not prove that the records are complete: by page or offset, one may be deleted while another is missed.
        max_minutes: The longest that a poll may take, with all pages, waits and second attempts.
        incremental: None reads all of the resource each time, and replaces the table if anything is different.
    """

    base_url: str
    path: str
    requests_per_second: float
    timeout_seconds: float
    max_minutes: float = 120
    params: Mapping[str, Param] = field(default_factory=dict)
    auth: Auth | None = None
    pagination: Pagination | None = None
    records: str = "$"
    total: str | None = None
    incremental: Incremental | None = None

    def __post_init__(self) -> None:
        """Raise ValueError where the declaration contradicts itself or the contract."""
        url = urlsplit(self.base_url)
        if url.scheme not in ("http", "https") or not url.hostname or url.username or url.query or url.fragment:
            raise ValueError(
                "the base URL must be http(s)://host/root; credentials belong into auth, a query into params"
            )
        if re.search(r"://|[?#\s]", self.path):
            raise ValueError(f"path {self.path!r} must be below the base URL; a query belongs into params")
        columns = {column.name for column in raw_shape(self.model).columns}
        if unknown := [key for key in self.keys if key not in columns]:
            raise ValueError(f"keys {', '.join(unknown)} are not columns of {self.model.__name__}")
        if self.incremental is not None:
            Watermark.of(self.model, self.incremental.field)

    @property
    def watermark(self) -> Watermark | None:
        """The watermark of an incremental source; None for a full one."""
        return None if self.incremental is None else Watermark.of(self.model, self.incremental.field)

    def asked(self, position: int | None) -> dict[str, Param]:
        """Give the parameters of a poll after a position of the watermark; {} for a poll of everything."""
        mark, declared = self.watermark, self.incremental
        if mark is None or declared is None or position is None:
            return {}
        default, unit = (_LAG_SECONDS, SECONDS) if mark.is_time else (0, 1)
        lag = default if declared.lag is None else declared.lag
        value = mark.value(position - lag * unit)
        if isinstance(value, datetime):
            return {declared.param: value.replace(tzinfo=None).isoformat() + "Z"}
        return {declared.param: value.isoformat() if isinstance(value, date) else value}
