"""Takes a JSON array apart into its elements, one per line, if one of its elements is not valid JSON.

Otherwise one lone surrogate or one `nul` among a million records would cost them all. Only the array itself must be
complete: each bracket and each quote is closed, and nothing follows the last bracket.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

_TOKEN = re.compile(rb'["\\\[\]{},\r\n]')
_OPENING, _CLOSING = b"[{", b"]}"


class _Splitter:
    """Reads the array chunk by chunk; writes an element as soon as the next one begins."""

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self._element = bytearray()
        self._in_string = self._escaped = self._ended = self.is_broken = False
        self._depth = 0

    @property
    def is_whole(self) -> bool:
        return self._ended and not self.is_broken and not self._in_string

    def feed(self, chunk: bytes) -> None:
        start = 0
        if self._escaped and chunk:  # the character after a backslash that ended the last chunk
            self._element += chunk[:1].translate(_NO_LINE_ENDS)
            self._escaped, start = False, 1
        while (found := _TOKEN.search(chunk, start)) is not None:
            self._keep(chunk[start : found.start()])
            start = found.end()
            if found[0] == b"\\" and self._in_string:
                self._element += b"\\" + chunk[start : start + 1].translate(_NO_LINE_ENDS)
                self._escaped = start == len(chunk)
                start += 1
            else:
                self._take(found[0])
        self._keep(chunk[start:])

    def _keep(self, text: bytes) -> None:
        if text and (self._depth == 0 or self._ended):
            self.is_broken |= bool(text.strip())
        else:
            self._element += text

    def _take(self, token: bytes) -> None:
        if token in b"\r\n":
            self._element += b"\t" if self._in_string else b" "  # within a string both are invalid JSON
        elif token == b'"':
            self.is_broken |= self._depth == 0
            self._in_string = not self._in_string
            self._element += token
        elif self._in_string:
            self._element += token
        elif token in _OPENING:
            self.is_broken |= self._ended or (self._depth == 0 and token != b"[")
            if self._depth:
                self._element += token
            self._depth += 1
        elif token in _CLOSING:
            self._depth -= 1
            self._close(token)
        elif self._depth == 1 and token == b",":
            self._write(self._element.strip() or b",")
        else:
            self._element += token

    def _close(self, token: bytes) -> None:
        if self._depth > 0:
            self._element += token
            return
        self.is_broken |= self._ended or token != b"]"
        self._ended = True
        if rest := self._element.strip():
            self._write(rest)
        self._element.clear()

    def _write(self, element: bytes | bytearray) -> None:
        self._out.write(bytes(element) + b"\n")
        self._element.clear()


_NO_LINE_ENDS = bytes.maketrans(b"\r\n", b"\t\t")


def write_elements(chunks: Iterable[bytes], target: Path) -> bool:
    """Write the elements of an array, one per line, unchanged except for line ends.

    Args:
        chunks: The text.
        target: The file to write.

    Returns:
        False if the text is not a complete array.
    """
    with target.open("wb") as out:
        splitter = _Splitter(out)
        for chunk in chunks:
            splitter.feed(chunk)
            if splitter.is_broken:
                return False
    return splitter.is_whole
