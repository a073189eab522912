"""Stage `data`: a dataset's images, labels and splits."""

from __future__ import annotations

from pathlib import Path

from arnas.data.load import load_dataset
from arnas.data.splits import save_splits
from arnas.pipeline.runner import StageContext


def run(context: StageContext) -> None:
    """Read the dataset of the axis, cut it and store it."""
    name = context.axes["dataset"]
    # DVC's aggregates depend on these folders, also where a run has no search, say.
    for room in ("search", "whitebox", f"retrain/{name}", f"blackbox_examples/{name}"):
        Path("results", context.params.name, room).mkdir(parents=True, exist_ok=True)
    splits = load_dataset(name, context.params.data[name])
    save_splits(context.outputs["splits"], splits)
    found = [f"{count} {split}" for split, count in splits.counts().items()]
    if splits.sha256 is not None:
        found.append(f"sha256 {splits.sha256}")
    context.report(1, 1, ", ".join(found))
