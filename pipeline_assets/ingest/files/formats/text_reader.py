"""What the readers of text files have in common: how DuckDB is asked, and what it can be given to read.

DuckDB reads CSV in parallel by guessing where records start; on a file with an unclosed quote its guesses disagree
(1.8 of 6 million rows came back, one reject). All text is therefore read in one thread, which is also what numbering
the records needs.
"""

from pathlib import Path

from pipeline_assets.ingest.files.content import Content, read_content
from pipeline_assets.ingest.files.formats.physical_lines import MAX_LINE_BYTES, LineTooLong, write_uniform
from pipeline_assets.ingest.files.formats.records import UnreadableFile, errors_table, scans_table

BOM = b"\xef\xbb\xbf"

# Twice the longest line: the default of sixteen times would be 256 MiB for each file.
_BUFFER_BYTES = 2 * MAX_LINE_BYTES


def safe_path(path: Path, scratch: Path) -> Path:
    """Give the path, or a link to it where its name holds characters that DuckDB takes for a glob."""
    if not any(c in str(path) for c in "*?[]{}\\"):
        return path
    link = scratch / "link"
    link.symlink_to(path.resolve())
    return link


def uniform(path: Path, content: Content, separator: bytes, scratch: Path) -> tuple[Path, Content]:
    """Give the file itself or, where its line ends are mixed, a copy that DuckDB reads with the same physical lines."""
    if content.uniform_line_ends:
        return safe_path(path, scratch), content
    target = scratch / "uniform"
    try:
        write_uniform(path, content, target, separator)
    except LineTooLong as error:
        raise UnreadableFile(f"line too long: {error}") from error
    return target, read_content(target)


def reader_options(content: Content, rejects_id: str | None) -> str:
    """Give the options of every read of text.

    Strict mode: without it, surplus columns vanish without a reject. Without a word about Hive, DuckDB takes a folder
    on the path that is called `region=north` for a column, and its value for that of the file's own column.
    """
    rejects = "ignore_errors = true"
    if rejects_id:
        tables = f"rejects_table = '{errors_table(rejects_id)}', rejects_scan = '{scans_table(rejects_id)}'"
        rejects = f"store_rejects = true, {tables}"
    return (
        f"compression = '{content.compression or 'none'}', strict_mode = true, null_padding = false, parallel = false, "
        f"hive_partitioning = false, max_line_size = {MAX_LINE_BYTES}, buffer_size = {_BUFFER_BYTES}, {rejects}"
    )
