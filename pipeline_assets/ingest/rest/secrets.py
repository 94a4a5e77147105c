"""The secrets of one poll: read from the environment, and kept out of every text that leaves `ingest.rest`."""

import html
import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import quote, quote_plus

from pipeline_assets.ingest.rest.errors import RestError

_HIDDEN = "***"
_EXCERPT_CHARACTERS = 200


class Secrets:
    """Knows the secrets that were used so far, including the tokens that the API gave out."""

    def __init__(self) -> None:
        self._forms: set[str] = set()

    def read(self, variable: str) -> str:
        """Give an environment variable's value, without the white space that files put around it.

        Raises:
            RestError: The variable is not set, or its value cannot be sent.
        """
        value = os.environ.get(variable, "").strip()
        if not value:
            raise RestError(f"{variable} is not set: it holds a credential of the API")
        if not value.isprintable():
            raise RestError(f"{variable} has a line end or another control character in it: that cannot be sent")
        self.add(value)
        return value

    def add(self, value: str) -> None:
        """Note a value as secret."""
        in_urls = {quote(value), quote(value, safe=""), quote_plus(value)}
        self._forms |= {value, *in_urls, json.dumps(value)[1:-1], html.escape(value)}

    def hide(self, text: str) -> str:
        """Give the text with each secret in it replaced by `***`, as it is or as URLs, JSON and HTML spell it."""
        for form in sorted(self._forms, key=len, reverse=True):
            text = text.replace(form, _HIDDEN)
        return text

    @contextmanager
    def hidden_in_log(self, logger: str) -> Iterator[None]:
        """Hide the secrets in what a logger writes: urllib3 writes each URL once somebody turns its debugging on."""

        def hide(record: logging.LogRecord) -> bool:
            record.msg, record.args = self.hide(record.getMessage()), None
            return True

        logging.getLogger(logger).addFilter(hide)
        try:
            yield
        finally:
            logging.getLogger(logger).removeFilter(hide)

    def excerpt(self, body: bytes) -> str:
        """Give the beginning of an answer, on one line, for an error message."""
        # Hide before cutting: the beginning of a secret at the end of the excerpt would not be recognised.
        text = " ".join(self.hide(body.decode("utf-8", "backslashreplace")).split())
        return text if len(text) <= _EXCERPT_CHARACTERS else f"{text[:_EXCERPT_CHARACTERS]}..."
