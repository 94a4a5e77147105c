"""Alerts: one message type and the targets it can go to. When an alert is due is decided in `components.alerts`.

Targets by configuration: a Slack webhook, a generic JSON webhook, both; the log when there is none.
"""

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import requests

from pipeline_assets.settings import Settings

_TIMEOUT_SECONDS = 10


@dataclass(frozen=True)
class Alert:
    """What people must know of one failure.

    Attributes:
        title: What happened, in a line.
        asset: Asset key with slashes; empty for a failure that is no single asset's.
        partition: Day or range of days; empty if there is none.
        owners: Who is to look at it.
        details: The first failing cases, or the error, one per line.
        run_id: Dagster's run.
    """

    title: str
    asset: str
    partition: str
    owners: Sequence[str]
    details: Sequence[str]
    run_id: str

    def text(self) -> str:
        """The alert as plain text, for people."""
        head = [self.title, f"asset {self.asset}" if self.asset else "", f"partition {self.partition}"]
        owners = f"owner {', '.join(self.owners)}" if self.owners else "no owner declared"
        lines = [" | ".join(part for part in [*head, owners, f"run {self.run_id}"] if part)]
        return "\n".join([*lines, *(f"  - {detail}" for detail in self.details)])


def send(alert: Alert, settings: Settings, log: logging.Logger) -> None:
    """Sends an alert to every configured target; to the log if there is none.

    Raises:
        requests.RequestException: A target did not take it; the caller's retry sends it again.
    """
    slack, webhook = settings.alert_slack_webhook_url, settings.alert_webhook_url
    if slack is not None:
        _post(slack.get_secret_value(), {"text": alert.text()})
    if webhook is not None:
        _post(webhook.get_secret_value(), asdict(alert))
    if slack is None and webhook is None:
        log.error("ALERT %s", alert.text())


def _post(url: str, body: dict[str, object]) -> None:
    try:
        answer = requests.post(
            url,
            data=json.dumps(body, default=str),
            headers={"Content-Type": "application/json"},
            timeout=_TIMEOUT_SECONDS,
        )
        answer.raise_for_status()
    except requests.RequestException as error:
        # The error's own text holds the URL, which is a secret.
        status = getattr(error.response, "status_code", None)
        raise requests.RequestException(
            f"alert target did not take the alert ({type(error).__name__}, status {status}): check PIPELINE_ALERT_*"
        ) from None
