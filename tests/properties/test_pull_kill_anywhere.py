"""Pulls of a database killed with SIGKILL between any two of their steps, then again: the same tables."""

import signal

import pytest
from bank import Bank, paid, postgres_bank  # noqa: F401  # fixture
from killing import worker

STEPS = 16  # of the first pull: snapshot, files, dead letters (files, create, commit), rows: before and after each

WORKER = """
import sys
from datetime import date
from deltalake import DeltaTable
from killing import fork_for_each_line, kill_between
from pulled import Payments, Strict
from pipeline_assets.ingest.batch import batch
from pipeline_assets.ingest.database import compare_keys, pulls
from pipeline_assets.ingest.database.pulls import DatabaseSource, connect
from pipeline_assets.ingest.batch.watermark import Watermark
from pipeline_assets.lake import Lake

mode, url, folder = sys.argv[1:4]
model = Strict if mode == "window" else Payments
watermark = None if mode == "full" else Watermark.of(model, "updated_at")
source = DatabaseSource("bank__payments", model, ("payment_id",), False, "payments", None, mode, watermark)


def run(kill_at):
    commit = DeltaTable, "create_write_transaction"
    kill_between(kill_at, (pulls, "_plan"), (batch.Table, "write"), (batch, "record"), commit)
    lake, day = Lake(folder), date(2026, 1, 5)
    with lake.connect(threads=1) as con:
        pulls.pull(lake, con, source, connect(url), day, day)
        if mode == "incremental":
            compare_keys.compare_keys(lake, con, source, connect(url))


fork_for_each_line(run)
"""


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["full", "window", "incremental"])
def test_a_pull_killed_between_any_two_steps_ends_like_one_that_never_was(
    postgres_bank: Bank,  # noqa: F811
    mode: str,
) -> None:
    bank, killed = postgres_bank, 0
    with worker(WORKER, mode, bank.url, bank.lake.uri) as run:
        for kill_at in range(STEPS):
            bank.execute(
                paid(10 * kill_at, amount="x" if kill_at % 2 else "1.00", note=f"misfit {kill_at}"),
                paid(10 * kill_at + 1, note="new"),
                f"UPDATE payments SET note = note || '+' WHERE payment_id = {10 * (kill_at - 1) + 1}",
                f"DELETE FROM payments WHERE payment_id = {10 * (kill_at - 3) + 1}",
            )
            killed += run(kill_at) == -signal.SIGKILL
        assert killed >= STEPS - 6  # a run that has no dead letters to commit has fewer steps
        assert [run(99), run(99)] == [0, 0]
    newest = "row_number() OVER (PARTITION BY payment_id ORDER BY _extracted_at DESC) = 1"
    query = f"SELECT payment_id, note FROM (SELECT * FROM {bank.bronze.scan()} QUALIFY {newest}) WHERE NOT _deleted"
    found = bank.con.execute(f"{query} ORDER BY ALL").fetchall()
    assert found == bank.execute("SELECT payment_id, note FROM payments WHERE amount <> 'x' ORDER BY 1")
    versions = bank.rows("payment_id, note, _deleted")
    assert len(versions) == len(set(versions))
    if mode != "incremental":
        assert len(versions) == len(found)
    misfits = bank.execute("SELECT note FROM payments WHERE amount = 'x' ORDER BY note")
    assert sorted(bank.dead("raw::JSON->>'note'")) == [note for (note,) in misfits]
    model = bank.source(mode="full", table="payments").model
    assert not bank.audit(model).mismatches
