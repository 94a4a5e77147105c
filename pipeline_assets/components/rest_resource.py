"""The `RestResource` component: one `defs.yaml` makes a bronze asset that polls a resource of a REST API.

`ingest.rest` turns pages into rows; the asset has the checks of every bronze table, in `assets.bronze`.

Concept: https://docs.dagster.io/guides/automate/schedules
"""

import os
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Annotated, Any

import dagster as dg
from croniter import croniter
from pydantic import Field, field_validator, model_validator

from pipeline_assets.components.assets import bronze as bronze_assets
from pipeline_assets.components.assets.bronze import NAME, OWNER, bronze_key, dead_letters_key
from pipeline_assets.components.assets.dead_letters import DeadLetters
from pipeline_assets.components.automation.cancellation import RETRIES
from pipeline_assets.components.automation.pull_schedule import pull_schedule
from pipeline_assets.components.resources import LakeResource
from pipeline_assets.contracts.base import contract
from pipeline_assets.ingest.batch.replay import ReplaySource
from pipeline_assets.ingest.batch.replay_pulls import row_source
from pipeline_assets.ingest.rest import poll as polls
from pipeline_assets.ingest.rest.source import Auth, Incremental, Pagination, Param, RestSource

WHOLE_TAG = "pipeline_assets/whole"
"""Tag: the run reads all of the source, and commits it even if it seems to be in the table already."""

# Enough to see the longest pause: the weekend in "every ten minutes on weekdays", February in "on the 31st".
_TICKS, _SPAN = 50, timedelta(days=9)
_ANY_URL = "https://not-set.invalid"


