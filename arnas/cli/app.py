"""The application that the commands belong to, and what several of them use."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

app = typer.Typer(
    name="arnas",
    help="Search, train and evaluate neural networks that are accurate and robust. Settings come "
    "from params.yaml, or the file that ARNAS_PARAMS names; ARNAS_DEVICE and ARNAS_THREADS choose "
    "where it runs. `snakemake --cores all` or `dvc repro` run all stages.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
params_app = typer.Typer(help="Look at the settings or change to a preset.", no_args_is_help=True)
app.add_typer(params_app, name="params")
plan_app = typer.Typer(help="Print what is generated from the plan.", no_args_is_help=True)
app.add_typer(plan_app, name="plan")

ParamsFile = Annotated[Path | None, typer.Option("--params", help="The settings file.")]


def console_of(width: int) -> Console:
    """Return standard output: a terminal as wide as it is, anything else so many columns."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else width)
