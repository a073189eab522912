"""Settings of the supernet and of the searches."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from arnas.attacks.threat import StepSize
from arnas.data.options import AugmentOptions
from arnas.runtime.options import Options
from arnas.spaces.options import SearchSpaceOptions
from arnas.training.options import RecipeOptions
from arnas.training.registry import Loss, SmoothedOptions

Order = Literal["first", "second"]
Combine = Literal["min_norm", "sum", "adversarial", "natural"]


class SearchAttackOptions(Options):
    """The PGD attack on the supernet, for weight and architecture batches alike."""

    steps: int = Field(default=7, ge=0)
    """Gradient steps."""
    step_size: StepSize = "2/255"
    """Length of a step in input units."""
    batch_norm: Literal["batch", "eval"] = "batch"
    """`batch`: statistics of the batch, as released ARNAS; `eval`: running ones, as AdvRush."""
    clip: bool = True
    """Keep the examples in [0, 1]. The released ARNAS search does not (false)."""


class WeightOptions(Options):
    """SGD on the supernet's weights, always on the adversarial training loss."""

    learning_rate: float = Field(default=0.025, gt=0)
    """At the first epoch."""
    final_learning_rate: float = Field(default=0.001, ge=0)
    """At the end of the cosine."""
    schedule_epochs: int = Field(default=50, ge=1, le=100_000)
    """Length of the cosine in epochs, counted through both stages."""
    schedule_lead: int = Field(default=0, ge=0)
    """Epochs by which the cosine is ahead. The released ARNAS code steps its schedule before the
    first epoch (1), so it never uses the full rate."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=0.0003, ge=0)
    gradient_clip: float = Field(default=5.0, gt=0)
    """Largest L2 norm of a step's gradient."""

    @model_validator(mode="after")
    def _lead_is_within(self) -> WeightOptions:
        """Refuse a cosine that is at its end from the start."""
        if self.schedule_lead >= self.schedule_epochs:
            raise ValueError(
                f"schedule_lead is {self.schedule_lead}: allowed are 0 to "
                f"{self.schedule_epochs - 1}, below schedule_epochs"
            )
        return self


class AlphaOptions(Options):
    """Adam on the architecture parameters."""

    learning_rate: float = Field(default=0.0003, gt=0)
    beta1: float = Field(default=0.5, ge=0, lt=1)
    beta2: float = Field(default=0.999, ge=0, lt=1)
    weight_decay: float = Field(default=0.001, ge=0)
    init_scale: float = Field(default=0.001, ge=0)
    """Standard deviation of the initial values."""


class SupernetOptions(Options):
    """The supernet and how it is trained; the same for every search."""

    channels: int = Field(default=24, ge=2)
    """Initial channels."""
    cells: int = Field(default=8, ge=3, le=1000)
    """Number of cells; every kind that a search names must occur among them."""
    batch_size: int = Field(default=32, ge=2)
    """Images of a weight batch and of an architecture batch."""
    attack: SearchAttackOptions = SearchAttackOptions()
    weights: WeightOptions = WeightOptions()
    alphas: AlphaOptions = AlphaOptions()
    augment: AugmentOptions = AugmentOptions()


class AdversarialStageOptions(Options):
    """Stage 1: weights and architecture on the adversarial loss (DSARA, arXiv 2212.14049)."""

    epochs: int = Field(default=20, ge=0, le=100_000)
    """0 leaves the stage out, as ARNAS (arXiv 2405.05502) does."""
    order: Order = "second"
    """`second`: through a virtual weight step; `first`: at the present weights (DARTS)."""
    difference_radius: float = Field(default=0.01, gt=0)
    """Length in weight space of the finite difference of second order; DARTS has 0.01."""
    warmup_epochs: int = Field(default=0, ge=0)
    """First epochs that train the weights only."""


class MultiobjectiveStageOptions(Options):
    """Stage 2: the architecture along a combination of natural and adversarial gradients."""

    epochs: int = Field(default=30, ge=0, le=100_000)
    order: Order = "second"
    """As for stage 1."""
    difference_radius: float = Field(default=0.01, gt=0)
    """As for stage 1."""
    combine: Combine = "min_norm"
    """`min_norm`: the shortest vector between both gradients (MGDA, arXiv 1810.04650); `sum`;
    `adversarial` or `natural`: one of them alone."""
    adversarial_weight: float = Field(default=0.1, gt=0)
    """Factor of the adversarial loss before the combination. 0.1 is the released ARNAS value and
    makes the shorter, adversarial gradient decide unless both conflict; 1.0 balances them."""


class DeriveOptions(Options):
    """Which architecture table becomes the genotype."""

    epoch: Annotated[int, Field(ge=0)] | Literal["last"] = "last"
    """`last`, or the number of epochs of both stages after which the table is taken."""


class SearchedNetworkOptions(Options):
    """How the network of the found genotype is retrained."""

    loss: Loss = SmoothedOptions(name="pgd")
    """As for `networks.<name>.loss`."""
    channels: int = Field(default=64, ge=2)
    """Initial channels."""
    cells: int = Field(default=20, ge=3, le=1000)
    """Number of cells."""
    recipe: RecipeOptions | None = None
    """As for `networks.<name>.recipe`."""


class SearchOptions(Options):
    """One search; its name is also the name of its network.

    Every part must be there, if only as `{}`, because the engines look each one up by its path.
    """

    space: SearchSpaceOptions
    adversarial: AdversarialStageOptions
    multiobjective: MultiobjectiveStageOptions
    derive: DeriveOptions
    network: SearchedNetworkOptions
