"""Commands that evaluate any model: attack it, and compare two that were attacked."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from arnas.cli.app import app, console_of


@app.command()
def attack(
    model: Annotated[
        str,
        typer.Option(
            help="A model of the zoo, torchvision:NAME or timm:NAME with --weights, "
            "FILE.safetensors or FILE.pt of weights, or package.module:factory."
        ),
    ],
    data: Annotated[
        str,
        typer.Option(
            help="digits, cifar10, cifar100, svhn, tiny_imagenet, FILE.npz with x and y, or a "
            "FOLDER of images by class."
        ),
    ],
    threat: Annotated[
        str, typer.Option(help="Norm and budget in input units: linf:8/255, l2:0.5, l1:12.")
    ],
    suite: Annotated[
        str,
        typer.Option(
            help="standard (AutoAttack's), fast, rand (for random models), reference (AutoAttack's "
            "package), or attacks by comma, your own as package.module:function."
        ),
    ] = "standard",
    combine: Annotated[
        Literal["union", "each"],
        typer.Option(
            help="union: attacks skip the images that earlier ones broke; each: every attack on "
            "every correctly classified image."
        ),
    ] = "union",
    checks: Annotated[
        Literal["all", "cheap", "none"],
        typer.Option(help="cheap leaves out the checks that attack the model themselves."),
    ] = "all",
    weights: Annotated[
        Path | None, typer.Option(help="Weights for a model of the zoo or a factory.")
    ] = None,
    weights_key: Annotated[
        str | None, typer.Option(help="Which weights of a file that holds several, such as ema.")
    ] = None,
    split: Annotated[str, typer.Option(help="Split of the dataset.")] = "test",
    n: Annotated[int | None, typer.Option(help="Images, from the first; all by default.")] = None,
    normalise: Annotated[
        str | None,
        typer.Option(
            help="What the network expects: cifar10, cifar100, imagenet or MEAN:STD in input "
            "units; put in front of it."
        ),
    ] = None,
    num_classes: Annotated[
        int | None, typer.Option(help="Of a model of another library; else as the images.")
    ] = None,
    resize: Annotated[
        int | None, typer.Option(help="For a folder: resize the shorter side to so many pixels.")
    ] = None,
    crop: Annotated[
        int | None, typer.Option(help="For a folder: side of the centre that is kept.")
    ] = None,
    classes: Annotated[
        Path | None,
        typer.Option(
            help="For a folder: a file with the names of the folders, one a line, in the "
            "order of the model's outputs."
        ),
    ] = None,
    grey: Annotated[bool, typer.Option("--grey", help="For a folder: read one channel.")] = False,
    seed: Annotated[int, typer.Option(help="Seed of all random numbers.")] = 0,
    batch_size: Annotated[int, typer.Option(help="Images that go through together.")] = 128,
    eot: Annotated[
        int | None, typer.Option(help="Passes a gradient is averaged over, for random models.")
    ] = None,
    transfer_from: Annotated[
        list[str] | None,
        typer.Option(help="A model, as --model, whose examples are shown too; may be repeated."),
    ] = None,
    curve: Annotated[
        str, typer.Option(help="Budgets of an accuracy curve, as in 2/255,4/255,16/255.")
    ] = "",
    corruptions: Annotated[
        bool, typer.Option("--corruptions", help="Measure corruptions-14 too (from 32x32 up).")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(help="Where OUT.json and OUT.html go; results/attacks/ by default."),
    ] = None,
    expect_clean: Annotated[
        float | None,
        typer.Option(help="Published clean accuracy in percent: off by its interval is a FAIL."),
    ] = None,
    expect_robust: Annotated[
        float | None, typer.Option(help="Published robust accuracy in percent, likewise.")
    ] = None,
    fail_under: Annotated[
        float | None,
        typer.Option(
            help="Exit code 1 if the robust accuracy is lower, in percent, or a check fails."
        ),
    ] = None,
    junit: Annotated[Path | None, typer.Option(help="Write a JUnit summary for CI.")] = None,
    examples: Annotated[
        Path | None, typer.Option(help="Write the adversarial examples there, npz and PNG.")
    ] = None,
    robustbench: Annotated[
        Path | None, typer.Option(help="Write an entry in RobustBench's form.")
    ] = None,
    card: Annotated[Path | None, typer.Option(help="Write a model card, a README.md.")] = None,
    allow_flagged: Annotated[
        bool, typer.Option("--allow-flagged", help="Let a row with a failed check pass the gate.")
    ] = False,
) -> None:
    """Attack any model and say how robust it is, and whether that number can be trusted.

    Prints one table, writes one JSON with everything and one HTML page.

    Killed? Rerun the same command to resume.

    ARNAS_DEVICE, ARNAS_GPUS and ARNAS_THREADS say where it runs.
    """
    from arnas.pipeline.attack import EvalConfig, read_classes
    from arnas.pipeline.attack_outputs import Outputs, attack_and_write

    config = EvalConfig(
        model=model,
        data=data,
        threat=threat,
        suite=suite,
        combine=combine,
        checks=checks,
        weights=weights,
        split=split,
        count=n,
        seed=seed,
        batch_size=batch_size,
        expectation=eot,
        sources=tuple(transfer_from or ()),
        curve=tuple(amount.strip() for amount in curve.split(",") if amount.strip()),
        image_size=crop or resize,
        grey=grey,
        resize=resize,
        classes=read_classes(classes),
        normalise=normalise,
        weights_key=weights_key,
        num_classes=num_classes,
        expect_clean=expect_clean,
        expect_robust=expect_robust,
        corruptions=corruptions,
    )
    outputs = Outputs(
        out, fail_under, junit, examples, robustbench, card, allow_flagged=allow_flagged
    )
    done = attack_and_write(config, outputs)
    if done is None:
        return
    console_of(200).print(done.table)
    for line in done.lines:
        typer.echo(line)
    if done.refusal:
        typer.echo(done.refusal, err=True)
        sys.exit(1)


@app.command()
def compare(
    records: Annotated[list[Path], typer.Argument(help="JSONs that `attack` has written.")],
    allow_flagged: Annotated[
        bool, typer.Option("--allow-flagged", help="Rank rows with a failed check too.")
    ] = False,
    allow_suites: Annotated[
        bool, typer.Option("--allow-suites", help="Compare different suites of attacks.")
    ] = False,
) -> None:
    """Compare evaluations: a table, and for two on the same images the exact test of McNemar."""
    from arnas.pipeline.attack_comparison import compare_files

    table, lines = compare_files(records, allow_flagged=allow_flagged, allow_suites=allow_suites)
    console_of(200).print(table)
    for line in lines:
        typer.echo(line)