class RestResource(dg.Component, dg.Model, dg.Resolvable):
    """A resource of a REST API, polled on a schedule. A poll is complete, or nothing of it is committed.

    A poll reads the present, whatever day it is asked for: its rows lie in the partition of the day of the poll, and
    the next poll makes up for a missed one. Silver and gold follow in the same run, as with landing files.
    """

    name: Annotated[str, Field(pattern=NAME)]
    """`<source>__<entity>` in snake_case: the table is `bronze.<name>`, its dead letters are `dead_letters.<name>`."""

    base_url: str | None = None
    """Root of the API, `https://api.example.com/v2`."""

    base_url_env: Annotated[str, Field(pattern=r"^[A-Z][A-Z0-9_]*$")] | None = None
    """Environment variable that holds the root, if each environment has another one. Unset: the source rests."""

    path: str
    """The resource, below the root: `accounts`."""

    params: dict[str, Param] = Field(default_factory=dict)
    """Query of the requests, the page size among them: `{limit: 200, archived: false}`."""

    auth: Auth | None = None
    """`type`: bearer, basic, api_key or oauth2_client_credentials. Secrets are given by the names of environment
    variables."""

    pagination: Pagination | None = None
    """`type`: page, offset, cursor, next_url or link_header; none if all records come in one answer. If that answer
    mentions more (a total, a next page) but is all that is wanted, such as the latest ten: single_page. If the API has
    a flag such as `has_more`, name it: `more: has_more` (for the first four). By page or offset, records that move
    meanwhile may be missed, and `total` finds that only if their number changes: take a cursor if the API has one, and
    sort by something that does not change."""

    records: str = "$"
    """Path of the list of records in an answer: `data.items`; `$` if the answer is the list."""

    total: str | None = None
    """Path of the number of all records in an answer: `meta.total`. A poll that does not reach it is not committed."""

    keys: Annotated[list[str], Field(min_length=1)]
    """Columns of the contract that name a record at the source. A record that is read again and equals its row in
    bronze is no new row; if one poll meets several versions of a record, the newest is kept; and the contract check
    looks at the last version of each record. A poll makes no tombstones: a record that the API no longer lists stays as
    it was."""

    incremental: Incremental | None = None
    """`param`, `field`, `lag`: asks for what is new since the last poll. Without it a poll reads all there is."""

    contract: str
    """Name of the Pandera model of a record, e.g. `crm.Accounts`."""

    owner: Annotated[str, Field(pattern=OWNER)]
    """Who answers for the source: an e-mail address or `team:<name>`. Alerts name them."""

    cron: str = "0 */6 * * *"
    """When it is polled, UTC. After twice the longest pause without a poll, the asset is no longer fresh."""

    requests_per_second: Annotated[float, Field(gt=0)] = 5
    """The most requests that are sent to the API, retries included."""

    timeout_seconds: Annotated[float, Field(gt=0)] = 60
    """How long to wait for a connection, and for the next bytes of an answer."""

    max_minutes: Annotated[float, Field(gt=0)] = 120
    """The longest that a poll may take: all pages, waits (`Retry-After` too) and second attempts. A poll that would
    take longer ends with an error, and the next tick polls again. A run is ended after four hours."""

    schema_evolution: bool = False
    """True: unknown fields become new columns. False: they are kept as JSON in `_rescued`."""

    failure_budget: Annotated[float, Field(ge=0, le=1)] = 0.01
    """Share of a day's records that may be dead letters before the blocking check fails."""

    description: str = ""

    @field_validator("contract")
    @classmethod
    def _contract_exists(cls, value: str) -> str:
        contract(value)
        return value

    @field_validator("cron")
    @classmethod
    def _cron_is_one(cls, value: str) -> str:
        if not croniter.is_valid(value):
            raise ValueError(f"{value!r} is no cron expression such as 0 */6 * * *")
        return value

    @model_validator(mode="after")
    def _makes_a_source(self) -> "RestResource":
        if (self.base_url is None) == (self.base_url_env is None):
            raise ValueError("declare either base_url or base_url_env")
        self.source(self.base_url or _ANY_URL)
        return self

    def source(self, base_url: str) -> RestSource:
        """Give the declaration in the form of the domain code."""
        return RestSource(
            name=self.name,
            model=contract(self.contract),
            keys=tuple(self.keys),
            schema_evolution=self.schema_evolution,
            base_url=base_url,
            path=self.path,
            params=self.params,
            auth=self.auth,
            pagination=self.pagination,
            records=self.records,
            total=self.total,
            incremental=self.incremental,
            requests_per_second=self.requests_per_second,
            timeout_seconds=self.timeout_seconds,
            max_minutes=self.max_minutes,
        )

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """Build the source's definitions."""
        selection = dg.AssetSelection.assets(bronze_key(self.name)).downstream() | dg.AssetSelection.assets(
            dead_letters_key(self.name)
        )
        text = "Reads all of the source once more: what was missed, or did not fit the contract of then."
        jobs = [
            dg.define_asset_job(f"{self.name}__to_gold", selection, description="Polls, then all downstream."),
            dg.define_asset_job(f"{self.name}__whole", selection, tags={WHOLE_TAG: "yes"}, description=text),
        ]
        jobs += self.dead_letters.jobs(selection)
        schedule = pull_schedule(
            self.name,
            cron=self.cron,
            due=lambda _, today: (today, today),
            resting=lambda: None if self._root() else self._resting,
            description=f"Polls {self.path}.",
        )
        return dg.Definitions(
            assets=[self._assets()],
            asset_checks=[bronze_assets.checks(self._rows, self.failure_budget, self.keys)],
            jobs=jobs,
            schedules=[schedule],
        )

    @property
    def _rows(self) -> ReplaySource:
        return row_source(self.source(self.base_url or _ANY_URL))

    @property
    def dead_letters(self) -> DeadLetters:
        """Give the dead letters of the source."""
        return DeadLetters.of_rows(self._rows)

    def _root(self) -> str | None:
        """Give the root of the API; None while its variable is not set."""
        return self.base_url or os.environ.get(self.base_url_env or "") or None

    @property
    def _resting(self) -> str:
        return f"{self.base_url_env} is not set: no API to poll"

    def _specs(self) -> list[dg.AssetSpec]:
        where = f"{self.base_url}/{self.path}" if self.base_url else self.path
        return bronze_assets.specs(
            self.name,
            contract(self.contract),
            owner=self.owner,
            read_from=f"GET /{self.path.strip('/')}",
            description=self.description or f"Records of {where} as they were when polled.",
            every=_longest_pause(self.cron),
            metadata={
                "api": where,
                "cron": self.cron,
                "mode": f"incremental by {self.incremental.field}" if self.incremental else "full",
                "keys": ", ".join(self.keys),
            },
        )

    def _assets(self) -> dg.AssetsDefinition:
        @dg.multi_asset(
            name=f"{self.name}__poll",
            specs=self._specs(),
            backfill_policy=dg.BackfillPolicy.single_run(),
            retry_policy=RETRIES,
            pool=f"source_{self.name}",
        )
        def poll(context: dg.AssetExecutionContext, lake: LakeResource) -> Iterator[dg.MaterializeResult[None]]:
            bronze, dead_letters, root = bronze_key(self.name), dead_letters_key(self.name), self._root()
            if root is None:
                yield from bronze_assets.rested(context, self.name, self._resting)
                return
            run_id, tags = context.run.run_id, context.run.tags
            with bronze_assets.errors_as_failures(self.name, again=False):
                self.dead_letters.discard_if_asked(tags, lake, run_id)
                with lake.connect() as con:
                    polled = polls.poll(lake.open(), con, self.source(root), whole=WHOLE_TAG in tags, run_id=run_id)
                replayed = self.dead_letters.replay_if_asked(tags, lake, run_id)
            if polled.restarted:
                context.log.warning("the pages were read twice: %s", polled.restarted)
            day = polled.day.isoformat()
            if day in context.partition_keys:
                context.add_asset_metadata(asdict(polled.total), asset_key=bronze, partition_key=day)
            facts: dict[str, Any] = {"delta_version": polled.version, "asked": polled.origin, "pages": polled.pages}
            facts |= bronze_assets.widened_metadata(polled.widened)
            yield dg.MaterializeResult(asset_key=bronze, metadata={**facts, **asdict(polled.total), **replayed})
            dead = {"dead_letters": polled.total.dead_letters, **self.dead_letters.metadata(lake)[self.name]}
            yield dg.MaterializeResult(asset_key=dead_letters, metadata=dead)

        return poll


def _longest_pause(cron: str) -> timedelta:
    """Give the longest time between two ticks."""
    start = datetime(2026, 1, 1, tzinfo=UTC)
    ticks = croniter(cron, start)
    seconds: list[float] = [ticks.get_next()]
    while len(seconds) < _TICKS or seconds[-1] < (start + _SPAN).timestamp():
        seconds.append(ticks.get_next())
    return timedelta(seconds=max(later - earlier for earlier, later in pairwise(seconds)))
