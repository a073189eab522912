"""What a check is given and what it returns, and the guard that every check runs behind."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from arnas.attacks.eval_mode import frozen_eval
from arnas.attacks.folding import attacked
from arnas.attacks.oracle import Oracle
from arnas.attacks.threat import Threat
from arnas.evaluation.checks.state import own_randomness, untouched
from arnas.evaluation.result import AttackResult, Check
from arnas.runtime.errors import Preempted, UserError, one_line
from arnas.runtime.seeds import per_image_uniform

if TYPE_CHECKING:
    from arnas.evaluation.monitor import EvalMonitor

PROBE = 64
"""Most images that a check attacks itself."""
TINY = 1e-30
NEEDED = "the model must map images (n, C, H, W) in [0, 1] to logits (n, classes), for every n"

T = TypeVar("T")


class NotApplicableError(Exception):
    """Why a check has nothing to look at: its status is SKIP."""

    def __init__(self, reason: str, advice: str = "") -> None:
        super().__init__(reason)
        self.advice = advice


@dataclass
class CheckContext:
    """The model, the images and what the attacks left. Checks change none of it."""

    model: nn.Module
    """Pixels in [0, 1] to logits, on the device of `x`; in whatever mode the user had it."""
    x: Tensor
    """float of shape (n, C, H, W)."""
    y: Tensor
    """int64 of shape (n,)."""
    threat: Threat
    suite: str
    seed: int
    batch_size: int
    expectation: int = 1
    """Passes a gradient is averaged over; above 1 the model is taken for a random one."""
    indices: Tensor | None = None
    """int64 of shape (n,): the images' places in their dataset; None for the first n."""
    known: dict[str, Any] = field(default_factory=dict)
    """What is known of model and data, JSON values: ``model_sha256``, ``data_sha256``,
    ``clean_accuracy`` (percent, with ``clean_accuracy_on`` naming the images), ``mean``, ``std``,
    ``selection`` (how the checkpoint was chosen), ``best_robust``, ``last_robust``,
    ``training_history`` (robust accuracy by epoch), ``corruptions`` (``mean`` and ``size``),
    ``epsilon_written`` (as the user wrote it), ``dataset_size``, ``packages`` (versions),
    ``device``. Every key may be missing."""
    combine: Literal["union", "each"] = "union"
    """Whether attacks skip the images that earlier ones broke, or each attacks all of them."""
    attacks: Mapping[str, AttackResult] = field(default_factory=dict)
    """After the attacks: results in their order."""
    outcomes: Mapping[str, Tensor] = field(default_factory=dict)
    """After the attacks: as `EvalResult.outcomes`."""
    x_adv: Tensor | None = None
    """After the attacks: as `EvalResult.x_adv`."""
    monitor: EvalMonitor | None = None
    """After the attacks: what was seen of every pass and every example, if they were watched."""
    notes: dict[str, Any] = field(default_factory=dict)
    """What one check has measured and another one uses; ``checks`` holds the earlier results."""

    @property
    def places(self) -> Tensor:
        """Return the images' places in their dataset, int64 of shape (n,), on the CPU."""
        return torch.arange(len(self.y)) if self.indices is None else self.indices.cpu()

    def probe(self) -> Tensor:
        """Return which images the model's gradients are looked at on, int64 positions in `x`.

        They are classified correctly, unless none is.
        """
        correct = (self.all_logits().argmax(1) == self.y).nonzero().flatten()
        return evenly(correct, PROBE) if len(correct) else self.sample().to(correct)

    def sample(self) -> Tensor:
        """Return positions in `x`, int64, of images of whatever outcome, on the CPU."""
        return evenly(torch.arange(len(self.y)), PROBE)

    @contextmanager
    def oracle(self) -> Iterator[Oracle]:
        """Yield the model as attacks ask it: frozen, and on its faster copy if there is one."""
        with attacked(self.model, self.x) as network:
            yield Oracle(network, self.batch_size, self.expectation)

    def logits(self, x: Tensor, batch_size: int | None = None) -> Tensor:
        """Return the logits in evaluation mode, of shape (N, classes), on the device of `x`."""
        if not len(x):
            return x.new_zeros((0, 1))
        with frozen_eval(self.model), torch.no_grad():
            parts = torch.split(x, batch_size or self.batch_size)
            return torch.cat([forward(self.model, part.to(self.x)).to(x.device) for part in parts])

    def all_logits(self) -> Tensor:
        """Return the logits of all images, of shape (n, classes); the model is asked once."""
        return remembered(self, "answers", lambda: self.logits(self.x))

    def uniform(self, purpose: str, images: Tensor) -> Tensor:
        """Return numbers uniform in [0, 1] for some images, of their shape and device.

        An image's numbers depend on its place in the dataset, not on the other images.
        """
        places = self.places[images.cpu()]
        return per_image_uniform(("check", purpose, self.seed), places, self.x.shape[1:]).to(self.x)


CheckFn = Callable[[CheckContext], Check]


def evenly(images: Tensor, count: int) -> Tensor:
    """Return at most `count` of some images, evenly spaced: data may be sorted by class."""
    if len(images) <= count:
        return images
    return images[torch.linspace(0, len(images) - 1, count).round().long()]


def forward(model: nn.Module, x: Tensor) -> Tensor:
    """Return the logits of a batch; the model gets a copy if it might write into the images.

    Raises
    ------
    UserError
        When it returns anything but a floating tensor of shape (N, classes).
    """
    logits = model(x if x.requires_grad else x.clone())
    if not isinstance(logits, Tensor):
        raise UserError(f"the model returns a {type(logits).__name__}: needed is a tensor")
    if not logits.is_floating_point():
        raise UserError(f"the model returns {logits.dtype}: needed are logits, floating numbers")
    if logits.ndim != 2 or len(logits) != len(x) or not logits.shape[1]:
        raise UserError(
            f"the model returns shape {tuple(logits.shape)} for {len(x)} images: needed is "
            f"({len(x)}, classes)"
        )
    return logits


def guarded(name: str, function: CheckFn) -> CheckFn:
    """Return a check that cannot raise and that leaves no trace.

    Modes, weights, buffers, `requires_grad`, gradients, the images and the global random numbers of
    PyTorch, NumPy and Python are afterwards what they were, whatever the model does to them. Its
    random numbers follow from its name. `NotApplicableError` becomes SKIP, any other exception FAIL
    with its first line. Only a signal (`Preempted`) gets through.
    """

    def check(context: CheckContext) -> Check:
        try:
            if not len(context.x):
                raise NotApplicableError("there are no images", "give at least one image")
            with (
                own_randomness(name, context.seed),
                untouched(context.model),
                warnings.catch_warnings(),
            ):
                warnings.simplefilter("ignore")
                # The notes are shared.
                result = function(replace(context, x=context.x.detach()))
                return result._replace(advice="") if result.status == "PASS" else result
        except NotApplicableError as reason:
            return Check(name, "SKIP", str(reason), reason.advice)
        except Preempted:
            raise
        except Exception as error:
            evidence = one_line(str(error).split("\n", 1)[0], 200)
            if not isinstance(error, UserError):
                kind = type(error).__name__
                evidence = f"{kind}: {evidence}" if evidence else kind
            return Check(name, "FAIL", evidence, NEEDED)

    return check


def remembered(context: CheckContext, name: str, measure: Callable[[], T]) -> T:
    """Return what an earlier check has measured under a name, or measure it.

    Its random numbers follow from the name, whichever check comes first.
    """
    if name not in context.notes:
        with own_randomness(name, context.seed):
            context.notes[name] = measure()
    value: T = context.notes[name]
    return value
