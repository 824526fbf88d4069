"""Files: written whole or not at all, hashed, and never executable.

JSON is canonical (sorted keys, no NaN), so equal content is equal bytes. A folder is written under a temporary name
beside its place and renamed at the end; what a broken run leaves never loads. Replacing is for results: a folder that
holds anything else stays as it is, whatever `force` says, since nobody asks for the loss of a neighbouring file.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cohortloom.errors import FileFormatError, Problem

__all__ = ["new_folder", "read_json", "refuse_existing", "sha256", "write_bytes", "write_json", "write_text"]


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
def new_folder(path: str | Path, *, force: bool = False, parts: Collection[str] = ()) -> Iterator[Path]:
    """A folder that appears whole under its name when the block ends, and not at all if it fails.

    Args:
        path: The folder.
        force: Replace an earlier result of that name.
        parts: Names of results within the folder, where it is one of several (a split).

    Raises:
        FileFormatError: the folder exists and `force` is not set, or it holds what is no result of ours.
    """
    path = Path(path)
    refuse_existing(path, force, parts)
    path.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    old = work.with_name(work.name + ".old")
    try:
        yield work
        os.chmod(work, 0o755)
        if path.exists():
            os.replace(path, old)
        os.replace(work, path)
    except BaseException:
        if old.exists() and not path.exists():
            os.replace(old, path)
        shutil.rmtree(work, ignore_errors=True)
        raise
    shutil.rmtree(old, ignore_errors=True)


def refuse_existing(path: str | Path, force: bool, parts: Collection[str] = ()) -> None:
    """Raise unless a folder may be written here: nothing stands there, or a result of ours and `force` is set.

    Raises:
        FileFormatError: as `new_folder`.
    """
    path = Path(path)
    if path.exists() and not force:
        fix = "Choose another name, or add --force (force=True) to replace it."
        raise FileFormatError("", [Problem("exists", str(path), "already exists", fix)])
    if path.exists() and not _is_result(path, frozenset(parts)):
        what = "holds more than an earlier result of this kind, all of which would be deleted"
        what = what if path.is_dir() else "is a file, and a folder is written"
        raise FileFormatError("", [Problem("not-ours", str(path), what, "Choose another name, or remove it yourself.")])


def _is_result(folder: Path, parts: frozenset[str] = frozenset()) -> bool:
    """Is all of the folder one result: a cohort in any of our formats, a model, or the parts of a split?"""
    if not folder.is_dir():
        return False
    names = {p.name for p in folder.iterdir()} - {".DS_Store", "Thumbs.db"}
    if parts and names:
        inner = [p for p in folder.iterdir() if p.is_dir()]
        return names <= parts and all(_is_result(p) or all(map(_is_result, p.iterdir())) for p in inner)
    if "model.json" in names:
        return _has(folder / "model.json", "generator", "format")
    if "manifest.json" in names:
        known = {"manifest.json", "schema.json", "tables", "signals"}
        return names <= known and _has(folder / "manifest.json", "format", "origin")
    if "schema.json" in names:
        tables = all(n in ("schema.json", "origin.json") or n.endswith((".csv", ".parquet")) for n in names)
        return tables and _has(folder / "schema.json", "clock", "tables")
    if "metadata" in names:
        return names <= {"data", "metadata"} and (folder / "metadata" / "cohortloom.json").is_file()
    records = {n.removesuffix("_records.csv") for n in names if n.endswith("_records.csv")}
    return not names or (bool(records) and {n for n in names if not n.endswith(".csv")} <= records)


def _has(file: Path, *keys: str) -> bool:
    try:
        content = read_json(file)
    except (FileFormatError, OSError):
        return False
    return isinstance(content, dict) and set(keys) <= set(content)
