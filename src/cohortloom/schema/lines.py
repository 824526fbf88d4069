"""Line numbers of keys in TOML and JSON texts.

The standard parsers give values without places. A message that can't name its line is half a message, so this scanner
walks a text that has already been parsed without error and notes where every key and every array element starts:

    [tables.labs]                          -> ("tables", "labs"): 1
    columns.k = { kind = "number" }        -> ("tables", "labs", "columns", "k"): 2, (..., "kind"): 2
    [[tasks]]                              -> ("tasks", 0): 3

Paths are tuples of keys and list positions, as pydantic gives them. As the text is known to be well formed, the scanner
only tells strings, comments, brackets and keys apart.
"""

import json
import re
import tomllib
from bisect import bisect_right

__all__ = ["Path", "line_of", "lines_of", "path_text"]

Path = tuple[str | int, ...]

_BLANK = re.compile(r"(?:[ \t\r\n]+|#[^\n]*)*")
_SPACE = re.compile(r"[ \t]*")
_STRING = re.compile(r'"""(?:[^\\]|\\.)*?"{3,5}|\'\'\'.*?\'{3,5}|"(?:[^"\\\n]|\\.)*"|\'[^\'\n]*\'', re.S)
_SCALAR = re.compile(r"[^,\]}\n#]*")
_BARE = re.compile(r"[A-Za-z0-9_-]+")


def lines_of(text: str, kind: str) -> dict[Path, int]:
    """First line (1-based) of every key and array element of a well-formed text.

    Args:
        text: The text as parsed.
        kind: "toml" or "json".
    """
    scanner = _Scanner(text, kind)
    scanner.document()
    return scanner.lines


def line_of(lines: dict[Path, int], path: Path) -> int:
    """Line of a path, or of the closest key above it; 1 for the whole text."""
    while path and path not in lines:
        path = path[:-1]
    return lines.get(path, 1)


def path_text(path: Path) -> str:
    """The path as one would write it: tables.labs.columns."alk.phos".low, tasks[0]."""
    out = ""
    for part in path:
        if isinstance(part, int):
            out += f"[{part}]"
        else:
            out += ("." if out else "") + (part if _BARE.fullmatch(part) else json.dumps(part, ensure_ascii=False))
    return out


class _Scanner:
    def __init__(self, text: str, kind: str) -> None:
        self.text, self.kind, self.at = text, kind, 0
        self.starts = [0, *(m.end() for m in re.finditer("\n", text))]
        self.lines: dict[Path, int] = {}
        self.counts: dict[Path, int] = {}  # arrays of tables: how many so far

    def document(self) -> None:
        if self.kind == "json":
            self.skip()
            self.value(())
            return
        head: Path = ()
        while self.skip():
            if self.text.startswith("[", self.at):
                head = self.header()
            else:
                self.pair(head)

    def skip(self) -> bool:
        """Pass blanks, line ends and comments; False at the end of the text."""
        self.at = _BLANK.match(self.text, self.at).end()  # type: ignore[union-attr]
        return self.at < len(self.text)

    def note(self, path: Path, start: int) -> None:
        line = bisect_right(self.starts, start)
        for i in range(1, len(path) + 1):
            self.lines.setdefault(path[:i], line)

    def header(self) -> Path:
        start, double = self.at, self.text.startswith("[[", self.at)
        self.at += 2 if double else 1
        path: Path = ()
        parts = self.key()
        for i, part in enumerate(parts):
            path += (part,)
            if double and i == len(parts) - 1:
                self.counts[path] = self.counts.get(path, 0) + 1
            if path in self.counts:
                path += (self.counts[path] - 1,)
        self.at += 2 if double else 1
        self.note(path, start)
        return path

    def key(self) -> list[str]:
        """A dotted key; the position is left after it and the blanks that follow."""
        parts = []
        while True:
            self.at = _SPACE.match(self.text, self.at).end()  # type: ignore[union-attr]
            if self.text[self.at] in "\"'":
                token = _STRING.match(self.text, self.at).group()  # type: ignore[union-attr]
                parts.append(json.loads(token) if self.kind == "json" else tomllib.loads(f"k = {token}")["k"])
            else:
                token = _BARE.match(self.text, self.at).group()  # type: ignore[union-attr]
                parts.append(token)
            self.at = _SPACE.match(self.text, self.at + len(token)).end()  # type: ignore[union-attr]
            if not self.text.startswith(".", self.at):
                return parts
            self.at += 1

    def pair(self, head: Path) -> None:
        start = self.at
        path = (*head, *self.key())
        self.note(path, start)
        self.skip()
        self.at += 1  # "=" or ":"
        self.skip()
        self.value(path)

    def value(self, path: Path) -> None:
        opening = self.text[self.at]
        if opening in "\"'":
            self.at = _STRING.match(self.text, self.at).end()  # type: ignore[union-attr]
        elif opening in "[{":
            self.at, i = self.at + 1, 0
            while self.skip() and self.text[self.at] not in "]}":
                if opening == "{":
                    self.pair(path)
                else:
                    self.note((*path, i), self.at)
                    self.value((*path, i))
                self.skip()
                i += 1
                if self.text[self.at] == ",":
                    self.at += 1
            self.at += 1
        else:
            self.at = _SCALAR.match(self.text, self.at).end()  # type: ignore[union-attr]
