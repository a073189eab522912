"""Stage `derive`: the architecture parameters of the chosen epoch become a drawn genotype."""

from __future__ import annotations

from arnas.pipeline.runner import StageContext
from arnas.reporting.run.cells import draw_cells
from arnas.runtime.errors import UserError
from arnas.search.derive import collapsed, count_skips, derive_genotype
from arnas.search.state import load_trajectory
from arnas.spaces.genotype import save_genotype


def run(context: StageContext) -> None:
    """Derive the genotype of the epoch that the settings name."""
    search = context.axes["search"]
    options = context.params.searches[search]
    chosen, primitives = options.derive.epoch, options.space.primitives
    expected = {"search": search, "seed": context.seed, "stage": "multiobjective"}
    trajectory, _ = load_trajectory(context.inputs["state"], expected, len(primitives))
    epoch = len(trajectory) - 1 if chosen == "last" else chosen
    if epoch >= len(trajectory):
        raise UserError(
            f"searches.{search}.derive.epoch is {chosen}, but {context.inputs['state']} holds the "
            f"tables of {len(trajectory) - 1} epochs: lower it, or rerun the search."
        )
    origin = f"search {search}, seed {context.seed}, run {context.params.name}, after epoch {epoch}"
    genotype = derive_genotype(trajectory[epoch], origin, primitives)
    save_genotype(context.outputs["genotype"], genotype)
    draw_cells(context.outputs["drawing"], genotype)
    skips = ", ".join(f"{kind} {count}" for kind, count in count_skips(genotype).items())
    warning = " WARNING: collapsed to skip connections" if collapsed(genotype) else ""
    context.report(1, 1, f"genotype after epoch {epoch}; skip connections: {skips}{warning}")
