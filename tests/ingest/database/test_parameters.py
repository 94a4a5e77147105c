"""Named parameters of a query: found where they are, and nowhere else."""

import pytest

from pipeline_assets.ingest.database.parameters import is_cut, names, render


@pytest.mark.parametrize(
    ("query", "found", "rendered"),
    [
        ("a >= :lower AND a < :upper", {"lower", "upper"}, "a >= <lower> AND a < <upper>"),
        ("a >= :lower OR b = :lower", {"lower"}, "a >= <lower> OR b = <lower>"),
        ("a::lower, b :: upper", set(), "a::lower, b :: upper"),
        ("':lower' AND a = ':''upper'", set(), "':lower' AND a = ':''upper'"),
        ('":lower"."a:upper"', set(), '":lower"."a:upper"'),
        ("1 -- :lower\n+ :upper", {"upper"}, "1 -- :lower\n+ <upper>"),
        ("1 /* :lower\n */ + :upper", {"upper"}, "1 /* :lower\n */ + <upper>"),
        ("$$ :lower $$ $x$ $$ :lower $x$ :upper", {"upper"}, "$$ :lower $$ $x$ $$ :lower $x$ <upper>"),
        (":lowered :Lower a:lower", set(), ":lowered :Lower a:lower"),
        ("(:lower)", {"lower"}, "(<lower>)"),
        ("a[1:lower]", set(), "a[1:lower]"),
    ],
)
def test_a_parameter_is_a_colon_and_its_name(query: str, found: set[str], rendered: str) -> None:
    assert names(query) == found
    assert render(query, "<{}>".format) == rendered


def test_the_rest_of_the_text_is_escaped() -> None:
    assert render("a % 2 = ':x' /* % */ + 1", "%({})s".format, lambda text: text.replace("%", "%%")) == (
        "a %% 2 = ':x' /* %% */ + 1"
    )


@pytest.mark.parametrize("end", ["", ";", " ;\n", "; -- done", ";\n/* a;\n b */ ; ", " -- it's; :lower"])
@pytest.mark.parametrize("query", ["SELECT 1", "SELECT ';'", "SELECT a -- b\nFROM t", "SELECT :lower", "a /* b */ c"])
def test_what_ends_a_query_is_left_out(query: str, end: str) -> None:
    assert render(query + end, ":{}".format) == query


@pytest.mark.parametrize(
    "query",
    [
        "SELECT * FROM t WHERE a >= :lower LIMIT 1000", "SELECT * FROM t ORDER BY a limit 10, 20 ; -- all",
        "SELECT * FROM t LIMIT (5)", "SELECT * FROM t LIMIT (5) OFFSET 2", "SELECT * FROM t FETCH FIRST 5 ROWS ONLY",
        "SELECT TOP 10 * FROM t", "SELECT DISTINCT TOP (10) a FROM t", "WITH x AS (SELECT 1) SELECT * FROM x LIMIT 5",
    ],
)  # fmt: skip
def test_a_query_that_gives_only_so_many_rows_is_known(query: str) -> None:
    assert is_cut(query)


@pytest.mark.parametrize(
    "query",
    [
        "SELECT * FROM t", "SELECT (SELECT b FROM u ORDER BY c LIMIT 1) FROM t", "SELECT 'LIMIT 5' FROM t -- LIMIT 5",
        "SELECT t.limit, top FROM t", 'SELECT "limit" FROM t', "SELECT * FROM t LIMIT ALL", "SELECT a_limit 5 FROM t",
        "SELECT * FROM t JOIN LATERAL (SELECT * FROM u FETCH FIRST 1 ROW ONLY) x ON true",
    ],
)  # fmt: skip
def test_a_query_of_which_a_part_is_cut_is_whole(query: str) -> None:
    assert not is_cut(query)
