"""Names of things that can be chosen, and the settings they take.

A registry maps a name to "module:Class" and imports the module only when the name is asked for; other packages add
theirs by an entry point. Settings are the init fields of a dataclass: `settings_of` writes them as plain JSON,
`with_settings` builds the object back, and an unknown name is answered with the nearest one.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar, get_type_hints

from cohortloom.errors import Problem, SettingsError, nearest

__all__ = ["Registry", "check_settings", "settings_of", "unknown_settings", "with_settings"]

T = TypeVar("T")


class Registry(Mapping[str, type]):
    """Name -> class, imported on use.

    Args:
        kind: What the names are, in the singular, for messages ("generator").
        package: Package in which the modules lie.
        table: Name -> "module:Class", relative to the package.
        group: Entry-point group that adds names from other packages; the built-in ones can't be replaced.
    """

    def __init__(self, kind: str, package: str, table: Mapping[str, str], group: str = "") -> None:
        self.kind, self.package, self.table, self.group = kind, package, dict(table), group

    def __getitem__(self, name: str) -> type:
        if name in self.table:
            module, _, attribute = self.table[name].partition(":")
            return getattr(importlib.import_module(f"{self.package}.{module}"), attribute)
        for point in self._points():
            if point.name == name:
                return point.load()
        raise SettingsError(
            f'there is no {self.kind} "{name}".{nearest(name, self)} There are: {", ".join(sorted(self))}.'
        )

    def __iter__(self) -> Iterator[str]:
        yield from self.table
        yield from (point.name for point in self._points() if point.name not in self.table)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __contains__(self, name: object) -> bool:
        return any(name == known for known in self)

    def _points(self) -> tuple:
        if not self.group:
            return ()
        from importlib.metadata import entry_points

        return tuple(entry_points(group=self.group))


def _init_fields(cls: type) -> list[str]:
    return [f.name for f in dataclasses.fields(cls) if f.init]


def unknown_settings(cls: type, names: Mapping[str, Any] | list[str], where: str) -> list[Problem]:
    """A problem for every name that is not a setting of the class."""
    known = _init_fields(cls)
    return [
        Problem(
            "unknown-setting",
            f"{where}.{name}",
            "is not a setting",
            nearest(name, known).strip() or f"The settings are {', '.join(known) or 'none'}.",
        )
        for name in names
        if name not in known
    ]


def check_settings(instance: Any, where: str) -> None:
    """Bring every field to its declared type.

    Raises:
        SettingsError: values of the wrong type, all of them.
    """
    from pydantic import TypeAdapter, ValidationError  # heavy

    hints, problems = get_type_hints(type(instance)), []
    for name in _init_fields(type(instance)):
        try:
            value = TypeAdapter(hints[name], config=_config(hints[name])).validate_python(getattr(instance, name))
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            problems.append(Problem("wrong-setting", f"{where}.{name}", str(first["msg"]).lower(), "Change it."))
            continue
        object.__setattr__(instance, name, value)
    if problems:
        raise SettingsError("", problems)


def _config(hint: Any) -> Any:
    return None if dataclasses.is_dataclass(hint) else {"arbitrary_types_allowed": True}


def settings_of(instance: Any) -> dict[str, Any]:
    """Settings as plain JSON: init fields that count for equality, nested dataclasses as objects, tuples as lists."""
    return {f.name: _plain(getattr(instance, f.name)) for f in dataclasses.fields(instance) if f.init and f.compare}


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return settings_of(value)
    if isinstance(value, (tuple, list)):
        return [_plain(v) for v in value]
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    return value


def with_settings(cls: type[T], settings: Mapping[str, Any], where: str = "") -> T:
    """Build an object from plain settings (a parsed TOML or JSON file).

    Settings of a part (`training`) that are not named stay as this class has them.

    Raises:
        SettingsError: unknown names (with the nearest known one) or wrong types, all of them.
    """
    where = where or getattr(cls, "name", cls.__name__)
    problems = unknown_settings(cls, settings, where)
    if problems:
        raise SettingsError("", problems)
    hints, values = get_type_hints(cls), {}
    for name, value in settings.items():
        nested = next((h for h in _parts(hints[name]) if dataclasses.is_dataclass(h)), None)
        if nested is not None and isinstance(value, Mapping):
            value = _part(_default(cls, name), nested, value, f"{where}.{name}")
        values[name] = tuple(value) if isinstance(value, list) else value
    return cls(**values)


def _default(cls: type, name: str) -> Any:
    """What a field holds that is not given; None if it must be."""
    field = next(f for f in dataclasses.fields(cls) if f.name == name)
    made = field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default
    return None if made is dataclasses.MISSING else made


def _part(default: Any, kind: Any, settings: Mapping[str, Any], where: str) -> Any:
    """A nested object: the default one with these settings, if there is one of this kind."""
    made = with_settings(kind, settings, where)
    if not isinstance(default, kind):
        return made
    values = {name: getattr(made, name) for name in settings}
    change = getattr(default, "changed", None)  # where settings exclude one another
    return change(**values) if change else dataclasses.replace(default, **values)


def _parts(hint: Any) -> tuple:
    return (hint, *getattr(hint, "__args__", ()))
