"""Who the shop's customers are: names, e-mail addresses and phone numbers, which the real data rightly leaves out.

Invented from the customer's number alone, so they are the same on every machine, and as dirty as what people type into
forms. The domains and the phone numbers are reserved for fiction (RFC 2606; Ofcom's 07700 900000 to 900999).
"""

from hashlib import blake2b
from typing import NamedTuple

# Words rather than lists: the formatter would give each name a line.
_FIRST = (  # noqa: SIM905
    "Ada Alan Amina Anna Björn Carmen Chidi Chloë Dara Edith Emeka Erik Fatima Fergus Freya George Grace Hana Hugo "
    "Ines Ivan Jamal Jin Karin Kofi Lars Leila Luca Mary Mei Nadia Niall Olga Omar Priya Rosa Sanjay Tove Uma Wanda Zoë"
).split()
_LAST = (  # noqa: SIM905
    "Adeyemi Ahmed Andersson Baker Bennett Cohen Cooper Davies Dubois Evans Fischer Garcia Green Hall Harris Hughes "
    "Ito Jones Kaur Kelly Khan Kowalski Larsen Lee Lewis Martin Mbeki Meyer Murphy Nguyen O'Brien Okafor Patel Popescu "
    "Reid Rossi Santos Schmidt Silva Singh Smith Taylor Thomas Turner Walker Wang White Wilson Wood Young"
).split()
_DOMAINS = ("example.com", "example.net", "example.org")
_ASCII = str.maketrans("öë", "oe", "'")


class Contact(NamedTuple):
    """What a customer gave as name, e-mail address and phone number: typed by hand, nobody checked it."""

    name: str
    email: str | None
    phone: str | None


def contact(customer_id: int, visit: int) -> Contact:
    """Return what the customer typed on a visit; the name is the same on each.

    Args:
        customer_id: The real data's number.
        visit: 1 for the first order, and so on.
    """
    first = _FIRST[_roll(customer_id, "first") % len(_FIRST)]
    last = _LAST[_roll(customer_id, "last") % len(_LAST)]
    return Contact(f"{first} {last}", _email(customer_id, visit, first, last), _phone(customer_id, visit))


def changes_contact(customer_id: int, visit: int) -> bool:
    """Tell whether the customer corrects e-mail address and phone number on this visit: about every eighth time."""
    return visit > 1 and _roll(customer_id, f"change {visit}") % 8 == 0


def asks_to_be_erased(customer_id: int) -> bool:
    """Tell whether the customer asks to be erased after a while without an order; one in forty does."""
    return _roll(customer_id, "erase") % 40 == 0


def _email(customer_id: int, visit: int, first: str, last: str) -> str | None:
    domain = _DOMAINS[_roll(customer_id, f"domain {visit}") % len(_DOMAINS)]
    local = f"{first}.{last}{customer_id}".lower().translate(_ASCII)
    typed: dict[int, str | None] = {
        0: f"{local}@{domain}".upper(),
        1: f"{first}.{last}{customer_id % 100}@{domain}".replace("'", ""),
        2: f"  {local}@{domain} ",
        3: f"{local}.{domain}",  # the @ is missing
        4: f"{local} @ {domain}",
        5: "",
        6: "   ",
        7: None,
    }
    return typed.get(_roll(customer_id, f"email {visit}") % 30, f"{local}@{domain}")


def _phone(customer_id: int, visit: int) -> str | None:
    last = f"{_roll(customer_id, f'number {visit}') % 1000:03}"
    typed: dict[int, str | None] = {
        0: f"07700 900{last}",
        1: f"(07700) 900-{last}",
        2: f"07700.900.{last}",
        3: f"+44 (0)7700 900 {last}",
        4: f"0044 7700 900{last} ",
        5: "n/a",
        6: "",
        7: None,
    }
    return typed.get(_roll(customer_id, f"phone {visit}") % 16, f"+447700900{last}")


def _roll(customer_id: int, what: str) -> int:
    """Roll a die that always falls the same way."""
    return int.from_bytes(blake2b(f"{customer_id} {what}".encode(), digest_size=4).digest(), "big")
