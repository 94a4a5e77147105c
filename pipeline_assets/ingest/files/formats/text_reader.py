"""What the readers of text files share: the options for DuckDB, and files in a form that it can read.

DuckDB reads CSV in parallel by guessing where records start; on a file with an unclosed quote its guesses disagree (1.8
of 6 million rows came back, one reject). So all text is read in one thread, which numbering the records needs anyway.
"""

from pathlib import Path

from pipeline_assets.ingest.files.content import Content, read_content
from pipeline_assets.ingest.files.formats.physical_lines import MAX_LINE_BYTES, LineTooLong, write_uniform
from pipeline_assets.ingest.files.formats.records import UnreadableFile, errors_table, scans_table

BOM = b"\xef\xbb\xbf"

# Twice the longest line: the default of sixteen times would be 256 MiB for each file.
_BUFFER_BYTES = 2 * MAX_LINE_BYTES


def safe_path(path: Path, scratch: Path) -> Path:
    """Return the path, or a link to it if its name holds characters that DuckDB takes for a glob."""
    if not any(c in str(path) for c in "*?[]{}\\"):
        return path
    link = scratch / "link"
    link.symlink_to(path.resolve())
    return link


def uniform(path: Path, content: Content, separator: bytes, scratch: Path) -> tuple[Path, Content]:
    """Return the file or, if its line ends are mixed, a copy with the same physical lines that DuckDB can read."""
    if content.uniform_line_ends:
        return safe_path(path, scratch), content
    target = scratch / "uniform"
    try:
        write_uniform(path, content, target, separator)
    except LineTooLong as error:
        raise UnreadableFile(f"line too long: {error}") from error
    return target, read_content(target)


def reader_options(content: Content, rejects_id: str | None) -> str:
    """Return the options of every read of text.

    Strict mode is on, because without it surplus columns vanish without a reject. Hive partitioning is off, because
    otherwise DuckDB takes a folder called `region=north` on the path for a column, and its value replaces that of the
    file's own column.
    """
    rejects = "ignore_errors = true"
    if rejects_id:
        tables = f"rejects_table = '{errors_table(rejects_id)}', rejects_scan = '{scans_table(rejects_id)}'"
        rejects = f"store_rejects = true, {tables}"
    return (
        f"compression = '{content.compression or 'none'}', strict_mode = true, null_padding = false, parallel = false, "
        f"hive_partitioning = false, max_line_size = {MAX_LINE_BYTES}, buffer_size = {_BUFFER_BYTES}, {rejects}"
    )
