"""Settings of the networks, and of their training: a recipe `retrain.<dataset>` each."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_serializer, model_validator

from arnas.attacks.threat import StepSize
from arnas.data.options import AugmentOptions
from arnas.models.registry import ModelName, cells_refused
from arnas.runtime.options import Options
from arnas.runtime.references import is_reference
from arnas.spaces.options import SpaceOptions
from arnas.spaces.published import GENOTYPES, ROBNETS
from arnas.training.registry import Loss, SmoothedOptions


class TrainingAttackOptions(Options):
    """The PGD attack that makes the training examples."""

    steps: int = Field(default=7, ge=0)
    """Gradient steps."""
    step_size: StepSize = "0.01"
    """Length of a step in input units."""
    start: Literal["normal", "uniform"] = "normal"
    """`normal`: the image plus noise of standard deviation `start_scale`, as AdvRush and ARNAS;
    `uniform`: anywhere in the ball."""
    start_scale: float = Field(default=0.001, ge=0)
    """Standard deviation of the normal start in input units."""
    batch_norm: Literal["eval", "batch"] = "eval"
    """Statistics that batch normalisation uses while attacking: running ones or the batch's."""
    epsilon_warmup_epochs: float = Field(default=0.0, ge=0)
    """Epochs over which the budget of training rises linearly from 0; large budgets, such as 0.3 on
    MNIST, may not start to learn without."""


class SelectionOptions(Options):
    """How accuracy is measured after every epoch; the validation images choose the checkpoint."""

    steps: int = Field(default=10, ge=1)
    """PGD steps of step size epsilon / 4 from a uniform start."""
    by: Literal["loss", "robust", "clean"] = "loss"
    """Accuracy that picks the checkpoint. `loss`: robust, or clean for natural training; `clean`:
    what the released ARNAS script keeps as its best, there on test images."""
    first_epoch: int = Field(default=1, ge=1)
    """First epoch (from 1) whose checkpoint may be picked."""
    last_epoch: int | None = Field(default=None, ge=1)
    """Last such epoch; null for the recipe's last. The early-checkpoint rule of the released code
    is 99 to 105 of 200: right after the first drop of the learning rate."""
    patience: int | None = Field(default=None, ge=1)
    """Epochs without a better checkpoint after which training ends early (Rice et al., arXiv
    2002.11569); null trains all epochs."""
    train_images: int = Field(default=500, ge=1)
    """The same is measured on the first so many training images, for the learning curves only."""
    batch_size: int = Field(default=256, ge=1)


class RetrainOptions(Options):
    """The recipe of training.

    The defaults follow ARNAS (arXiv 2405.05502) on CIFAR-10 but for four things: 110 epochs with
    drops after 99 and 104, because the released 200 overfit; no clean forward pass; no auxiliary
    head; and no augmentation, which its images need (crop_padding 4 and flip). The preset
    `cifar10_literal` has the released recipe to the letter.
    """

    epochs: int = Field(default=110, ge=1, le=100_000)
    batch_size: int = Field(default=32, ge=2)
    learning_rate: float = Field(default=0.1, gt=0)
    """Largest learning rate."""
    optimiser: Literal["sgd", "adam"] = "sgd"
    schedule: Literal["multistep", "cosine"] = "multistep"
    """`multistep`: a tenth at each milestone; `cosine`: half a cosine to zero, step by step."""
    milestones: list[int] = [99, 104]
    """Epochs (from 0) at which multistep drops the learning rate; empty for cosine."""
    warmup_epochs: float = Field(default=0.0, ge=0)
    """Length of a linear rise of the learning rate at the start, in epochs."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Of SGD; for Adam the decay of the first moment."""
    weight_decay: float = Field(default=0.0001, ge=0)
    no_decay: Annotated[list[Literal["bias", "norm"]], Field(max_length=2)] = []
    """Weights without weight decay: biases of layers, and all weights of normalisations."""
    weight_perturbation: float = Field(default=0.0, ge=0)
    """Adversarial weight perturbation (AWP; Wu et al., NeurIPS 2020, arXiv 2004.05884): each step's
    gradient is taken at weights that were moved by so much of their length to raise the loss, 0.005
    in the paper; it takes another pass. 0 is off."""
    average_decay: float = Field(default=0.0, ge=0, lt=1)
    """Decay of an exponential moving average of weights and statistics, which is evaluated and
    stored in place of the last ones (for adversarial training arXiv 2010.03593 and 2103.01946,
    with 0.995 and 0.999); in early steps it is smaller. 0 is no average."""
    gradient_clip: float = Field(default=5.0, gt=0)
    """Largest L2 norm of a step's gradient."""
    clean_forward: bool = False
    """Also send each clean batch through in training mode, so that the running statistics mix
    clean and adversarial batches; the released code does."""
    auxiliary_weight: float = Field(default=0.0, ge=0)
    """Weight of the cross-entropy of an auxiliary head on the clean batch; 0 is no head. Only
    networks with cells can have one, and it is not stored. The released ARNAS script has 0.4, but
    its evaluation can only load networks trained without."""
    attack: TrainingAttackOptions = TrainingAttackOptions()
    selection: SelectionOptions = SelectionOptions()
    augment: AugmentOptions = AugmentOptions()

    @model_validator(mode="after")
    def _schedule_fits(self) -> RetrainOptions:
        """Refuse milestones that the schedule would never use."""
        if self.schedule == "cosine" and self.milestones:
            raise ValueError("schedule cosine has no milestones: write milestones: []")
        if self.milestones and self.milestones[-1] >= self.epochs:
            raise ValueError(
                f"milestones are {self.milestones}, but there are only {self.epochs} epochs: lower "
                "them, or write milestones: []"
            )
        last = self.epochs if self.selection.last_epoch is None else self.selection.last_epoch
        if not self.selection.first_epoch <= last <= self.epochs:
            raise ValueError(
                f"selection takes epochs {self.selection.first_epoch} to {last}: allowed are 1 to "
                f"{self.epochs}, the recipe's epochs, the first not after the last"
            )
        if self.warmup_epochs > self.epochs:
            raise ValueError(
                f"warmup_epochs is {self.warmup_epochs:g}: allowed are 0 to {self.epochs}, epochs"
            )
        if self.attack.epsilon_warmup_epochs >= self.epochs:
            raise ValueError(
                f"attack.epsilon_warmup_epochs is {self.attack.epsilon_warmup_epochs:g}: allowed "
                f"are 0 to less than {self.epochs}, the epochs, so that some have the full budget"
            )
        if self.milestones != sorted(set(self.milestones)) or min(self.milestones, default=1) < 1:
            raise ValueError("milestones must rise and start at 1 or later")
        return self


