"""One landed file to Parquet files of the bronze table and dead letters, in one pass over the file.

Nothing is committed here. If all records of a file fit, it is written once. Only if there are dead letters, or line
numbers that the scan could not know, the written Parquet (not the source) is read again and split.
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import duckdb
import pyarrow as pa

from pipeline_assets.contracts.base import RawColumn, RawShape
from pipeline_assets.ingest.batch.batch import Batch
from pipeline_assets.ingest.batch.bronze_table import dead_letters_sql, misfits, rows_sql, written_rows
from pipeline_assets.ingest.conform.conform import conform_sql, match_fields
from pipeline_assets.ingest.files import limits
from pipeline_assets.ingest.files.content import EXCERPT_BYTES, Content, read_content, with_head
from pipeline_assets.ingest.files.formats.open_records import (
    Format,
    Outcome,
    Records,
    Reject,
    UnreadableFile,
    file_failure,
    open_records,
    resolve_format,
)
from pipeline_assets.ingest.files.formats.records import ContradictoryFile
from pipeline_assets.ingest.files.plan import Delivery, extracted_at, identity
from pipeline_assets.ingest.files.unread import Cause, cause_of
from pipeline_assets.ingest.files.weight import records_in_bytes, records_of
from pipeline_assets.lake import MANY_COLUMNS, DataFile, Table, faults
from pipeline_assets.sql import quote_text


@dataclass(frozen=True)
class Landed:
    """A file that was read, with its rows and dead letters; counted before the commit.

    Attributes:
        files: Parquet files with the rows that fit.
        rows: Rows in them.
        dead_letters: Records that did not fit; for a file that cannot be read, all that it stands for (`weight`).
        records_in: Records counted while reading.
        added: Columns that schema evolution adds.
    """

    files: list[DataFile]
    rows: int
    dead_letters: int
    records_in: int
    added: tuple[RawColumn, ...] = ()


@dataclass(frozen=True)
class FileReader:
    """How the files of one source are read in one run.

    Attributes:
        batch: The batch that gets the files' rows and dead letters.
        root: The landing folder.
        temp_dir: For copies of formats that cannot be streamed.
        format: One for all files, or "auto".
        delimiter: Of CSV files.
        schema_evolution: Whether unknown fields become columns.
        by_day: Whether the day is part of a content's identity, as for snapshots.
        max_unpacked_bytes: As in `read_content`.
        max_seconds: How long the reading of one file may take.
    """

    batch: Batch
    root: Path
    temp_dir: Path
    format: Format | Literal["auto"]
    delimiter: str
    schema_evolution: bool
    by_day: bool = False
    max_unpacked_bytes: int | None = None
    max_seconds: float | None = None

    @property
    def con(self) -> duckdb.DuckDBPyConnection:
        """Connection of the lake."""
        return self.batch.con

    @property
    def bronze(self) -> Table:
        """The table that files are written for."""
        return self.batch.bronze

    def read(self, delivery: Delivery, shape: RawShape) -> Landed | Cause | None:
        """Read one file.

        Args:
            delivery: The file.
            shape: The contract's columns, with those that schema evolution has added so far.

        Returns:
            Its outcome; the cause, if it cannot be read now for a reason that proves nothing about its bytes; None if
            the file changed meanwhile and must wait for the next run.
        """
        path = self.root / delivery.file.path
        try:
            content = (
                with_head(delivery.content, path) if delivery.content else read_content(path, self.max_unpacked_bytes)
            )
            if identity(delivery.file, content, by_day=self.by_day) != delivery.content_id:
                return None
            with limits.time_limit(self.max_seconds, self.con):
                landed = self._read(delivery, path, content, shape)
        except FileNotFoundError:
            return None
        except limits.FileTimeLimitError as error:
            self.forget(delivery, [])  # the interrupt may have hit the first attempt
            return cause_of(error)
        except Exception as error:  # noqa: BLE001  one file does not stop the others, whatever is wrong
            return cause_of(self.bronze.lake.explain(error))
        if not delivery.file.is_as_listed(self.root):
            self.forget(delivery, landed.files)
            return None
        return landed

    def _read(self, delivery: Delivery, path: Path, content: Content, shape: RawShape) -> Landed:
        if content.failure is not None and content.whole_bytes is not None:
            return self._read_members(delivery, path, content.failure, content.whole_bytes, shape)
        try:
            try:
                return self._copy(delivery, path, content, shape)
            except duckdb.OutOfMemoryException:
                return self._copy(delivery, path, content, shape, is_wide=True)
        except (UnreadableFile, duckdb.Error) as error:
            reason = self._fault(error, delivery, path, content, shape)
        if content.failure is None and self._format_of(path) in ("parquet", "avro"):
            try:  # perhaps DuckDB fails at one value only
                return self._copy(delivery, path, content, shape, careful=True)
            except (UnreadableFile, duckdb.Error) as error:
                reason = file_failure(error)
        weight = records_of(content, self._format_of(path), path)
        self._add_dead_letter(delivery, None, reason, content.excerpt, weight)
        return Landed([], 0, weight, weight)

    def _read_members(self, delivery: Delivery, path: Path, failure: str, whole_bytes: int, shape: RawShape) -> Landed:
        """Read the members of a gzip file. The bytes after them are one dead letter, behind their last line."""
        with TemporaryDirectory(dir=self.temp_dir) as folder:
            members = Path(folder, path.name)
            with path.open("rb") as file, members.open("wb") as target:
                shutil.copyfileobj(file, target)
                target.truncate(whole_bytes)
                file.seek(whole_bytes)
                excerpt = file.read(EXCERPT_BYTES).decode("utf-8", "backslashreplace")
            content = read_content(members, self.max_unpacked_bytes)
            landed = self._read(delivery, members, content, shape)
        weight = records_in_bytes(delivery.file.size_bytes - whole_bytes)
        self._add_dead_letter(delivery, content.physical_lines + 1, failure, excerpt, weight)
        return replace(landed, dead_letters=landed.dead_letters + weight, records_in=landed.records_in + weight)

    def _copy(
        self,
        delivery: Delivery,
        path: Path,
        content: Content,
        shape: RawShape,
        *,
        careful: bool = False,
        is_wide: bool = False,
    ) -> Landed:
        """Read the file into the table's folder. A reading that fails leaves nothing behind."""
        written: list[DataFile] = []
        try:
            with self._open(path, content, shape, careful=careful) as records:
                is_wide |= len(records.fields) > MANY_COLUMNS
                outcome = None
                while outcome is None:  # a second time if the first one found damaged lines
                    self.bronze.delete_uncommitted(written)
                    select = self._select(records, delivery, shape)
                    written = self._write(delivery, f"SELECT * EXCLUDE (_partition_date) FROM ({select})", is_wide)
                    rows = sum(file.rows for file in written)
                    _refuse_nulls(written, shape)
                    outcome = records.finish(self.con, rows)
                matching = match_fields(records.fields, shape, schema_evolution=self.schema_evolution)
                added, no_header = matching.added, bool(matching.missing) and records.format == "csv"
            if no_header:
                # An error page, or a first record without a header: a line of text is never a record that may vanish.
                first_line = content.head.splitlines()[0].decode("utf-8", "backslashreplace")
                page = "; it is an HTML page, perhaps an error of the source" if _is_html(first_line) else ""
                self._add_dead_letter(delivery, 1, f"header: lacks {', '.join(matching.missing)}{page}", first_line)
            if misfits(written) or outcome.rejects or outcome.line_map is not None:
                written = self._split(delivery, written, outcome, is_wide)
        except BaseException:
            self.forget(delivery, written)
            raise
        fit = sum(file.rows for file in written)
        read = rows + len(outcome.rejects) + outcome.more + int(no_header)
        return Landed(written, fit, read - fit, read, added)

    def _fault(self, error: Exception, delivery: Delivery, path: Path, content: Content, shape: RawShape) -> str:
        """Prove that a failed reading is the fault of the file's bytes. Give the reason of its dead letter.

        The COPY reads the file and writes the lake, and not every error says which of the two it is about. So the bytes
        are read again, and then the records, without writing anything: only if that fails too, the fault is the file's.
        """
        if isinstance(error, ContradictoryFile) or (isinstance(error, UnreadableFile) and content.failure is not None):
            return error.reason  # as proved by the pass over its bytes
        if faults.is_of_system(error):
            raise error
        again = read_content(path, self.max_unpacked_bytes)
        if again.content_id != content.content_id:
            raise FileNotFoundError(path)
        try:
            with self._open(path, content, shape) as records:
                outcome = None
                while outcome is None:
                    select = self._select(records, delivery, shape)
                    every = f"SELECT count(*), bit_xor(hash(*COLUMNS(*))) FROM ({select})"
                    (rows, _) = self.con.execute(every).fetchone() or (0, None)
                    outcome = records.finish(self.con, rows)
        except (UnreadableFile, duckdb.Error) as proof:
            return file_failure(proof)
        raise error

    def _open(self, path: Path, content: Content, shape: RawShape, *, careful: bool = False) -> Records:
        return open_records(
            self.con,
            path,
            content,
            format=self.format,
            delimiter=self.delimiter,
            temp_dir=self.temp_dir,
            careful=careful,
            shape=shape,
        )

    def _select(self, records: Records, delivery: Delivery, shape: RawShape) -> str:
        return conform_sql(
            records,
            shape,
            file=delivery.file.path,
            partition_date=delivery.file.date,
            batch_id=delivery.content_id,
            extracted_at=extracted_at(delivery.file),
            schema_evolution=self.schema_evolution,
        )

    def forget(self, delivery: Delivery, files: list[DataFile]) -> None:
        """Remove the files and dead letters that a failed reading has written."""
        self.bronze.delete_uncommitted(files)
        self.batch.buffer.forget(delivery.file.path)

    def _split(self, delivery: Delivery, written: list[DataFile], outcome: Outcome, is_wide: bool) -> list[DataFile]:
        """Separate rows from dead letters, with the right lines. An unproved line is null, never a guess."""
        rejects = outcome.rejects[: limits.MAX_DEAD_LETTERS]
        room = limits.MAX_DEAD_LETTERS - len(rejects)
        if rest := len(outcome.rejects) - len(rejects) + outcome.more + max(misfits(written) - room, 0):
            self._add_dead_letter(delivery, None, limits.rest_reason(rest), "", rest)
        if rejects:
            self.con.register("landing_rejects", rejects_table(rejects))
            facts = self._facts(delivery, "line")
            self.batch.buffer.insert(f"SELECT {facts}, reason, raw, 1, NULL FROM landing_rejects")
            self.con.unregister("landing_rejects")
        if not written:
            return []
        source, line = written_rows(self.bronze.uri, written), "r._source.line"
        if outcome.line_map is not None:
            self.con.register("landing_lines", outcome.line_map)
            source, line = f"{source} LEFT JOIN landing_lines AS l ON l.ordinal = r._source.line", "l.line"
        self.batch.buffer.insert(f"{dead_letters_sql(source, delivery.file.date, line)} LIMIT {room}")
        kept = self._write(delivery, rows_sql(source, line), is_wide)
        self.con.unregister("landing_lines")
        self.bronze.delete_uncommitted(written)
        return kept

    def _write(self, delivery: Delivery, select: str, is_wide: bool) -> list[DataFile]:
        partition = {"_partition_date": delivery.file.date.isoformat()}
        return self.bronze.write(self.con, select, partition_values=partition, is_wide=is_wide)

    def _add_dead_letter(self, delivery: Delivery, line: int | None, reason: str, raw: str, records: int = 1) -> None:
        facts = self._facts(delivery, "?::BIGINT")
        self.batch.buffer.insert(f"SELECT {facts}, ?, ?, ?, NULL", [line, reason, raw, records])

    def _format_of(self, path: Path) -> Format | None:
        try:
            return resolve_format(path.name, self.format)
        except UnreadableFile:
            return None

    @staticmethod
    def _facts(delivery: Delivery, line: str) -> str:
        return (
            f"DATE '{delivery.file.date}', {quote_text(delivery.content_id)}, "
            f"TIMESTAMPTZ '{extracted_at(delivery.file).isoformat(sep=' ')}', "
            f"struct_pack(file := {quote_text(delivery.file.path)}, line := {line})"
        )


def rejects_table(rejects: Sequence[Reject]) -> pa.Table:
    """Give rejects as an Arrow table of `line`, `reason` and `raw`."""
    return pa.table(
        {
            "line": pa.array([reject.line for reject in rejects], pa.int64()),
            "reason": [reject.reason for reject in rejects],
            "raw": [reject.raw for reject in rejects],
        }
    )


def _is_html(line: str) -> bool:
    return line.lstrip("\ufeff \t").lower().startswith(("<!doctype html", "<html"))


def _refuse_nulls(files: list[DataFile], shape: RawShape) -> None:
    """Find nulls in a required column that `_reason` does not mention.

    DuckDB does not look for nulls where the statistics of a Parquet file say that there are none. Lists have no
    statistics.
    """
    bad = misfits(files)
    for column in shape.columns:
        nulls = sum(file.null_count(column.name) for file in files if column.name in file.columns)
        if column.required and nulls > bad:
            raise ContradictoryFile(f"file: {column.name} has nulls, and statistics that say it has none")
