"""What a source's owner does to a table between two runs: nothing is lost, or the table is read again, unasked.

After each run the change tables are folded, and compared with the rows that the source has.
"""

import json

import pandera.polars as pa
import polars as pl
import pytest
from postgres import execute

from pipeline_assets.ingest.cdc.slot.altered import note
from pipeline_assets.ingest.cdc.slot.drain import Drain
from pipeline_assets.ingest.cdc.slot.health import ChangeSource
from pipeline_assets.ingest.cdc.slot.postgres import Postgres
from pipeline_assets.ingest.cdc.table.change_table import ChangeTable
from pipeline_assets.lake import Lake, Table


class Thing(pa.DataFrameModel):
    """What stays of a row whatever is done to its table."""

    id: pl.Int64
    v: pl.String = pa.Field(nullable=True)


def declared(name):
    return ChangeTable(f"public.{name}", f"db__{name}", Thing, ("id",))


def without_nulls(document):
    """Of a row that was there before a column was, bronze does not say that it is null."""
    return {name: value for name, value in json.loads(document).items() if value is not None}


class Stream:
    """A stream of some tables, and what it must agree with."""

    def __init__(self, url, folder, *names):
        self.url, self.lake = url, Lake(str(folder / "lake"))
        self.tables = [declared(name) for name in names]
        self.postgres = Postgres(url, slot=f"s{url.rpartition('_')[2]}", publication="pub")

    def run(self, *statements):
        """Runs the stream after some statements; returns what it read again, with the reason."""
        self.drain(*statements)
        assert {table.name: self.folded(table) for table in self.tables} == self.at_source()
        assert self.letters() == []
        assert self.report.suspects == {}
        assert {*self.report.altered} == {*self.report.snapshots}
        return {name.removeprefix("db__"): reason for name, reason in self.report.altered.items()}

    def drain(self, *statements):
        if statements:
            execute(self.url, *statements)
        with self.lake.connect() as con:
            source = ChangeSource("db", tuple(self.tables), 1 << 30)
            self.report = Drain(self.lake, con, source, self.postgres, "run").run()
        return self.report

    def folded(self, table):
        with self.lake.connect() as con:
            events = con.execute(
                f"SELECT op, key, after FROM {table.bronze(self.lake).scan()} ORDER BY commit_lsn, tx_seq"
            ).fetchall()
        rows = {}
        for op, key, after in events:
            if op == "t":
                rows.clear()
            elif op == "d":
                rows.pop(key, None)
            else:
                rows[key] = without_nulls(after)
        return rows

    def at_source(self):
        with self.postgres.snapshot([table.source_table for table in self.tables]) as snapshot:
            return {
                table.name: {row.key: without_nulls(row.after) for row in snapshot.rows(table.source_table, table.keys)}
                for table in self.tables
            }

    def letters(self):
        names = [*(table.name for table in self.tables), "db__unrouted"]
        letters = [Table(self.lake, f"dead_letters.{name}") for name in names]
        with self.lake.connect() as con:
            return [
                reason
                for table in letters
                if table.exists()
                for (reason,) in con.execute(f"SELECT reason FROM {table.scan()}").fetchall()
            ]


@pytest.fixture
def stream(database, tmp_path):
    execute(
        database,
        "CREATE TABLE things (id int PRIMARY KEY, v text)", "CREATE TABLE others (id int PRIMARY KEY, v text)",
        "INSERT INTO things SELECT i, 'v' || i FROM generate_series(1, 3) i", "INSERT INTO others VALUES (1, 'o')",
        "CREATE PUBLICATION pub FOR TABLE things, others",
    )  # fmt: skip
    found = Stream(database, tmp_path, "things", "others")
    assert found.drain().snapshots == {"db__things", "db__others"}
    return found


