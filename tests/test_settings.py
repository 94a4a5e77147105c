"""Settings: real environment variables, no .env of the developer."""

import os
import re
import subprocess
import sys
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
from dagster_deltalake.config import ClientConfig, LocalConfig, S3Config

from pipeline_assets import settings as settings_module
from pipeline_assets.settings import Settings, SettingsError, StorageSettings, ensure_home, load_settings, project_root


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Each test starts without PIPELINE_* variables and in a checkout that has no .env."""
    for name in [name for name in os.environ if name.startswith("PIPELINE_")]:
        monkeypatch.delenv(name)
    (tmp_path / "dbt_project").mkdir()
    monkeypatch.setattr(settings_module, "project_root", lambda: tmp_path)
    load_settings.cache_clear()
    yield tmp_path
    load_settings.cache_clear()


def test_without_variables_everything_lies_below_the_state_folder(no_environment: Path) -> None:
    settings = load_settings()
    assert settings.state_dir == no_environment / ".pipeline"
    assert settings.lake_uri == str(no_environment / ".pipeline" / "lake")
    assert settings.landing_uri == str(no_environment / ".pipeline" / "landing")
    assert settings.start_date == date(2010, 12, 1)
    assert settings.duckdb_memory_limit == "1GB"
    assert settings.settle_seconds == 5
    assert settings.storage_options() == {"provider": "local"}


def test_lake_and_landing_follow_the_state_folder_unless_they_are_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIPELINE_STATE_DIR", "/srv/state")
    monkeypatch.setenv("PIPELINE_LANDING_URI", "/srv/drop")
    assert load_settings().lake_uri == "/srv/state/lake"
    assert load_settings().landing_uri == "/srv/drop"


def test_relative_paths_are_relative_to_the_project_root_not_to_the_working_directory(
    monkeypatch: pytest.MonkeyPatch, no_environment: Path
) -> None:
    monkeypatch.chdir("/")
    monkeypatch.setenv("PIPELINE_LAKE_URI", "data/lake")
    assert load_settings().lake_uri == str(no_environment / "data" / "lake")


def test_settings_are_read_once_until_the_cache_is_cleared(monkeypatch: pytest.MonkeyPatch) -> None:
    first = load_settings()
    monkeypatch.setenv("PIPELINE_SETTLE_SECONDS", "0")
    assert load_settings() is first
    load_settings.cache_clear()
    assert load_settings().settle_seconds == 0


def test_a_variable_that_is_set_to_nothing_counts_as_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIPELINE_ALERT_WEBHOOK_URL", "")
    monkeypatch.setenv("PIPELINE_DUCKDB_THREADS", "")
    assert load_settings().alert_webhook_url is None
    assert load_settings().duckdb_threads is None


def test_the_env_file_of_the_project_is_read_and_the_environment_wins(
    monkeypatch: pytest.MonkeyPatch, no_environment: Path
) -> None:
    (no_environment / ".env").write_text("PIPELINE_SETTLE_SECONDS=1\nPIPELINE_DUCKDB_THREADS=3\nAWS_REGION=x\n")
    monkeypatch.setenv("PIPELINE_SETTLE_SECONDS", "2")
    assert (load_settings().settle_seconds, load_settings().duckdb_threads) == (2, 3)


def test_one_error_names_every_wrong_variable_and_no_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIPELINE_START_DATE", "yesterday-secret")
    monkeypatch.setenv("PIPELINE_DUCKDB_MEMORY_LIMIT", "lots-secret")
    monkeypatch.setenv("PIPELINE_STORAGE__PROVIDER", "gcs-secret")
    monkeypatch.setenv("PIPELINE_ALERT_WEBHOOK_URL", "hooks.secret")
    with pytest.raises(SettingsError) as caught:
        load_settings()
    message = str(caught.value)
    for name in ("START_DATE", "DUCKDB_MEMORY_LIMIT", "STORAGE__PROVIDER", "ALERT_WEBHOOK_URL"):
        assert f"PIPELINE_{name}: " in message
    assert "secret" not in message
    assert ".env.example" in message


def test_a_first_day_that_is_to_come_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    today = datetime.now(UTC).date()
    monkeypatch.setenv("PIPELINE_START_DATE", today.isoformat())
    assert load_settings().start_date == today
    load_settings.cache_clear()
    monkeypatch.setenv("PIPELINE_START_DATE", (today + timedelta(days=2)).isoformat())
    with pytest.raises(SettingsError, match="PIPELINE_START_DATE: lies in the future"):
        load_settings()


def test_a_misspelt_storage_variable_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIPELINE_STORAGE__PROVIDER", "s3")
    monkeypatch.setenv("PIPELINE_STORAGE__REGOIN", "eu-west-2")
    with pytest.raises(SettingsError, match="PIPELINE_STORAGE__REGOIN: Extra inputs are not permitted"):
        load_settings()


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"PIPELINE_LAKE_URI": "s3://lake"}, "PIPELINE_STORAGE__PROVIDER: must be s3, because PIPELINE_LAKE_URI"),
        ({"PIPELINE_LANDING_URI": "gs://drop"}, "PIPELINE_LANDING_URI: scheme gs:// is not supported"),
        ({"PIPELINE_STORAGE__REGION": "eu-west-2"}, "region need PIPELINE_STORAGE__PROVIDER=s3"),
    ],
)
def test_settings_that_contradict_each_other_are_an_error(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], message: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=re.escape(message)):
        load_settings()


def test_local_storage_options_are_those_of_dagster_deltalake() -> None:
    assert StorageSettings().options() == LocalConfig().str_dict()


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {
            "access_key_id": "lakeuser",
            "secret_access_key": "lakesecret",
            "token": "session",
            "region": "us-east-1",
            "endpoint": "http://127.0.0.1:8333",
            "unsigned_payload": True,
            "imdsv1_fallback": True,
            "allow_unsafe_rename": False,
        },
    ],
)
def test_s3_storage_options_are_those_of_dagster_deltalake(
    monkeypatch: pytest.MonkeyPatch, fields: dict[str, object]
) -> None:
    monkeypatch.setenv("PIPELINE_STORAGE__PROVIDER", "s3")
    for name, value in fields.items():
        monkeypatch.setenv(f"PIPELINE_STORAGE__{name.upper()}", str(value))
    assert load_settings().storage_options() == S3Config(**fields).str_dict()


def test_allow_http_is_the_client_option_of_dagster_deltalake() -> None:
    options = StorageSettings(provider="s3", allow_http=True).options()
    assert options == {**S3Config().str_dict(), **ClientConfig(allow_http=True).str_dict()}


def test_every_field_of_s3config_can_be_set() -> None:
    assert set(S3Config.model_fields) == set(StorageSettings.model_fields) - {"allow_http"}


def test_secrets_do_not_show_in_the_settings_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIPELINE_STORAGE__PROVIDER", "s3")
    monkeypatch.setenv("PIPELINE_STORAGE__SECRET_ACCESS_KEY", "hush")
    monkeypatch.setenv("PIPELINE_STORAGE__TOKEN", "hush")
    monkeypatch.setenv("PIPELINE_ALERT_SLACK_WEBHOOK_URL", "https://hush")
    monkeypatch.setenv("PIPELINE_DAGSTER_POSTGRES_URL", "postgresql://hush")
    assert "hush" not in repr(load_settings())


def test_the_example_file_lists_every_variable_and_no_other() -> None:
    text = (Path(__file__).parents[1] / ".env.example").read_text(encoding="utf-8")
    listed = re.findall(r"^# (PIPELINE_[A-Z0-9_]+)=", text, flags=re.MULTILINE)
    expected = {f"PIPELINE_{name}".upper() for name in Settings.model_fields if name != "storage"}
    expected |= {f"PIPELINE_STORAGE__{name}".upper() for name in StorageSettings.model_fields}
    assert sorted(listed) == sorted(expected)


def test_the_real_project_root_holds_the_workspace() -> None:
    assert (project_root() / "workspace.yaml").is_file()


@pytest.mark.parametrize("home", ["", "/does/not/exist"])
def test_a_process_without_a_home_gets_one_below_the_state_folder(
    monkeypatch: pytest.MonkeyPatch, no_environment: Path, home: str
) -> None:
    monkeypatch.setenv("HOME", home)
    ensure_home()
    assert Path(os.environ["HOME"]) == no_environment / ".pipeline" / "home"
    assert Path.home().is_dir()


def test_a_home_that_exists_is_left_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    ensure_home()
    assert os.environ["HOME"] == str(tmp_path)


@pytest.mark.parametrize("variable", ["PIPELINE_LAKE_URI", "PIPELINE_STATE_DIR"])
def test_a_lake_that_not_all_readers_would_find_is_refused_at_start(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str
) -> None:
    monkeypatch.setenv(variable, str(tmp_path / "lake%20x"))
    load_settings.cache_clear()
    with pytest.raises(SettingsError, match=r"PIPELINE_LAKE_URI: a lake cannot lie at .*'%' in its path"):
        load_settings()


def test_settings_are_loaded_without_a_database_engine(tmp_path: Path) -> None:
    # 0.26 s for each of Dagster's processes, of which the web server and the daemon need none.
    code = "import sys; from pipeline_assets.settings import load_settings; load_settings(); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert not {"duckdb", "deltalake", "pyarrow", "polars", "dagster"} & set(loaded.stdout.split())
