"""Commands about what could be run: settings, models and their cost."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from arnas.cli.app import ParamsFile, app, console_of, params_app, plan_app
from arnas.runtime.errors import UserError


@app.command()
def models(
    name: Annotated[str | None, typer.Argument(help="A model; all of them by default.")] = None,
    draw: Annotated[bool, typer.Option("--draw", help="Draw its cells to NAME.svg.")] = False,
) -> None:
    """List the zoo: parameters and multiply-accumulates at the published size on CIFAR-10."""
    from rich.table import Table

    from arnas.models.registry import MODELS, SIZES
    from arnas.spaces.published import GENOTYPES

    if name is not None and name not in MODELS:
        raise UserError(f"there is no model '{name}': allowed are {', '.join(MODELS)}.")
    if draw:
        if name not in GENOTYPES:
            raise UserError(f"--draw needs a model with cells: name one of {', '.join(GENOTYPES)}.")
        from arnas.reporting.run.cells import draw_cells

        path = Path(f"{name}.svg")
        draw_cells(path, GENOTYPES[name].genotype)
        typer.echo(f"Drew the cells of {name} to {path}.")
        return
    table = Table("model", "parameters", "MACs", "channels", "cells", "source")
    for key in [name] if name else MODELS:
        entry = MODELS[key]
        table.add_row(
            key,
            *(f"{count:,}" for count in SIZES[key]),
            str(entry.channels),
            str(entry.cells or "-"),
            entry.citation,
        )
    console_of(200).print(table)


@app.command()
def cost(
    preset: Annotated[str | None, typer.Option(help="A preset, instead of the settings.")] = None,
    params: ParamsFile = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> None:
    """Measure a few steps on this device and say what the run would cost: time, memory, disk."""
    import json

    from arnas.config.load import load_params
    from arnas.config.presets import preset_path

    if preset is not None and params is not None:
        raise UserError("--preset and --params name two settings: leave out one of them.")
    settings = load_params(params if preset is None else preset_path(preset))

    from arnas.cost.estimate import estimate
    from arnas.cost.table import as_json as in_json
    from arnas.cost.table import as_table
    from arnas.runtime.device import configure_determinism, configure_threads, held_devices

    def tell(text: str) -> None:
        typer.echo(f"measuring {text}", err=True)

    with held_devices(tell, most=1) as devices:
        threads, exact = configure_threads(), configure_determinism()
        rows = estimate(settings, devices.all[0], tell)
        where = f"{devices.text}, threads {threads}{', deterministic' * exact}"
    if as_json:
        typer.echo(json.dumps({"name": settings.name, "device": where, **in_json(rows)}, indent=2))
        return
    console_of(160).print(as_table(rows, f"Cost of the run {settings.name} on {where}"))


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="The study's folder.")] = Path(),
    preset: Annotated[str, typer.Option(help="Settings to start from.")] = "digits",
    update: Annotated[
        bool, typer.Option("--update", help="Bring a study to the installed version.")
    ] = False,
) -> None:
    """Start a study: a folder with settings, Snakefile and dvc.yaml that runs the pipeline."""
    from arnas.pipeline.study import make_study, update_study

    if update:
        for line in update_study(folder) or ["Nothing to change."]:
            typer.echo(line)
        return
    for name in make_study(folder, preset):
        typer.echo(f"wrote {name}")
    typer.echo(f"next: cd {folder} && snakemake --cores all")


@params_app.command()
def use(name: Annotated[str, typer.Argument(help="A preset's name.")]) -> None:
    """Make a preset the settings: copy workflow/presets/NAME.yaml to params.yaml."""
    from arnas.config.presets import use_preset

    for line in use_preset(name):
        typer.echo(line)


@params_app.command()
def upgrade(
    file: Annotated[Path | None, typer.Argument(help="Settings; params.yaml by default.")] = None,
) -> None:
    """Write the names that settings have now into an older settings file."""
    from arnas.config.load import params_path
    from arnas.config.upgrade import upgrade_file

    path = file or params_path()
    for line in upgrade_file(path) or [f"{path} has no old names."]:
        typer.echo(line)


@params_app.command()
def show(params: ParamsFile = None) -> None:
    """Check the settings and print them with every default filled in."""
    import yaml

    from arnas.config.load import load_params

    content = load_params(params).model_dump(mode="json")
    text = yaml.safe_dump(content, sort_keys=False, default_flow_style=None, width=100)
    typer.echo(text, nl=False)


@params_app.command()
def schema() -> None:
    """Print the JSON schema of the settings."""
    from arnas.config.schema import schema_text

    typer.echo(schema_text(), nl=False)


@plan_app.command()
def dvc(params: ParamsFile = None) -> None:
    """Print dvc.yaml: the stages of the plan, and the user's own files that the settings name."""
    from arnas.config.load import load_params
    from arnas.pipeline.dvc import dvc_yaml

    typer.echo(dvc_yaml(load_params(params)), nl=False)