def test_a_table_that_was_renamed_or_moved_and_is_back_keeps_its_changes_and_is_not_read_again(stream):
    swap = ("ALTER TABLE things RENAME TO t", "ALTER TABLE others RENAME TO things", "ALTER TABLE t RENAME TO others")
    assert stream.run(
        "ALTER TABLE things RENAME TO things_maint", "INSERT INTO things_maint VALUES (4, 'd')",
        "DELETE FROM things_maint WHERE id = 1", "ALTER TABLE things_maint RENAME TO things",
        "ALTER SCHEMA public RENAME TO gone", "UPDATE gone.things SET v = 'x'", "ALTER SCHEMA gone RENAME TO public",
        "CREATE SCHEMA aside", "ALTER TABLE things SET SCHEMA aside", "DELETE FROM aside.things WHERE id = 2",
        "ALTER TABLE aside.things SET SCHEMA public",
        *swap, "INSERT INTO things VALUES (7, 'other')", "DELETE FROM others WHERE id = 3", *swap,
    ) == {}  # fmt: skip
    assert stream.run(*swap, "TRUNCATE things", "INSERT INTO things VALUES (8, 'other')", *swap) == {}


def test_tables_that_changed_their_names_for_good_are_read_again(stream):
    swap = ("ALTER TABLE things RENAME TO t", "ALTER TABLE others RENAME TO things", "ALTER TABLE t RENAME TO others")
    again = stream.run("DELETE FROM things WHERE id = 3", *swap, "UPDATE things SET v = 'y'")
    assert set(again) == {"things", "others"}
    again = stream.run(
        "DROP TABLE others", "CREATE TABLE others (id int PRIMARY KEY, v text)", "ALTER PUBLICATION pub ADD TABLE "
        "others", "INSERT INTO others VALUES (9)",
    )  # fmt: skip
    assert set(again) == {"others"}
    assert stream.run("INSERT INTO others VALUES (10)") == {}


def test_another_table_that_had_the_name_for_a_while_does_not_write_into_it(stream):
    report = stream.drain(
        "CREATE TABLE guest (id int PRIMARY KEY, v text)", "ALTER PUBLICATION pub ADD TABLE guest",
        "ALTER TABLE things RENAME TO aside", "ALTER TABLE guest RENAME TO things",
        "INSERT INTO things VALUES (77, 'guest')", "ALTER TABLE things RENAME TO guest",
        "ALTER TABLE aside RENAME TO things",
    )  # fmt: skip
    assert report.snapshots == frozenset()
    assert stream.folded(stream.tables[0]) == stream.at_source()["db__things"]
    (letter,) = stream.letters()
    assert "table: public.things (another table of this name, OID " in letter


