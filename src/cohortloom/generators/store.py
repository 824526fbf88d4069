"""Models on disk: a folder of JSON, safetensors and, where the model is the data, Parquet. Nothing that can run.

    model.json             format number, generator, settings, library version, schema digest, plain facts (history),
                           notes (why this generator was chosen)
    schema.json            schema of the cohorts
    codec.json             what the codec learned
    weights.safetensors    weights (networks only)

A folder with any other file is refused, so nobody mistakes a stranger's pickle for part of a model.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from cohortloom.errors import FileFormatError, Problem
from cohortloom.files import new_folder, read_json, write_json, write_text
from cohortloom.registry import with_settings
from cohortloom.schema import Schema
from cohortloom.version import __version__

if TYPE_CHECKING:
    from cohortloom.generators.base import Generator

__all__ = ["FORMAT", "load", "save"]

FORMAT = 16


def save(generator: Generator, path: str | Path, *, force: bool = False) -> None:
    """Write a fitted generator as a folder that appears whole or not at all.

    Raises:
        FileFormatError: the path exists and `force` is not set.
    """
    with new_folder(path, force=force) as folder:
        facts = generator._write(folder)
        text = json.dumps(generator.schema_.model_dump(mode="json", exclude_none=True), indent=2, ensure_ascii=False)
        write_text(folder / "schema.json", text + "\n")  # not sorted: the order of tables and columns is content
        write_json(
            folder / "model.json",
            {
                "format": FORMAT,
                "generator": generator.name,
                "settings": generator.settings(),
                "version": __version__,
                "schema": generator.schema_.digest,
                "n_fitted": generator.n_fitted_,
                "facts": facts,
                "notes": getattr(generator, "notes_", {}),
            },
        )


def load(path: str | Path) -> Any:
    """Read a generator of any kind.

    Raises:
        FileFormatError: not a model, of another format, damaged, or holding files that do not belong.
        SettingsError: no such generator is installed.
    """
    from cohortloom.generators import GENERATORS

    path = Path(path)
    if not (path / "model.json").is_file():
        raise _refused("no-model", path.name, "is not a model folder (it has no model.json)")
    model = read_json(path / "model.json")
    if not isinstance(model, dict) or model.get("format") != FORMAT:
        raise _refused("format", "model.json", f"is not of format {FORMAT}", "Fit again with this version.")
    cls = GENERATORS[model.get("generator", "")]
    _only_known(path, cls)
    generator = with_settings(cls, model["settings"])
    try:
        schema = Schema.model_validate(read_json(path / "schema.json"))
    except ValidationError:
        raise _refused("schema", "schema.json", "is not a schema this version reads") from None
    if schema.digest != model["schema"]:
        raise _refused("schema-digest", "schema.json", "is not the schema the model was fitted with")
    generator.schema_, generator.n_fitted_ = schema, model["n_fitted"]
    generator.notes_ = dict(model.get("notes", {}))
    try:
        generator._read(path, model["facts"], schema)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        if isinstance(error, FileFormatError):
            raise
        raise _refused("damaged", path.name, "holds files that do not fit each other") from error
    return generator


def _only_known(path: Path, cls: type) -> None:
    known = {"model.json", "schema.json", *cls.files}
    foreign = sorted(p.name for p in path.iterdir() if p.name not in known or p.is_symlink())
    if foreign:
        raise FileFormatError(
            f"{path.name} holds files that are not part of a {cls.name} model; none was read",
            [Problem("foreign-file", name, "is foreign", "Remove it, or get the model from its maker again.")
             for name in foreign],
        )  # fmt: skip


def _refused(code: str, where: str, what: str, fix: str = "Save the model again.") -> FileFormatError:
    return FileFormatError("", [Problem(code, where, what, fix)])
