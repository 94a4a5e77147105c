"""Alerts: one message type and the targets it can go to. `components.alerts` decides when an alert is due.

Targets are configured: a Slack webhook, a generic JSON webhook, or both; without any, alerts go to the log.
"""

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import requests
from pydantic import SecretStr
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from pipeline_assets.settings import Settings

_TIMEOUT_SECONDS = 10
_RETRIES = 3


@dataclass(frozen=True)
class Alert:
    """What people must know about one failure, or about a silent source.

    Attributes:
        title: What happened, in one line.
        asset: Asset key with slashes; empty for a failure that does not belong to one asset.
        partition: Day or range of days; empty if there is no partition.
        owners: People who should look at it.
        details: The first failing cases, the error, or what to look at, one per line.
        run_id: Dagster's run; empty if there is no run.
        link: Address of the run; empty if the web server's address is not known.
    """

    title: str
    asset: str
    partition: str
    owners: Sequence[str]
    details: Sequence[str]
    run_id: str
    link: str = ""

    def text(self) -> str:
        """Return the alert as plain text, for people."""
        head = [
            self.title,
            f"asset {self.asset}" if self.asset else "",
            f"partition {self.partition}" if self.partition else "",
        ]
        owners = f"owner {', '.join(self.owners)}" if self.owners else "no owner declared"
        run = f"run {self.link or self.run_id}" if self.run_id else ""
        lines = [" | ".join(part for part in [*head, owners, run] if part)]
        return "\n".join([*lines, *(f"  - {detail}" for detail in self.details)])


def send(alert: Alert, settings: Settings, log: logging.Logger) -> None:
    """Send an alert to every configured target, and log it if there is no target or one does not accept it.

    Dagster calls a run status sensor only once per run, even if the call fails. So nothing is raised here.
    """
    if settings.dagster_url and alert.run_id:
        alert = replace(alert, link=f"{settings.dagster_url.rstrip('/')}/runs/{alert.run_id}")
    bodies: list[tuple[SecretStr | None, dict[str, object]]] = [
        (settings.alert_slack_webhook_url, {"text": alert.text()}),
        (settings.alert_webhook_url, asdict(alert)),
    ]
    targets = [(url.get_secret_value(), body) for url, body in bodies if url is not None]
    problems = [problem for url, body in targets if (problem := _post(url, body))]
    for problem in problems:
        log.error("an alert target did not accept an alert (%s): check PIPELINE_ALERT_*", problem)
    if problems or not targets:
        log.error("ALERT %s", alert.text())


def _post(url: str, body: dict[str, object]) -> str | None:
    """Post JSON, with a few retries; return what went wrong, without the URL, which is a secret."""
    retries = Retry(
        total=_RETRIES, backoff_factor=0.5, status_forcelist=(429, 500, 502, 503, 504), allowed_methods=None
    )
    with requests.Session() as session:
        for scheme in ("https://", "http://"):
            session.mount(scheme, HTTPAdapter(max_retries=retries))
        try:
            answer = session.post(
                url,
                data=json.dumps(body, default=str),
                headers={"Content-Type": "application/json"},
                timeout=_TIMEOUT_SECONDS,
            )
        except requests.RequestException as error:
            return type(error).__name__
    return None if answer.ok else f"status {answer.status_code}"
