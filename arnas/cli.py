"""The command line: one command per stage, and commands to read settings and results.

The heavy imports happen inside the commands, so that `--help` and `params` answer at once.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from arnas.runtime.errors import UserError, one_sentence

if TYPE_CHECKING:
    from rich.console import Console

app = typer.Typer(
    name="arnas",
    help="Search, train and judge neural networks that are accurate and robust. Settings come from "
    "params.yaml, or the file that ARNAS_PARAMS names; ARNAS_DEVICE and ARNAS_THREADS choose where "
    "it runs. `snakemake --cores all` or `dvc repro` run all stages.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
params_app = typer.Typer(help="Look at the settings or change to a preset.", no_args_is_help=True)
app.add_typer(params_app, name="params")

Dataset = Annotated[str, typer.Option(help="A name of the settings' `data`.")]
Search = Annotated[str, typer.Option(help="A name of the settings' `searches`.")]
Network = Annotated[str, typer.Option(help="A name of `networks`, or of a search.")]
Seed = Annotated[str, typer.Option(help="The replicate, a whole number from 0 up.")]
ParamsFile = Annotated[Path | None, typer.Option("--params", help="The settings file.")]


@app.command()
def data(dataset: Dataset) -> None:
    """Prepare a dataset: images, labels and the four parts."""
    from arnas.stages.data import run
    from arnas.stages.run import run_command

    run_command("data", {"dataset": dataset}, run)


@app.command(name="search_adversarial")
def search_adversarial(search: Search, seed: Seed) -> None:
    """Search, stage 1: weights and architecture on the adversarial loss."""
    from arnas.stages.run import run_command
    from arnas.stages.search import run_adversarial

    run_command("search_adversarial", {"search": search, "seed": seed}, run_adversarial)


@app.command(name="search_multiobjective")
def search_multiobjective(search: Search, seed: Seed) -> None:
    """Search, stage 2: architecture along both the natural and the adversarial loss."""
    from arnas.stages.run import run_command
    from arnas.stages.search import run_multiobjective

    run_command("search_multiobjective", {"search": search, "seed": seed}, run_multiobjective)


@app.command()
def derive(search: Search, seed: Seed) -> None:
    """Derive the genotype of a search, and draw its cells."""
    from arnas.stages.derive import run
    from arnas.stages.run import run_command

    run_command("derive", {"search": search, "seed": seed}, run)


@app.command()
def retrain(dataset: Dataset, network: Network, seed: Seed) -> None:
    """Train a network from scratch, adversarially unless its loss is natural."""
    from arnas.stages.retrain import run
    from arnas.stages.run import run_command

    run_command("retrain", {"dataset": dataset, "network": network, "seed": seed}, run)


@app.command()
def whitebox(dataset: Dataset, network: Network, seed: Seed) -> None:
    """Attack a trained network with full knowledge of it."""
    from arnas.stages.run import run_command
    from arnas.stages.whitebox import run

    run_command("whitebox", {"dataset": dataset, "network": network, "seed": seed}, run)


@app.command(name="blackbox_examples")
def blackbox_examples(dataset: Dataset, network: Network, seed: Seed) -> None:
    """Make adversarial examples on one network for the others, and attack it with Square."""
    from arnas.stages.blackbox import make_examples
    from arnas.stages.run import run_command

    axes = {"dataset": dataset, "network": network, "seed": seed}
    run_command("blackbox_examples", axes, make_examples)


@app.command()
def blackbox(dataset: Dataset) -> None:
    """Show every network the examples that were made on the others."""
    from arnas.stages.blackbox import score
    from arnas.stages.run import run_command

    run_command("blackbox", {"dataset": dataset}, score)


@app.command()
def analysis() -> None:
    """Write the tables of sizes, operations, trajectories and examples."""
    from arnas.stages.analysis import run
    from arnas.stages.run import run_command

    run_command("analysis", {}, run)


@app.command()
def report() -> None:
    """Write the report of the run, one HTML file, and its figures."""
    from arnas.stages.report import run
    from arnas.stages.run import run_command

    run_command("report", {}, run)


@app.command()
def tables() -> None:
    """Write the result tables of the run."""
    from arnas.stages.run import run_command
    from arnas.stages.tables import run

    run_command("tables", {}, run)


@app.command()
def status(
    params: ParamsFile = None,
    watch: Annotated[bool, typer.Option("--watch", help="Follow it while anything runs.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> None:
    """Say of every instance of the run whether it is done, running, partial, stale or missing."""
    import json

    from arnas.config.load import load_params
    from arnas.stages.overview import overview
    from arnas.stages.overview_table import as_text, follow

    settings = load_params(params)
    console = _console(200)
    if watch:
        with suppress(KeyboardInterrupt):
            follow(settings, console)
    elif as_json:
        typer.echo(json.dumps(overview(settings).as_json(), indent=2))
    else:
        console.print(as_text(overview(settings), console.width))


@app.command()
def explain(
    target: Annotated[
        list[str],
        typer.Argument(help="An output's path, a stage, or an instance as `status` lists it."),
    ],
    params: ParamsFile = None,
) -> None:
    """Say what would run to make TARGET, and which setting or file is the reason."""
    from arnas.config.load import load_params
    from arnas.stages.explain import explain as find_reruns

    name = " ".join(target)
    found = find_reruns(name, load_params(params))
    if not found:
        typer.echo(f"{name} is current: nothing would run.")
        return
    typer.echo(f"{len(found)} instances would run for {name}:")
    for rerun in found:
        typer.echo(f"  {rerun.instance.title}: {rerun.reason}")


@app.command()
def adopt(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only check and list.")] = False,
) -> None:
    """Check the run's results and tell DVC of those that it does not know."""
    from arnas.stages.adopt import adopt as tell_dvc

    found = tell_dvc(dry_run)
    for title in found.adopted:
        typer.echo(f"{'would adopt' if dry_run else 'adopted'} {title}")
    for title, reason in found.refused.items():
        typer.echo(f"not adopted: {title}: {reason}")
    count = len(found.adopted)
    words = f"{count} results {'are new' if dry_run else 'were told'} to DVC, {found.known} known"
    typer.echo(f"{words} before, {len(found.refused)} refused.")
    if count and not dry_run:
        typer.echo("dvc.lock has changed: commit it to git with the tables.")
    if found.refused:
        sys.exit(1)


