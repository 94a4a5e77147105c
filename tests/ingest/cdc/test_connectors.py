"""The shipped configurations: what the parsers assume is what is set, and each setting is explained."""

import json
import re
from pathlib import Path

import pytest

import pipeline_assets.ingest.cdc
from pipeline_assets.ingest.cdc.formats import debezium

FOLDER = Path(pipeline_assets.ingest.cdc.__file__).parent / "connectors"
README = (FOLDER / "README.md").read_text()


def kafka_connect(name: str) -> dict[str, str]:
    return dict(json.loads((FOLDER / name).read_text())["config"])


def properties(name: str) -> dict[str, str]:
    lines = [line for line in (FOLDER / name).read_text().splitlines() if line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


def server_source() -> dict[str, str]:
    given = properties("debezium-server.properties").items()
    return {name.removeprefix("debezium.source."): value for name, value in given if "debezium.source." in name}


@pytest.mark.parametrize("config", [kafka_connect("postgres.json"), kafka_connect("mysql.json"), server_source()])
def test_debezium_sends_what_the_parser_reads(config: dict[str, str]) -> None:
    assert re.search(r"connector\.(\w+)\.", config["connector.class"])[1] in debezium.CONNECTORS  # type: ignore[index]
    assert config["decimal.handling.mode"] == "string"
    assert config["time.precision.mode"] == "isostring"
    assert config["binary.handling.mode"] == "bytes"
    assert config["skipped.operations"] == "none"
    assert config["provide.transaction.metadata"] == "true"
    assert config["tombstones.on.delete"] == "false"
    assert config["event.processing.failure.handling.mode"] == "fail"
    assert config["event.converting.failure.handling.mode"] == "fail"
    assert config.get("unavailable.value.placeholder", debezium.PLACEHOLDER) == debezium.PLACEHOLDER
    assert "transforms" not in config


@pytest.mark.parametrize("name", ["postgres.json", "mysql.json"])
def test_kafka_connect_writes_plain_json(name: str) -> None:
    config = kafka_connect(name)
    for side in ("key", "value"):
        assert config[f"{side}.converter"] == "org.apache.kafka.connect.json.JsonConverter"
        assert config[f"{side}.converter.schemas.enable"] == "false"
    assert config["database.password"].startswith("${env:")


def test_debezium_server_is_set_as_kafka_connect_is() -> None:
    config, shared = server_source(), kafka_connect("postgres.json")
    own = {name for name in config if name.startswith("offset.")} | {"database.password"}
    only_connect = {name for name in shared if "converter" in name} | {"tasks.max", "database.password"}
    assert {name: config[name] for name in config.keys() - own} == {
        name: shared[name] for name in shared.keys() - only_connect
    }
    formats = properties("debezium-server.properties")
    for side in ("key", "value"):
        assert formats[f"debezium.format.{side}"] == "json"
        assert formats[f"debezium.format.{side}.schemas.enable"] == "false"


def test_unsigned_numbers_of_mysql_keep_their_sign() -> None:
    config = kafka_connect("mysql.json")
    assert config["bigint.unsigned.handling.mode"] == "precise"
    assert config["value.converter.decimal.format"] == config["key.converter.decimal.format"] == "NUMERIC"


def test_no_year_of_mysql_is_moved() -> None:
    assert kafka_connect("mysql.json")["enable.time.adjuster"] == "false"


def test_maxwell_sends_what_orders_its_records() -> None:
    config = properties("maxwell.properties")
    assert {name: config[name] for name in config if name.startswith("output_") and name != "output_file"} == {
        "output_binlog_position": "true",
        "output_xoffset": "true",
        "output_commit_info": "true",
        "output_nulls": "true",
        "output_ddl": "false",
    }
    assert config["encrypt"] == "none"


@pytest.mark.parametrize(
    "config", [kafka_connect("postgres.json"), kafka_connect("mysql.json"), properties("maxwell.properties")]
)
def test_each_setting_is_explained(config: dict[str, str]) -> None:
    explained = re.findall(r"`([^`]+)`", "\n".join(line.split("|")[1] for line in README.splitlines() if "|" in line))
    patterns = [
        re.escape(name.strip().partition("=")[0]).replace(r"\*", ".*") for text in explained for name in text.split(",")
    ]
    assert [name for name in config if not any(re.fullmatch(pattern, name) for pattern in patterns)] == []
