"""How tables are written as text: encodings, the first line of a spreadsheet's export, a last row cut short.

An encoding "utf8|cp1252" reads each line by the first that fits it: files put together from two exports have lines of
both, and one word would come in two spellings.
"""

from __future__ import annotations

import csv
import gzip
import re
from pathlib import Path

__all__ = ["BOTH", "content", "decoded", "is_cut", "said_separator"]

BOTH = "utf8|cp1252"
_TAIL = 1 << 20


def content(path: Path) -> bytes:
    """The bytes of a file, decompressed."""
    found = path.read_bytes()
    return gzip.decompress(found) if found[:2] == b"\x1f\x8b" else found


def decoded(text: bytes, encoding: str) -> str:
    """Text of bytes; of several encodings, parted by a bar, each line is read by the first that fits.

    Raises:
        UnicodeDecodeError: no encoding fits.
    """
    names = encoding.split("|")
    if len(names) == 1:
        return text.decode(encoding)
    return b"".join(_line(line, names).encode() for line in text.splitlines(keepends=True)).decode()


def _line(line: bytes, names: list[str]) -> str:
    for name in names[:-1]:
        try:
            return line.decode(name)
        except UnicodeDecodeError:
            continue
    return line.decode(names[-1])


def said_separator(path: Path) -> str:
    """The separator a spreadsheet names in a line of its own before the header (sep=;), or ""."""
    with (gzip.open if path.name.endswith(".gz") else open)(path, "rb") as file:
        head = file.readline(64)
    plain = head.removeprefix(b"\xef\xbb\xbf").removeprefix(b"\xff\xfe").replace(b"\0", b"").strip(b"\r\n")
    found = re.fullmatch(rb'"?sep=([,;|\t])"?', plain)
    return found[1].decode() if found else ""


def is_cut(path: Path, separator: str) -> bool:
    """Does a file end in the middle of its last row: fewer cells than the header and the row before?"""
    if path.name.endswith(".parquet"):
        return False
    zipped = path.name.endswith(".gz")
    with (gzip.open if zipped else open)(path, "rb") as file:
        lines = [file.readline(), file.readline()]
        header = lines[1] if said_separator(path) else lines[0]
        end = b""
        if zipped:  # its end is found by reading all of it
            file.seek(0)
            while part := file.read(_TAIL):
                end = (end + part)[-_TAIL:]
        else:
            file.seek(max(0, path.stat().st_size - _TAIL))
            end = file.read()
        tail = end.splitlines(keepends=True)
    if len(tail) < 3 or tail[-1].endswith(b"\n") or b"\0" in header:
        return False
    cells = [_cells(line, separator) for line in (header, tail[-2], tail[-1])]
    return cells[2] is not None and cells[0] == cells[1] and cells[2] < (cells[0] or 0)


def _cells(line: bytes, separator: str) -> int | None:
    """Cells of a line; None if a quoted cell goes on from or to another line."""
    text = line.decode("latin1")
    return None if text.count('"') % 2 else len(next(csv.reader([text], delimiter=separator), []))
