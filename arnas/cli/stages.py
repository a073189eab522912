"""One command per stage, as both engines call them."""

from __future__ import annotations

from typing import Annotated

import typer

from arnas.cli.app import app

Dataset = Annotated[str, typer.Option(help="A name of the settings' `data`.")]
Search = Annotated[str, typer.Option(help="A name of the settings' `searches`.")]
Network = Annotated[str, typer.Option(help="A name of `networks`, or of a search.")]
Seed = Annotated[str, typer.Option(help="The replicate, a whole number from 0 up.")]


@app.command()
def data(dataset: Dataset) -> None:
    """Prepare a dataset: images, labels and the four splits."""
    from arnas.pipeline.runner import run_command
    from arnas.stages.data import run

    run_command("data", {"dataset": dataset}, run)


@app.command(name="search_adversarial")
def search_adversarial(search: Search, seed: Seed) -> None:
    """Search, stage 1: weights and architecture on the adversarial loss."""
    from arnas.pipeline.runner import run_command
    from arnas.stages.search import run_adversarial

    run_command("search_adversarial", {"search": search, "seed": seed}, run_adversarial)


@app.command(name="search_multiobjective")
def search_multiobjective(search: Search, seed: Seed) -> None:
    """Search, stage 2: architecture along both the natural and the adversarial loss."""
    from arnas.pipeline.runner import run_command
    from arnas.stages.search import run_multiobjective

    run_command("search_multiobjective", {"search": search, "seed": seed}, run_multiobjective)


@app.command()
def derive(search: Search, seed: Seed) -> None:
    """Derive the genotype of a search, and draw its cells."""
    from arnas.pipeline.runner import run_command
    from arnas.stages.derive import run

    run_command("derive", {"search": search, "seed": seed}, run)


@app.command()
def retrain(dataset: Dataset, network: Network, seed: Seed) -> None:
    """Train a network from scratch, adversarially unless its loss is natural."""
    from arnas.pipeline.runner import run_command
    from arnas.stages.retrain import run

    run_command("retrain", {"dataset": dataset, "network": network, "seed": seed}, run)


@app.command()
def whitebox(dataset: Dataset, network: Network, seed: Seed) -> None:
    """Attack a trained network with full knowledge of it."""
    from arnas.pipeline.runner import run_command
    from arnas.stages.whitebox import run

    run_command("whitebox", {"dataset": dataset, "network": network, "seed": seed}, run)


@app.command(name="blackbox_examples")
def blackbox_examples(dataset: Dataset, network: Network, seed: Seed) -> None:
    """Make adversarial examples on one network for the others, and attack it with Square."""
    from arnas.pipeline.runner import run_command
    from arnas.stages.blackbox import make_examples

    axes = {"dataset": dataset, "network": network, "seed": seed}
    run_command("blackbox_examples", axes, make_examples)


@app.command()
def blackbox(dataset: Dataset) -> None:
    """Show every network the examples that were made on the others."""
    from arnas.pipeline.runner import run_command
    from arnas.stages.blackbox import score

    run_command("blackbox", {"dataset": dataset}, score)


@app.command()
def analysis() -> None:
    """Write the tables of sizes, operations, trajectories and examples."""
    from arnas.pipeline.runner import run_command
    from arnas.stages.analysis import run

    run_command("analysis", {}, run)


@app.command()
def report() -> None:
    """Write the report of the run, one HTML file, and its figures."""
    from arnas.pipeline.runner import run_command
    from arnas.stages.report import run

    run_command("report", {}, run)


@app.command()
def tables() -> None:
    """Write the result tables of the run."""
    from arnas.pipeline.runner import run_command
    from arnas.stages.tables import run

    run_command("tables", {}, run)
