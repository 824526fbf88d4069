"""Parser, exit codes, and the thread settings that must come before torch.

Exit 0: fine. 1: a check failed. 2: wrong use or input. Nothing a user does ends in a traceback; --debug shows it.
"""

from __future__ import annotations

import os
import sys
from typing import Annotated, Any

import typer

from cohortloom.errors import CohortloomError
from cohortloom.version import __version__

__all__ = ["app", "main"]

app = typer.Typer(
    name="cohortloom",
    help="Synthetic patients: demographics, visits, timed records and waveforms, drawn together and judged.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    pass


def _register() -> None:
    from cohortloom.cli import (
        convert,
        demo,
        distill,
        evaluate,
        extend,
        fit,
        impute,
        listing,
        report,
        sample,
        schema,
        simulate,
        split,
        validate,
    )

    app.add_typer(schema.app, name="schema")
    for verb in (demo, simulate, convert, split, fit, sample, distill, extend, impute, validate, evaluate, report):
        app.command(verb.__name__.rpartition(".")[2])(verb.run)
    app.command("list")(listing.run)


def main(arguments: list[str] | None = None) -> Any:
    """Run the command line; leaves the process with the exit code."""
    # Without these two, OpenMP threads spin at barriers and a busy machine trains many times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "0")
    arguments = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in arguments  # wherever it stands: it is asked for after a failure, at the end of the line
    _register()
    try:
        app(args=[a for a in arguments if a != "--debug"], standalone_mode=True)
    except CohortloomError as error:
        if debug:
            raise
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("Stopped.", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(0)
    except (OSError, MemoryError) as error:
        if debug:
            raise
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(2)
    except Exception as error:
        if debug:
            raise
        # The text of an unforeseen error could hold a value of a patient; its type and place can't.
        place = _place(error)
        what = f"An error inside cohortloom ({type(error).__name__} at {place})."
        print(f"{what} Run again with --debug for the traceback, and report it.", file=sys.stderr)
        sys.exit(2)


def _place(error: BaseException) -> str:
    trace, place = error.__traceback__, "?"
    while trace is not None:
        name = trace.tb_frame.f_globals.get("__name__", "")
        if name.startswith("cohortloom"):
            place = f"{name}:{trace.tb_lineno}"
        trace = trace.tb_next
    return place
