"""Headers as spreadsheets, exports and people write them; through the whole way of a landed file."""

import gzip

import pytest

BODY = b"1,2,3,x\n"
ROW = ("1", 2, 3, "x")


def row(landed):
    """The one row without its line: contract columns and what was rescued."""
    assert landed.dead == []
    ((_, *values),) = landed.rows
    return tuple(values)


@pytest.mark.parametrize(
    ("header", "body", "rescued"),
    [
        (b"invoice_no,quantity,unit_price,note,,,", b"1,2,3,x,,,", None),
        (b"invoice_no,quantity,unit_price,note,,,", b"1,2,3,x", None),
        (b"invoice_no,quantity,unit_price,note, ,\t,", b"1,2,3,x, ,,", None),
        (b"invoice_no,quantity,unit_price,note,,,", b"1,2,3,x,,kept,", '{"(6)":"kept"}'),
        (b"invoice_no,,quantity,unit_price,,note", b"1,,2,3,y,x", '{"(5)":"y"}'),
        (b",invoice_no,quantity,unit_price,note", b"0,1,2,3,x", '{"(1)":"0"}'),
        (b"invoice_no,quantity,unit_price,note,tag,tag", b"1,2,3,x,a,b", '{"tag":"a","(6) tag":"b"}'),
        (b"invoice_no,quantity,unit_price,note,_line,_source", b"1,2,3,x,a,b", '{"_line":"a","_source":"b"}'),
        (b"invoice_no,quantity,unit_price,note,filename", b"1,2,3,x,a", '{"filename":"a"}'),
    ],
)
@pytest.mark.parametrize("evolve", [False, True])
def test_columns_without_a_name_of_their_own_cost_nothing(land, header, body, rescued, evolve):
    landed = land(header + b"\n" + body + b"\n", evolve=evolve)
    if evolve and b"tag" in header:
        assert landed.columns[-1] == "tag"
        assert landed.rows[0][5:] == ("a", '{"(6) tag":"b"}')
    else:
        assert row(landed) == (*ROW, rescued)


@pytest.mark.parametrize(
    "header",
    [
        b'invoice_no,"quantity,unit_price,note',
        b'"invoice_no,quantity,unit_price,note',
        b'invoice_no,quantity,unit_price,note"',
        b'invoice_no,quan"tity,unit_price,note',
    ],
)
@pytest.mark.parametrize("newline", [b"\n", b"\r\n"])
def test_a_stray_quote_in_the_header_costs_the_header_only(land, header, newline):
    body = b"1,2,3,x\n2,3,4,y\n3,4,5,z\n"
    if header.startswith(b'invoice_no,"'):
        body = body.replace(b"3,4,5", b'3",4,5')
    landed = land((header + b"\n" + body).replace(b"\n", newline))
    assert landed.lines == [2, 3, 4]
    assert [(d.line, d.raw) for d in landed.dead] in ([], [(1, header.decode())])


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        (b'"invoice_no"x,quantity,unit_price,note', "text follows a closing one"),
        (b'invoice_no,"quantity" x,unit_price,note', "text follows a closing one"),
        (b'invoice_no,"quantity"x,unit_price,"note"y', "text follows a closing one"),
        (b'"invoice"_no,quantity,unit_price,note', "a stray one"),
        (b'invoice_no,quantity,unit_price,"no"te', "a stray one"),
    ],
)
@pytest.mark.parametrize("newline", [b"\n", b"\r\n", b"\r"])
def test_text_after_a_closing_quote_in_the_header_costs_the_header_only(land, header, reason, newline):
    landed = land((header + b"\n" + b'1,2,3,x\n2,3,4,"y"\n').replace(b"\n", newline))
    assert [row[:5] for row in landed.rows] == [(2, *ROW), (3, "2", 3, 4, "y")]
    assert [(d.line, d.raw) for d in landed.dead] == [(1, header.decode())]
    assert landed.reasons[0].startswith(f"csv: quote: {reason}")


def test_names_of_nobody_keep_the_text_after_their_quotes(land):
    landed = land(b'invoice_no,quantity,unit_price,note,"my"x\n1,2,3,x,y\n')
    assert landed.rows == [(2, *ROW, '{"myx":"y"}')]
    assert len(landed.dead) == 1


def test_a_good_quoted_header_is_read_as_it_is(land):
    header = b'"invoice_no" , "quantity","unit_price","note","a ""b"", c","",\n'
    assert row(land(header + b"1,2,3,x,y,,\n")) == (*ROW, '{"a \\"b\\", c":"y"}')


def test_a_quoted_header_over_lines_is_a_header(land):
    landed = land(b'invoice_no,quantity,"unit\nprice","my\n\nnote"\n1,2,3,x\n')
    assert (landed.lines, landed.rows[0][1:3]) == ([5], ("1", 2))


@pytest.mark.parametrize("name", ["a.tsv", "a.tab", "a.TSV.gz"])
def test_a_file_named_tsv_has_tabs(land, name):
    data = (b"invoice_no,quantity,unit_price,note\n" + BODY).replace(b",", b"\t")
    assert row(land(gzip.compress(data) if name.endswith("gz") else data, name)) == (*ROW, None)


def test_a_file_named_tsv_with_commas_is_read_as_before(land):
    assert row(land(b"invoice_no,quantity,unit_price,note\n" + BODY, "a.tsv")) == (*ROW, None)


def test_a_delimiter_that_is_declared_counts_for_tsv_too(land):
    data = (b"invoice_no,quantity,unit_price,note\n" + BODY).replace(b",", b"|")
    assert row(land(data, "a.tsv", delimiter="|")) == (*ROW, None)