@app.command()
def clean(
    state: Annotated[bool, typer.Option("--state", help="The state of runs that were cut short.")],
    yes: Annotated[bool, typer.Option("--yes", help="Remove it without asking.")] = False,
) -> None:
    """List what runs that were cut short have left, and remove it; runs at work keep theirs."""
    from arnas.config.load import load_params
    from arnas.runtime.abandoned import remove_slot, state_slots
    from arnas.runtime.history import state_root
    from arnas.stages.overview import slot_text

    settings = None
    with suppress(UserError):  # what is left is listed without them, too
        settings = load_params()
    slots = state_slots(state_root())
    for slot in slots:
        typer.echo(slot_text(slot, settings))
    left = [slot for slot in slots if not slot.held]
    what = f"{len(left)} abandoned states ({sum(slot.size for slot in left) / 1e6:.1f} MB)"
    if not left:
        typer.echo(f"There is no abandoned state in {state_root()}.")
    elif not yes and not sys.stdin.isatty():
        typer.echo(f"{what} are kept: --yes removes them.")
    elif yes or typer.confirm(f"Remove {what}?"):
        typer.echo(f"Removed {sum(map(remove_slot, left))} of {what}.")


@app.command()
def results(
    params: ParamsFile = None,
    checks: Annotated[bool, typer.Option("--checks", help="Print every check.")] = False,
) -> None:
    """Print the accuracies of the run, its checks, and where the report and the tables are."""
    from rich.table import Table

    from arnas.config.load import load_params
    from arnas.reporting.tables import overview, read_table

    name = load_params(params).name
    folder = Path("results/tables") / name
    shown = overview(read_table(folder / "whitebox.csv"))
    verdicts = read_table(folder / "checks.csv").fillna("")
    table = Table(title="Accuracy in percent with 95 % interval, selected checkpoints")
    for column in shown.columns:
        table.add_column(str(column), no_wrap=not sys.stdout.isatty())
    for values in shown.itertuples(index=False):
        table.add_row(*(str(value) for value in values))
    _console(240).print(table)
    for row in verdicts.to_dict("records"):
        if checks or row["status"] != "PASS":
            where = f"{row['model']} on {row['dataset']}, seed {row['seed']}"
            advice = f" What to do: {row['advice']}." if row["advice"] else ""
            typer.echo(f"{row['status']} {row['check']}, {where}: {row['figure']}.{advice}")
    counts = verdicts["status"].value_counts()
    words = ", ".join(f"{counts.get(status, 0)} {status}" for status in ("PASS", "WARN", "FAIL"))
    typer.echo(f"Checks: {words} (--checks prints them all)")
    typer.echo(f"Tables: {folder}/")
    report = Path("results") / name / "report.html"
    if report.is_file():
        typer.echo(f"Report: {report}")


