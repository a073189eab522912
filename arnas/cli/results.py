"""Commands about the results of a run: where it stands, what would run, what came out."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from arnas.cli.app import ParamsFile, app, console_of
from arnas.runtime.errors import UserError


@app.command()
def status(
    params: ParamsFile = None,
    watch: Annotated[bool, typer.Option("--watch", help="Follow it while anything runs.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Read every output and compare it with its manifest.")
    ] = False,
) -> None:
    """Say of every job of the run whether it is done, running, partial, stale or missing."""
    import json

    from arnas.config.load import load_params
    from arnas.pipeline.status import as_text, follow, overview

    settings = load_params(params)
    console = console_of(200)
    if watch:
        with suppress(KeyboardInterrupt):
            follow(settings, console)
    elif as_json:
        typer.echo(json.dumps(overview(settings, verify=verify).as_json(), indent=2))
    else:
        console.print(as_text(overview(settings, verify=verify), console.width))


@app.command()
def explain(
    target: Annotated[
        list[str],
        typer.Argument(help="An output's path, a stage, or a job as `status` lists it."),
    ],
    params: ParamsFile = None,
) -> None:
    """Say what would run to make TARGET, and which setting or file is the reason."""
    from arnas.config.load import load_params
    from arnas.pipeline.explain import explain as find_reruns

    name = " ".join(target)
    found = find_reruns(name, load_params(params))
    if not found:
        typer.echo(f"{name} is current: nothing would run.")
        return
    typer.echo(f"{len(found)} jobs would run for {name}:")
    for rerun in found:
        typer.echo(f"  {rerun.job.title}: {rerun.reason}")


@app.command()
def adopt(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only check and list.")] = False,
) -> None:
    """Check the run's results and tell DVC of those that it does not know."""
    from arnas.pipeline.dvc import adopt as tell_dvc

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
    from arnas.pipeline.status import slot_text
    from arnas.runtime.abandoned import remove_slot, state_slots
    from arnas.runtime.history import state_root

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
    from arnas.reporting.run.tables import overview, read_table

    name = load_params(params).name
    folder = Path("results/tables") / name
    shown = overview(read_table(folder / "whitebox.csv"))
    verdicts = read_table(folder / "checks.csv").fillna("")
    table = Table(title="Accuracy in percent with 95 % interval, selected checkpoints")
    for column in shown.columns:
        table.add_column(str(column), no_wrap=not sys.stdout.isatty())
    for values in shown.itertuples(index=False):
        table.add_row(*(str(value) for value in values))
    console_of(240).print(table)
    for row in verdicts.to_dict("records"):
        if checks or row["status"] in ("WARN", "FAIL"):
            where = f"{row['model']} on {row['dataset']}, seed {row['seed']}"
            advice = f" Fix: {row['advice']}." if row["advice"] else ""
            typer.echo(f"{row['status']} {row['check']}, {where}: {row['evidence']}.{advice}")
    counts = verdicts["status"].value_counts()
    words = ", ".join(f"{counts.get(status, 0)} {status}" for status in ("PASS", "WARN", "FAIL"))
    typer.echo(f"Checks: {words} (--checks prints them all)")
    typer.echo(f"Tables: {folder}/")
    report = Path("results") / name / "report.html"
    if report.is_file():
        typer.echo(f"Report: {report}")


@app.command()
def reproduces(
    reference: Annotated[Path, typer.Argument(help="Folder of the committed tables.")],
    found: Annotated[Path, typer.Argument(help="Folder of the rerun's tables.")],
    params: ParamsFile = None,
) -> None:
    """Compare the tables of a rerun with committed ones; exit code 1 when they drift."""
    from arnas.config.load import load_params
    from arnas.reporting.run.reproduction import compare_folders

    problems, verdict = compare_folders(
        reference, found, load_params(params).reproduction.orderings
    )
    for problem in problems:
        typer.echo(f"drift: {problem}")
    typer.echo(verdict)
    if problems:
        sys.exit(1)
