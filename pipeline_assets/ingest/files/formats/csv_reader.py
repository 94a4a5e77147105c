"""Opens a CSV file as records: its header, and the relation of the lines below."""

import re
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path

import duckdb
import polars as pl

from pipeline_assets.contracts.base import RawShape
from pipeline_assets.ingest.conform.conform import match_fields
from pipeline_assets.ingest.conform.fields import SourceField
from pipeline_assets.ingest.files import limits
from pipeline_assets.ingest.files.content import Content, read_content
from pipeline_assets.ingest.files.formats.csv_damage import DamageFinder, find_damage
from pipeline_assets.ingest.files.formats.csv_fields import TEXT, Kind, kind_of
from pipeline_assets.ingest.files.formats.csv_header import Header, csv_header
from pipeline_assets.ingest.files.formats.csv_quiet import find_all_damage
from pipeline_assets.ingest.files.formats.csv_removed import Removed, write_changed
from pipeline_assets.ingest.files.formats.records import Outcome, Records, Reject, raw_text
from pipeline_assets.ingest.files.formats.text_reader import BOM, reader_options, uniform
from pipeline_assets.sql import quote_text


def open_csv(
    con: duckdb.DuckDBPyConnection,
    path: Path,
    content: Content,
    delimiter: str,
    scratch: Path,
    shape: RawShape | None = None,
) -> Records:
    """Open a CSV file.

    Args:
        con: As in `open_records`.
        path: The file.
        content: What is known of its bytes.
        delimiter: One ASCII character.
        scratch: Directory for copies.
        shape: The contract's columns: their types distinguish a stray quote from a value with line ends (`csv_damage`).

    Raises:
        UnreadableFile: The header cannot name the fields.
    """
    separator = delimiter.encode()
    if len(separator) != 1 or separator in b'"\r\n':
        raise ValueError(f"delimiter {delimiter!r}: give one ASCII character, neither a quote nor a line end")
    header = csv_header(content, delimiter, shape)
    records = CsvRecords("csv", "", header.fields, con, path, scratch, content=content, delimiter=delimiter)
    records.header, records.kinds = header, _kinds(header.fields, shape)
    if (content.uniform_line_ends and header.mended is None) or not records.mend():
        records.read(*uniform(path, content, separator, scratch), with_rejects=not _has_many_lines(content))
    return records


def _has_many_lines(content: Content) -> bool:
    """Tell whether DuckDB should not record rejects until there are known to be few: each costs it 7 us and 1 KB."""
    return content.physical_lines > limits.MAX_DEAD_LETTERS


def _kinds(fields: Sequence[SourceField], shape: RawShape | None) -> list[Kind]:
    if shape is None:
        return [TEXT] * len(fields)
    columns = {column.name: column for column in shape.columns}
    fed = {
        field.column: columns[name]
        for name, found in match_fields(fields, shape).matched.items()
        for field in found
        if name in columns
    }
    found = (fed.get(field.column) for field in fields)
    return [kind_of(column.dtype, required=column.required) if column else TEXT for column in found]


@dataclass
class CsvRecords(Records):
    """The records of a CSV file. Damaged lines are searched only if the first scan does not account for each line.

    Attributes:
        header: The header.
        kinds: What each field has to be.
    """

    header: Header | None = None
    kinds: Sequence[Kind] = ()
    _damage: Removed | None = None
    _is_weighed: bool = False

    def read(self, path: Path, content: Content, *, with_rejects: bool = True) -> None:
        """Read from a file in which each line begins a record or is part of one.

        Args:
            path: The file.
            content: What is known of its bytes.
            with_rejects: Whether DuckDB records rejects. If not, `finish` asks for another scan if there were any.
        """
        self._drop_rejects()
        self.path, self.content, self._starts = path, content, None
        self.rejects_id = uuid.uuid4().hex if with_rejects else None
        blank = re.match(rb"[\r\n]*", content.head.removeprefix(BOM))
        skip = (blank[0] if blank else b"").count(content.terminator)
        columns = ", ".join(f"'{f.column}': 'VARCHAR'" for f in self.fields)
        unnamed = [f.column for f in self.fields if f.evolves_to == "" and f.name.endswith(")")]
        empty = ", ".join(f"nullif(trim({column}), '') AS {column}" for column in unnamed)
        selected = f"* REPLACE ({empty})" if empty else "*"
        self.sql = (
            f"SELECT row_number() OVER () + 1 AS _line, {selected} "
            f"FROM read_csv({quote_text(str(path))}, auto_detect = false, "
            f"header = true, skip = {skip}, delim = {quote_text(self.delimiter)}, quote = '\"', escape = '\"', "
            f"columns = {{{columns}}}, {reader_options(content, self.rejects_id)})"
        )

    def mend(self) -> bool:
        """Look for damaged lines; if there are any, read from a copy without them."""
        if self.content is None or self.header is None:
            return False
        separator, header = self.delimiter.encode(), self.header
        finder = DamageFinder(separator, self.kinds, is_strict=_has_many_lines(self.content))
        find = partial(find_all_damage, separator=separator) if _has_many_lines(self.content) else find_damage
        self._damage = Removed(find(self.path, self.content, finder=finder, header_lines=header.last_line))
        self._is_weighed = finder.has_weighed
        changes = self._damage.ranges()
        if header.mended is not None:
            changes = chain([(header.start, len(header.text), header.mended)], changes)
        elif not self._damage.number:
            return False
        copy = self.scratch / "mended"
        write_changed(self.path, self.content, copy, changes)
        self.read(*uniform(copy, read_content(copy), separator, self.scratch))
        return True

    def _is_complete(self, n_rows: int) -> bool:
        """Tell whether a scan without recorded rejects had none: no line is damaged, and each record came out."""
        if self._damage is None or self._damage.number:
            return False
        starts = self._record_starts()
        return starts is not None and not starts.open_quote and len(starts.offsets) == n_rows + 1

    def finish(self, con: duckdb.DuckDBPyConnection, n_rows: int) -> Outcome | None:
        """Account for a scan, as `Records.finish` does; the damaged lines are among the rejects."""
        if not self.is_clean(con, n_rows):
            if self._damage is None and self.mend():
                return None
            if self.rejects_id is None and self.content is not None and not self._is_complete(n_rows):
                self.read(self.path, self.content)
                return None
        outcome = super().finish(con, n_rows)
        if outcome is None or self._damage is None:
            return outcome
        line_map, damage = outcome.line_map, self._damage
        ordinals = pl.int_range(2, n_rows + 2, dtype=pl.Int64, eager=True)
        lines = ordinals if line_map is None else pl.Series(line_map["line"])
        known = [reject.line for reject in outcome.rejects]
        mapped = damage.lines_in_file(pl.Series(known, dtype=pl.Int64)).to_list()
        rejects = [replace(reject, line=line) for reject, line in zip(outcome.rejects, mapped, strict=True)]
        rejects += [Reject(d.line, d.reason, raw_text(d.text)) for d in damage.kept]
        if self.header is not None and self.header.mended is not None:
            rejects.append(Reject(self.header.last_line, self.header.problem, raw_text(self.header.text)))
        found = pl.DataFrame([ordinals.alias("ordinal"), damage.lines_in_file(lines).alias("line")])
        more = outcome.more + damage.number - len(damage.kept)
        rejects.sort(key=lambda reject: reject.line or 0)
        return Outcome(rejects, found.to_arrow(), more, self._is_weighed)