# Of a table {t} (id, v, g) with rows, whose columns m, p and a are of types of its own: {t}_mood, {t}_pair.
READ_AGAIN = (
    "ALTER TABLE {t} RENAME v TO w; {writes}; ALTER TABLE {t} RENAME w TO v",
    "ALTER TABLE {t} RENAME id TO nr; INSERT INTO {t} VALUES (9); ALTER TABLE {t} RENAME nr TO id",
    "ALTER TABLE {t} RENAME v TO x; ALTER TABLE {t} RENAME u TO v; ALTER TABLE {t} RENAME x TO u; {writes}; "
    "ALTER TABLE {t} RENAME v TO x; ALTER TABLE {t} RENAME u TO v; ALTER TABLE {t} RENAME x TO u",
    "ALTER TABLE {t} ADD k int NOT NULL UNIQUE GENERATED ALWAYS AS IDENTITY; ALTER TABLE {t} REPLICA IDENTITY USING "
    "INDEX {t}_k_key; {writes}; ALTER TABLE {t} REPLICA IDENTITY DEFAULT",
    "ALTER TABLE {t} ADD s score",
    "ALTER TABLE {t} ADD s int DEFAULT 7; ALTER TABLE {t} ALTER s DROP DEFAULT",
    "ALTER TABLE {t} ADD s float DEFAULT random()",
    "ALTER TABLE {t} ADD s float DEFAULT random(); ALTER TABLE {t} ALTER s DROP DEFAULT",
    "ALTER TABLE {t} ALTER v TYPE text USING upper(v)",
    "ALTER TABLE {t} ALTER u TYPE bytea USING 'x'; ALTER TABLE {t} ALTER u TYPE text USING 'y'",
    "TRUNCATE {t}; INSERT INTO {t} VALUES (9, 'x'); ALTER TABLE {t} ALTER v TYPE text USING upper(v)",
    "ALTER TABLE {t} DROP v; ALTER TABLE {t} ADD v text",
    "ALTER TABLE {t} ADD s int GENERATED ALWAYS AS (g * 2) STORED",
    "ALTER TABLE {t} ALTER twice SET EXPRESSION AS (g * 3)",
    "ALTER TYPE {t}_mood RENAME VALUE 'sad' TO 'unhappy'",
    "ALTER TYPE {t}_mood RENAME VALUE 'ok' TO 'x'; UPDATE {t} SET m = 'x'; ALTER TYPE {t}_mood RENAME VALUE 'x' TO "
    "'ok'",
    "ALTER TYPE {t}_pair ADD ATTRIBUTE c text",
    "ALTER TYPE {t}_pair DROP ATTRIBUTE x",
    "ALTER TYPE {t}_pair RENAME ATTRIBUTE x TO y",
    "ALTER PUBLICATION pub DROP TABLE {t}; {writes}; ALTER PUBLICATION pub ADD TABLE {t}",
    "ALTER PUBLICATION pub DROP TABLE {t}; ALTER PUBLICATION pub ADD TABLE {t} WHERE (id <> 2)",
    "ALTER PUBLICATION pub DROP TABLE {t}; ALTER PUBLICATION pub ADD TABLE {t} (id, v)",
)
NOT_READ_AGAIN = (
    "{writes}", "VACUUM FULL {t}", "CLUSTER {t} USING {t}_pkey", "ANALYZE {t}", "VACUUM FREEZE {t}",
    "TRUNCATE {t}; INSERT INTO {t} VALUES (1)", "ALTER TYPE {t}_mood ADD VALUE 'fine' BEFORE 'ok'",
    "ALTER TABLE {t} ADD n int; {writes}", "ALTER TABLE {t} ALTER v SET NOT NULL",
    "ALTER TABLE {t} ALTER v SET STATISTICS 9",
    "ALTER TABLE {t} ALTER v SET DEFAULT 'x'; {writes}", "CREATE INDEX ON {t} (v); GRANT SELECT ON {t} TO PUBLIC",
    "ALTER TABLE {t} REPLICA IDENTITY FULL; {writes}; ALTER TABLE {t} ADD CHECK (id > 0)",
)  # fmt: skip
WRITES = "INSERT INTO {t} (id) VALUES (5); UPDATE {t} SET g = 8; DELETE FROM {t} WHERE id = 1"
MADE = """
    CREATE TYPE {t}_mood AS ENUM ('sad', 'ok'); CREATE TYPE {t}_pair AS (m {t}_mood, x int);
    CREATE DOMAIN {t}_pairs AS {t}_pair[];
    CREATE TABLE {t} (id int PRIMARY KEY, v text DEFAULT '-', u text, g int, m {t}_mood, p {t}_pairs,
        twice int GENERATED ALWAYS AS (g * 2) STORED);
    INSERT INTO {t} SELECT i, 'v', 'u', i, 'ok', '{{"(sad,1)"}}' FROM generate_series(1, 3) i;
"""


def test_what_changes_rows_without_an_event_has_the_table_read_again_and_nothing_else_does(database, tmp_path):
    done = {f"t{number:02}": statements for number, statements in enumerate((*READ_AGAIN, *NOT_READ_AGAIN))}
    execute(
        database,
        "CREATE DOMAIN score AS int DEFAULT 5 CHECK (VALUE >= 0)", *(MADE.format(t=name) for name in done),
        f"CREATE PUBLICATION pub FOR TABLE {', '.join(done)} WITH (publish_generated_columns = stored)",
    )  # fmt: skip
    stream = Stream(database, tmp_path, *done)
    stream.drain()
    statements = [
        part for name, text in done.items() for part in text.format(t=name, writes=WRITES.format(t=name)).split("; ")
    ]
    again = stream.run(*statements)
    assert {done[name] for name in again} == set(READ_AGAIN)


