"""Every environment variable of the pipeline: typed, validated once, all errors in one message.

Holds `Settings` (prefix `PIPELINE_`), `load_settings`, `project_root` and `ensure_home`. What a source needs is in its
`defs.yaml`. Imports neither Dagster nor DuckDB, so that every layer can import it cheaply. `.env.example` lists the
variables; a test compares the two.
"""

import os
from collections.abc import Mapping
from datetime import UTC, date, datetime
from functools import lru_cache, partial
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from pipeline_assets.lake_place import refusal

ENV_PREFIX = "PIPELINE_"
NESTED_DELIMITER = "__"


class SettingsError(Exception):
    """The environment does not describe a pipeline that could run. The message names each variable and the remedy."""


def project_root() -> Path:
    """Return the folder that holds `dbt_project/`, `workspace.yaml` and `dagster.yaml`.

    Raises:
        SettingsError: The package was installed without its checkout, and the working directory is not a checkout
            either.
    """
    for folder in (Path(__file__).resolve().parent.parent, Path.cwd()):
        if (folder / "dbt_project").is_dir():
            return folder
    raise SettingsError(
        "No dbt_project/ found: run `make setup` in the checkout (an editable install), or start in its folder."
    )


def _absolute_uri(value: str) -> str:
    """Make a path absolute; leave a URI with a scheme alone. Relative paths start at the project root.

    They do not start at the working directory: dbt, the code server and the command line run in different ones and must
    agree.
    """
    if "://" in value:
        return value.rstrip("/")
    return str((project_root() / Path(value).expanduser()).resolve())


def _absolute_path(value: Path) -> Path:
    return (project_root() / value.expanduser()).resolve()


def _http_url(value: SecretStr) -> SecretStr:
    if not value.get_secret_value().startswith(("https://", "http://")):
        raise ValueError("must start with https:// or http://")
    return value


def _not_in_future(value: date) -> date:
    if value > datetime.now(UTC).date():
        raise ValueError("lies in the future: there would be no partition, and nothing could be ingested")
    return value


LakeUri = Annotated[str, Field(min_length=1), AfterValidator(_absolute_uri)]
AbsolutePath = Annotated[Path, AfterValidator(_absolute_path)]
WebhookUrl = Annotated[SecretStr, AfterValidator(_http_url)]