class RecipeOptions(RetrainOptions):
    """Settings of one network's training that differ from the dataset's recipe, by the same names.

    What is left out is as in `retrain.<dataset>`.
    """

    @model_validator(mode="after")
    def _schedule_fits(self) -> RecipeOptions:
        """Leave that to the recipe that results."""
        return self

    @model_serializer
    def _given(self) -> dict[str, Any]:
        """Return what is given, also where it equals a default: the dataset's may be another."""
        return _given(self)

    def over(self, recipe: RetrainOptions) -> RetrainOptions:
        """Return the recipe that results from this and the dataset's.

        Raises
        ------
        ValidationError
            When they do not fit together.
        """
        return RetrainOptions.model_validate(_merged(_given(recipe), _given(self)))


def _given(options: Options) -> dict[str, Any]:
    """Return the settings that were given, with those of inner blocks."""
    values = {name: getattr(options, name) for name in sorted(options.model_fields_set)}
    return {k: _given(v) if isinstance(v, Options) else v for k, v in values.items()}


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Return two trees of settings as one; the second counts where both have a setting."""
    inner = {
        key: _merged(below[key], value)
        for key, value in above.items()
        if isinstance(value, dict) and key in below
    }
    return {**below, **above, **inner}


class NetworkOptions(Options):
    """A model of the zoo, its loss and its size."""

    model: ModelName
    """A name of the model registry, or a function of your own as `package.module:function`."""
    loss: Loss = SmoothedOptions(name="pgd")
    """A training loss: its name, or `{name: trades, beta: 3}` to change its settings, or a function
    of your own as `package.module:function`."""
    channels: int | None = Field(default=None, ge=2)
    """Initial channels of a genotype or RobNet, width of a residual network's or VGG's first stage,
    or channels of the stem of the other models; null for the published size."""
    cells: int | None = Field(default=None, ge=3, le=1000)
    """Number of cells of a genotype or RobNet; null for the published size."""
    space: SpaceOptions | None = None
    """Another layout for a genotype; null for the published one. `kinds: [robust, robust,
    accurate]` exchanges the cells of ARNAS."""
    recipe: RecipeOptions | None = None
    """Settings of its training that differ from the dataset's recipe."""

    @model_validator(mode="after")
    def _cells_where_there_are_any(self) -> NetworkOptions:
        """Refuse sizes and layouts for a model that cannot have them."""
        if is_reference(self.model) and (self.channels or self.cells or self.space):
            raise ValueError(
                f"{self.model} decides on its size itself: leave out channels, cells and space"
            )
        if reason := cells_refused(self.model, self.cells):
            raise ValueError(reason)
        if self.space is not None and self.model in ROBNETS:
            raise ValueError(f"{self.model} has a fixed layout: leave space out")
        if self.space is not None and self.model not in GENOTYPES:
            raise ValueError(f"{self.model} has no cells, so it has no space: leave it out")
        return self