@app.command()
def models(
    name: Annotated[str | None, typer.Argument(help="A model; all of them by default.")] = None,
    draw: Annotated[bool, typer.Option("--draw", help="Draw its cells to NAME.svg.")] = False,
) -> None:
    """List the zoo: parameters and multiply-accumulates at the published size on CIFAR-10."""
    import torch
    from rich.table import Table

    from arnas.models.complexity import count_macs, count_parameters
    from arnas.models.registry import MODELS, build_model
    from arnas.reporting.cells import draw_cells
    from arnas.spaces.published import GENOTYPES

    if name is not None and name not in MODELS:
        raise UserError(f"there is no model '{name}': allowed are {', '.join(MODELS)}.")
    if draw:
        if name not in GENOTYPES:
            raise UserError(f"--draw needs a model with cells: name one of {', '.join(GENOTYPES)}.")
        path = Path(f"{name}.svg")
        draw_cells(path, GENOTYPES[name].genotype)
        typer.echo(f"Drew the cells of {name} to {path}.")
        return
    table = Table("model", "parameters", "MACs", "channels", "cells", "source")
    for key in [name] if name else MODELS:
        with torch.device("meta"):  # sizes need no numbers
            model = build_model(key, num_classes=10)
        entry = MODELS[key]
        table.add_row(
            key,
            f"{count_parameters(model):,}",
            f"{count_macs(model, (3, 32, 32)):,}",
            str(entry.channels),
            str(entry.cells or "-"),
            entry.citation,
        )
    _console(200).print(table)


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

    from arnas.runtime.device import configure_determinism, configure_threads, held_devices
    from arnas.stages.cost import estimate
    from arnas.stages.cost_table import as_json as in_json
    from arnas.stages.cost_table import as_table

    def tell(text: str) -> None:
        typer.echo(f"measuring {text}", err=True)

    with held_devices(tell, most=1) as devices:
        threads, exact = configure_threads(), configure_determinism()
        rows = estimate(settings, devices.all[0], tell)
        where = f"{devices.text}, threads {threads}{', deterministic' * exact}"
    if as_json:
        typer.echo(json.dumps({"name": settings.name, "device": where, **in_json(rows)}, indent=2))
        return
    _console(160).print(as_table(rows, f"Cost of the run {settings.name} on {where}"))


@app.command()
def reproduces(
    reference: Annotated[Path, typer.Argument(help="Folder of the committed tables.")],
    found: Annotated[Path, typer.Argument(help="Folder of the rerun's tables.")],
    params: ParamsFile = None,
) -> None:
    """Compare the tables of a rerun with committed ones; exit code 1 when they drift."""
    from arnas.config.load import load_params
    from arnas.reporting.reproduction import compare_folders

    problems, verdict = compare_folders(
        reference, found, load_params(params).reproduction.orderings
    )
    for problem in problems:
        typer.echo(f"drift: {problem}")
    typer.echo(verdict)
    if problems:
        sys.exit(1)


@params_app.command()
def use(name: Annotated[str, typer.Argument(help="A preset's name.")]) -> None:
    """Make a preset the settings: copy workflow/presets/NAME.yaml to params.yaml."""
    from arnas.config.presets import use_preset

    for line in use_preset(name):
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


def _console(width: int) -> Console:
    """Return standard output: a terminal as wide as it is, anything else so many columns."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else width)


def main() -> None:
    """Run the command line; a user's mistake is one sentence on stderr and exit code 2."""
    with one_sentence():
        app()