class StorageSettings(BaseModel):
    """Where Delta tables and landing files live; the fields of `dagster_deltalake`'s `LocalConfig` and `S3Config`.

    With provider `s3` and no keys, the object store library searches for credentials itself (AWS_* variables, instance
    role).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    provider: Literal["local", "s3"] = "local"
    access_key_id: str | None = None
    secret_access_key: SecretStr | None = None
    region: str | None = None
    bucket: str | None = None
    endpoint: str | None = None
    token: SecretStr | None = None
    imdsv1_fallback: bool = False
    virtual_hosted_style_request: str | None = None
    unsigned_payload: bool | None = None
    checksum: str | None = None
    metadata_endpoint: str | None = None
    container_credentials_relative_uri: str | None = None
    copy_if_not_exists: str | None = None
    allow_unsafe_rename: bool | None = None
    # The only field of `ClientConfig` here: a test server on http:// needs it.
    allow_http: bool | None = None

    @model_validator(mode="after")
    def _local_takes_no_options(self) -> "StorageSettings":
        given = sorted(self.model_fields_set - {"provider"})
        if self.provider == "local" and given:
            raise ValueError(f"{', '.join(given)} need {ENV_PREFIX}STORAGE{NESTED_DELIMITER}PROVIDER=s3")
        return self

    def options(self) -> dict[str, str]:
        """Return the options for delta-rs, secrets in clear text: hand them on, never log them."""
        if self.provider == "local":
            return {"provider": "local"}
        values = {name: getattr(self, name) for name in type(self).model_fields}
        plain = {name: v.get_secret_value() if isinstance(v, SecretStr) else v for name, v in values.items()}
        return {name: str(value) for name, value in plain.items() if value is not None}


def _below_state_dir(name: str, validated: Mapping[str, Any]) -> str:
    """Return the default of a field: a folder below `state_dir`, which is validated earlier and missing if invalid."""
    return str(validated["state_dir"] / name) if "state_dir" in validated else ""


class Settings(BaseSettings):
    """The pipeline's configuration, read from `PIPELINE_*` variables and from `.env` in the project root.

    An empty variable counts as not set. Relative paths are relative to the project root.
    """

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        env_nested_delimiter=NESTED_DELIMITER,
        env_ignore_empty=True,
        env_file_encoding="utf-8",
        extra="ignore",  # .env may hold variables of Dagster, dbt and AWS too
        frozen=True,
        hide_input_in_errors=True,
    )

    state_dir: AbsolutePath = Field(default=Path(".pipeline"), validate_default=True)
    """What this machine remembers: Dagster's runs and logs, and the default lake and landing folder."""

    lake_uri: LakeUri = Field(default_factory=partial(_below_state_dir, "lake"))
    """Root of all Delta tables: a path or s3://bucket/prefix."""

    landing_uri: LakeUri = Field(default_factory=partial(_below_state_dir, "landing"))
    """Root of the landing files: a path or s3://bucket/prefix."""

    storage: StorageSettings = StorageSettings()
    start_date: Annotated[date, AfterValidator(_not_in_future)] = date(2010, 12, 1)
    """First daily partition (UTC)."""

    duckdb_memory_limit: str = Field(default="1GB", pattern=r"^\d+(\.\d+)?\s*([KMGT]i?B)$")
    """Limit per connection; DuckDB spills to disk beyond it."""

    duckdb_threads: int | None = Field(default=None, ge=1)
    """Threads per connection; None means one per core."""

    settle_seconds: float = Field(default=5.0, ge=0)
    """Time for which a landing file must be unchanged before it is read."""

    alert_slack_webhook_url: WebhookUrl | None = None
    alert_webhook_url: WebhookUrl | None = None

    alert_row_values: bool = False
    """Whether alerts quote values of rows. They may be personal, and alerts leave this machine.

    The UI shows them anyway.
    """

    dagster_url: str | None = Field(default=None, pattern=r"^https?://\S+$")
    """Root of Dagster's web server as people reach it, for links in alerts."""

    dagster_postgres_url: SecretStr | None = None
    """Dagster's own database (runs, events, schedules); None means SQLite below `state_dir`."""

    @model_validator(mode="after")
    def _lake_can_be_read(self) -> "Settings":
        if problem := refusal(self.lake_uri):
            raise ValueError(f"{ENV_PREFIX}LAKE_URI: {problem}")
        return self

    @model_validator(mode="after")
    def _storage_fits_the_uris(self) -> "Settings":
        for name in ("lake_uri", "landing_uri"):
            scheme, separator, _ = getattr(self, name).partition("://")
            if separator and scheme != "s3":
                raise ValueError(
                    f"{ENV_PREFIX}{name.upper()}: scheme {scheme}:// is not supported; give a path or s3://bucket/prefix"
                )
            if separator and self.storage.provider != "s3":
                provider = f"{ENV_PREFIX}STORAGE{NESTED_DELIMITER}PROVIDER"
                raise ValueError(f"{provider}: must be s3, because {ENV_PREFIX}{name.upper()} is on s3://")
        return self

    def storage_options(self) -> dict[str, str]:
        """Return what `dagster_deltalake`'s `LocalConfig`/`S3Config(...).str_dict()` returns, without importing it."""
        return self.storage.options()

    @property
    def dagster_dir(self) -> Path:
        """Dagster's files: SQLite databases, compute logs, artifacts. See dagster.yaml."""
        return self.state_dir / "dagster"


def _explain(error: ValidationError) -> str:
    """Write one line per variable. Values are left out: they may be secrets."""
    lines = []
    for problem in error.errors(include_input=False, include_url=False, include_context=False):
        variable = ENV_PREFIX + NESTED_DELIMITER.join(str(part) for part in problem["loc"]).upper()
        text = problem["msg"].removeprefix("Value error, ")
        lines.append(f"  {variable}: {text}" if problem["loc"] else f"  {text}")
    return "\n".join(["These settings are wrong (set them in the environment or in .env, see .env.example):", *lines])


@lru_cache(maxsize=1)
def load_settings() -> Settings:
    """Read and validate the environment once per process; `load_settings.cache_clear()` forgets it.

    Raises:
        SettingsError: One or more variables are wrong; one message names them all.
    """
    try:
        return Settings(_env_file=project_root() / ".env")
    except ValidationError as error:
        raise SettingsError(_explain(error)) from None


def ensure_private(folder: Path) -> Path:
    """Create a folder of this machine's state for its owner alone: it holds samples of data, logs and the like.

    A folder that exists stays as it is. The lake and the landing folder are private because they lie in the state
    folder. A lake that several users share is set elsewhere (PIPELINE_LAKE_URI, PIPELINE_LANDING_URI) and follows the
    umask.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def ensure_home() -> None:
    """Give the process a HOME if it lacks a usable one, as containers and service units often do.

    DuckDB and Dagster's tools look for their folders below it and fail without it. Call this first in a process.
    """
    home = os.environ.get("HOME", "")
    if home and os.access(home, os.W_OK):
        return
    folder = ensure_private(ensure_private(load_settings().state_dir) / "home")
    os.environ["HOME"] = str(folder)
