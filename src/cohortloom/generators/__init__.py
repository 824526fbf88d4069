"""Generators: what learns a cohort and draws new patients. One line each; the module is imported on use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cohortloom.registry import Registry, with_settings

__all__ = ["GENERATORS", "create", "describe", "generator_names", "load"]

GENERATORS = Registry(
    "generator",
    "cohortloom.generators",
    {
        "bootstrap": "bootstrap:Bootstrap",
        "chain": "chain:Chain",
        "columnar-ar": "columnar_ar:ColumnarAR",
        "event-transformer": "event_transformer:EventTransformerGenerator",
        "independent": "independent:Independent",
        "record-diffusion": "record_diffusion:RecordDiffusion",
        "signal-diffusion": "signal_diffusion:SignalDiffusion",
        "signal-steps": "signal_steps:SignalSteps",
        "sdv-par": "sdv_par:SdvPar",
        "sdv-static": "sdv_static:SdvStatic",
        "temporal-vae": "temporal_vae:TemporalVAE",
        "timegan": "timegan:TimeGAN",
    },
    group="cohortloom.generators",
)


def generator_names() -> list[str]:
    """Names of all generators, those of other packages included."""
    return sorted(GENERATORS)


def create(name: str, **settings: Any) -> Any:
    """A generator by name, with settings as a file or command line gives them.

    Raises:
        SettingsError: unknown name or settings, with the nearest known one.
    """
    return with_settings(GENERATORS[name], settings)


def describe() -> dict[str, str]:
    """Name -> first line of its docstring and its abilities."""
    found = {}
    for name in generator_names():
        cls = GENERATORS[name]
        line = (cls.__doc__ or "").strip().splitlines()[0]
        found[name] = f"{line} [{', '.join(sorted(cls.abilities))}]" if cls.abilities else line
    return found


def load(path: str | Path) -> Any:
    """A fitted generator from the folder that `save` wrote."""
    from cohortloom.generators.store import load as read

    return read(path)
