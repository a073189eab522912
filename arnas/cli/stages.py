"""One command per stage, as both engines call them; all of them come from the plan."""

from __future__ import annotations

from inspect import Parameter, Signature
from typing import Annotated

import typer

from arnas.cli.app import app
from arnas.pipeline.plan import AXES, STAGES, Stage


def _add_command(stage: Stage) -> None:
    """Add the command of a stage, with one required option for each of its axes."""

    def run(**axes: str) -> None:
        from arnas.pipeline.runner import run_command

        run_command(stage.command, axes)

    options = {axis: Annotated[str, typer.Option(help=AXES[axis])] for axis in stage.axes}
    run.__annotations__ = options
    run.__signature__ = Signature(  # type: ignore[attr-defined]
        [Parameter(axis, Parameter.KEYWORD_ONLY, annotation=kind) for axis, kind in options.items()]
    )
    app.command(name=stage.command, help=stage.help)(run)


for _stage in {stage.command: stage for stage in STAGES}.values():
    _add_command(_stage)
