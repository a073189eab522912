"""What the settings say of a network that is trained: its model, its head and its loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import nn

from arnas.config.params import Params
from arnas.data.sizes import DatasetSize
from arnas.data.splits import DatasetInfo
from arnas.models.registry import ModelSpec, can_have_auxiliary
from arnas.runtime.errors import UserError, one_line
from arnas.search.options import SearchedNetworkOptions
from arnas.spaces.genotype import Genotype
from arnas.spaces.options import SpaceOptions
from arnas.training.options import NetworkOptions
from arnas.training.registry import LossOptions


class NetworkPlan(NamedTuple):
    """A network to train on a dataset."""

    loss: LossOptions
    """Its loss with settings."""
    spec: ModelSpec
    """What its weights are stored with."""
    auxiliary: bool
    """Whether it is trained with an auxiliary head, which is not stored."""

    def build(self, source: str) -> nn.Module:
        """Return it with fresh weights; `source` names it in errors."""
        try:
            return self.spec.build(auxiliary=self.auxiliary)
        except UserError as error:
            raise UserError(f"{source}: {one_line(error)}") from None


def plan_network(
    params: Params,
    dataset: str,
    network: str,
    images: DatasetInfo | DatasetSize,
    genotype: Callable[[], Genotype],
) -> NetworkPlan:
    """Return what the settings say of a network.

    Parameters
    ----------
    dataset, network
        What it is trained on, and its name in the settings.
    images
        Classes and shape of the dataset.
    genotype
        Called for the cells of a network that a search finds.
    """
    name: str | Genotype
    space: SpaceOptions | None
    options: NetworkOptions | SearchedNetworkOptions
    if network in params.searches:
        search = params.searches[network]
        name, space, options = genotype(), search.space.layout(), search.network
    else:
        options = params.networks[network]
        name, space = options.model, options.space
    spec = ModelSpec(
        name,
        num_classes=images.num_classes,
        image_size=images.image_size,
        in_channels=images.in_channels,
        channels=options.channels,
        cells=options.cells,
        space=space,
    )
    wanted = params.recipe(dataset, network).auxiliary_weight > 0
    return NetworkPlan(options.loss, spec, wanted and can_have_auxiliary(name))