@pytest.mark.parametrize("which", ["ALL TABLES", "TABLES IN SCHEMA public"])
def test_a_table_that_is_published_as_one_of_all_is_read_again_after_a_time_without_events(database, tmp_path, which):
    execute(database, "CREATE TABLE things (id int PRIMARY KEY, v text)", f"CREATE PUBLICATION pub FOR {which}")
    execute(database, "INSERT INTO things VALUES (1, 'a')", "CREATE SCHEMA aside")
    stream = Stream(database, tmp_path, "things")
    stream.drain()
    unlogged = (
        "ALTER TABLE things SET UNLOGGED",
        "INSERT INTO things VALUES (2, 'b')",
        "ALTER TABLE things SET LOGGED",
    )
    assert set(stream.run(*unlogged)) == {"things"}
    moved = ("SET SCHEMA aside", "INSERT INTO aside.things VALUES (3, 'c')", "SET SCHEMA public")
    assert set(stream.run(f"ALTER TABLE things {moved[0]}", moved[1], f"ALTER TABLE aside.things {moved[2]}"))
    assert stream.run("INSERT INTO things VALUES (4, 'd')") == {}


# Of a partitioned table {t} (id, v), of which {t}_1 holds a row.
LOADED = "CREATE TABLE {t}_2 (LIKE {t} INCLUDING ALL); INSERT INTO {t}_2 VALUES (2)"
ATTACH = "ALTER TABLE {t} ATTACH PARTITION {t}_2 FOR VALUES IN (2)"
PARTITIONS_READ_AGAIN = (
    (*LOADED.split("; "), ATTACH),
    (f"BEGIN; {LOADED}; {ATTACH}; COMMIT",),
    ("ALTER TABLE {t} DETACH PARTITION {t}_1", "DELETE FROM {t}_1", "ALTER TABLE {t} ATTACH PARTITION {t}_1 DEFAULT"),
    ("CREATE TABLE {t}_2 (LIKE {t} INCLUDING ALL) PARTITION BY LIST (id)",
     "CREATE TABLE {t}_21 PARTITION OF {t}_2 DEFAULT", "INSERT INTO {t}_2 VALUES (2)", ATTACH),
    ("ALTER TABLE {t} ALTER v TYPE text USING upper(v)",),
    ("TRUNCATE {t}_1",),
)  # fmt: skip
PARTITIONS_NOT_READ_AGAIN = (
    ("CREATE TABLE {t}_2 PARTITION OF {t} FOR VALUES IN (2)", "INSERT INTO {t} VALUES (2)"),
    (LOADED.split("; ")[0], ATTACH),
    (f"BEGIN; {LOADED.split('; ')[0]}; {ATTACH}; COMMIT", "INSERT INTO {t} VALUES (2)"),
)


def test_a_partition_that_comes_with_rows_or_goes_has_the_table_read_again(database, tmp_path):
    done = {f"t{number}": steps for number, steps in enumerate((*PARTITIONS_READ_AGAIN, *PARTITIONS_NOT_READ_AGAIN))}
    execute(
        database,
        *(f"CREATE TABLE {t} (id int PRIMARY KEY, v text) PARTITION BY LIST (id); CREATE TABLE {t}_1 PARTITION OF {t} "
          f"FOR VALUES IN (1); INSERT INTO {t} VALUES (1, 'a')" for t in done),
        f"CREATE PUBLICATION pub FOR TABLE {', '.join(done)} WITH (publish_via_partition_root = true)",
    )  # fmt: skip
    stream = Stream(database, tmp_path, *done)
    stream.drain()
    again = stream.run(*(step.format(t=name) for name, steps in done.items() for step in steps))
    assert {done[name] for name in again} == set(PARTITIONS_READ_AGAIN)
    assert stream.run(*(f"DELETE FROM {name}" for name in done)) == {}


def test_a_table_of_an_older_version_of_this_program_is_not_read_again_for_what_was_not_noted(stream, monkeypatch):
    things = stream.tables[0]
    with monkeypatch.context() as patch:
        patch.setattr("pipeline_assets.ingest.cdc.slot.altered._facts", without_marks)
        note(things.bronze(stream.lake), stream.postgres.describe([things.source_table])[things.source_table])
    assert stream.run("INSERT INTO things VALUES (8)") == {}
    assert set(stream.run("ALTER TABLE things ALTER v TYPE text USING upper(v)")) == {"things"}


def without_marks(found):
    columns = {str(column.number): [column.name, column.type] for column in found.columns}
    return {"columns": columns, "publishing": found.publishing, "files": {}}
