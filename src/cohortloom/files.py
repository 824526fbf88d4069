"""Files: written whole or not at all, hashed, and never executable.

JSON is canonical (sorted keys, no NaN), so equal content is equal bytes. A folder is written under a temporary name
beside its place and renamed at the end; what a broken run leaves never loads.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cohortloom.errors import FileFormatError, Problem

__all__ = ["new_folder", "read_json", "sha256", "write_bytes", "write_json", "write_text"]


def write_bytes(path: str | Path, content: bytes) -> None:
    """Write a file whole: to a temporary neighbour, flushed, then renamed."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def write_text(path: str | Path, text: str) -> None:
    write_bytes(path, text.encode())


def write_json(path: str | Path, content: Any, *, sort_keys: bool = True) -> None:
    """JSON with two-space indent and a final newline; canonical unless the order of keys is content."""
    write_text(path, json.dumps(content, indent=2, sort_keys=sort_keys, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: str | Path) -> Any:
    """Read JSON.

    Raises:
        FileFormatError: the file is absent, truncated or not JSON.
    """
    path = Path(path)
    try:
        return json.loads(path.read_text(encoding="utf8"))
    except FileNotFoundError:
        raise FileFormatError(
            "", [Problem("no-file", path.name, "the file does not exist", "Check the path.")]
        ) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        line = getattr(error, "lineno", 0)
        raise FileFormatError(
            "", [Problem("not-json", path.name, f"is not JSON (line {line})", "It may be truncated; write it again.")]
        ) from None


def sha256(path: str | Path) -> str:
    """SHA-256 of a file, read in pieces."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def new_folder(path: str | Path, *, force: bool = False) -> Iterator[Path]:
    """A folder that appears whole under its name when the block ends, and not at all if it fails.

    Raises:
        FileFormatError: the folder exists and `force` is not set.
    """
    path = Path(path)
    if path.exists() and not force:
        raise FileFormatError(
            "",
            [
                Problem(
                    "exists",
                    str(path),
                    "already exists",
                    "Choose another name, or add --force (force=True) to replace it.",
                )
            ],
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        yield work
        os.chmod(work, 0o755)
        if path.exists():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        os.replace(work, path)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise
