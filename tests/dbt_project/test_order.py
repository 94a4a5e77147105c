"""The tables are a function of bronze: whatever the order of landing, correcting, running and killing."""

import random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytestmark = pytest.mark.slow

_PARTS = ("invoice_lines", "invoice_lines customer_metrics", "invoice_lines product_sales", "daily_sales")


def _history(chance: random.Random, line: Any) -> list[tuple[int, list[Any]]]:
    """Landing files of six days: few customers with amounts around the segments' limits, repeats and cancellations."""
    lines = [
        line(
            f"{'C' if chance.random() < 0.1 else ''}{number // 2}",
            f"{chance.randint(1, 6):02} {chance.randint(8, 9):02}:00",
            chance.choice([None, 1, 2, 3, 4]),
            price=chance.choice([0, 20, 60, 400, 6000]),
            quantity=chance.randint(1, 2),
            stock=chance.choice(["10001", "10002", "POST"]),
            text=chance.choice(["MUG", " CUP", "", None]),
            country=chance.choice(["EIRE", "France"]),
        )
        for number in range(24)
    ]
    return [(day, chance.sample(lines, 5)) for day in (1, 2, 3, 4, 6, 9)]


@settings(max_examples=3, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True)
@given(seed=st.integers(0, 2**32))
def test_any_history_of_runs_gives_the_same_tables(fresh_shop: Any, line: Any, expected: Any, seed: int) -> None:
    chance = random.Random(seed)
    shop = fresh_shop()
    files = _history(chance, line)
    chance.shuffle(files)
    for number, (day, lines) in enumerate(files):
        shop.land(day, *lines)
        if chance.random() < 0.4:  # a correction that takes lines away, or brings others
            shop.correct(chance.choice(files[: number + 1])[0], *chance.sample(lines, 2))
        if chance.random() < 0.5 and shop.is_built():  # a run that is killed between two models
            shop.dbt("run", "--select", *chance.choice(_PARTS).split())
        elif chance.random() < 0.5:
            shop.run()
    shop.run()
    assert shop.state() == expected(shop)
    shop.run("--full-refresh")
    assert shop.state() == expected(shop)
