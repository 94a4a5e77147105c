"""What the shop does on its days, without a database."""

from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path

import duckdb
import pytest

from pipeline_assets.demo import shop_days
from pipeline_assets.demo.shop import DEMO_PARQUET
from pipeline_assets.demo.shop_days import LAP, ShopDays, Transaction, open_days
from pipeline_assets.demo.shop_people import contact


@pytest.fixture(scope="module")
def days() -> Iterator[ShopDays]:
    with open_days(DEMO_PARQUET) as found:
        yield found


def statements(transactions: list[Transaction], what: str) -> list[tuple[object, ...]]:
    return [
        tuple(values)
        for each in transactions
        if not each.rolled_back
        for text, values in each.statements
        if text.strip().startswith(what)
    ]


def test_a_day_is_the_same_each_time(days: ShopDays) -> None:
    with open_days(DEMO_PARQUET) as again:
        assert [list(days.transactions(n)) for n in (0, 12, 29)] == [list(again.transactions(n)) for n in (0, 12, 29)]


def test_a_day_does_not_depend_on_what_comes_later(days: ShopDays, tmp_path: Path) -> None:
    cut = tmp_path / "cut.parquet"
    with duckdb.connect() as con:
        con.execute(
            f"COPY (FROM read_parquet('{DEMO_PARQUET}') WHERE InvoiceDate < TIMESTAMP '{days.day(22)}') TO '{cut}'"
        )
    with open_days(cut) as fewer:
        for number in range(22):
            assert list(fewer.transactions(number)) == list(days.transactions(number)), number


def test_after_the_last_day_the_first_comes_again_later_and_with_other_orders(days: ShopDays) -> None:
    assert days.day(30) == days.day(0) + LAP
    assert days.day(0).weekday() == days.day(30).weekday()
    first, again = (statements(list(days.transactions(number)), "INSERT INTO orders") for number in (0, 30))
    assert [order[4:7] for order in first] == [order[4:7] for order in again]  # lines, their number, total
    assert first[0][0] == "536365"
    assert again[0][0] == "636365"
    assert {str(order[0])[:1] for order in again} == {"6", "C"}


def test_a_lap_is_longer_than_the_whole_data_set() -> None:
    assert date(2010, 12, 1) + LAP > date(2011, 12, 9) + timedelta(days=7)  # and than the day on which they tidy up


def test_a_mistyped_code_is_corrected_the_next_morning(days: ShopDays) -> None:
    right, wrong = days._mistyped(2) or ("", "")
    assert (right, wrong) == (right, right.replace("0", "O"))
    entered = statements(list(days.transactions(2)), "INSERT INTO products")
    assert f'"{wrong}"' in str(entered)
    assert f'"{right}"' not in str(entered)
    (recoded,) = statements(list(days.transactions(3)), "UPDATE products SET stock_code")
    assert (recoded[0], recoded[2]) == (right, wrong)


def test_what_was_delisted_comes_back_when_it_is_sold_again(days: ShopDays) -> None:
    delisted: dict[str, int] = {}
    back = 0
    for number in range(30):
        transactions = list(days.transactions(number))
        listed = str(statements(transactions, "INSERT INTO products"))
        back += sum(f'"{code}"' in listed for code in delisted)
        for values in statements(transactions[-2:], "DELETE FROM products"):
            delisted |= dict.fromkeys(values[0], number)  # type: ignore[call-overload]
    assert min(delisted.values()) == shop_days.DELISTED_AFTER
    assert back > 10


def test_declined_orders_are_rolled_back_and_placed_again(days: ShopDays) -> None:
    transactions = list(days.transactions(0))
    declined = [n for n, each in enumerate(transactions) if each.rolled_back]
    assert len(declined) > 2
    for n in declined:
        assert transactions[n + 1] == Transaction(transactions[n].statements)


def test_customers_are_invented_but_always_the_same() -> None:
    assert contact(17850, 1) == contact(17850, 1)
    assert contact(17850, 1).name == contact(17850, 9).name
    assert len({contact(number, 1).name for number in range(12346, 16346)}) > 1500


def test_e_mail_addresses_and_phone_numbers_are_as_dirty_as_people_type_them() -> None:
    found = [contact(number, 1) for number in range(12346, 14346)]
    emails = [each.email for each in found]
    assert 0.6 < sum(email == (email or "?").strip().lower() and "@" in (email or "") for email in emails) / 2000 < 0.95
    for wanted in (None, "", "   "):
        assert wanted in emails
    assert any(email and email.isupper() for email in emails)
    assert any(email and "@" not in email and ".example." in email for email in emails)
    assert any(email and email.startswith("  ") for email in emails)
    phones = [each.phone for each in found]
    assert {None, "", "n/a"} < set(phones)
    assert any(phone and phone.startswith("(07700) 900-") for phone in phones)
