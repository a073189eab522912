"""Rows of search and training: passes of the supernet, whole steps."""

from __future__ import annotations

import copy
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import arnas
from arnas import Threat
from arnas.attacks.eval_mode import frozen_eval
from arnas.data.batches import Batch
from arnas.search.options import SupernetOptions
from arnas.search.state import SearchState, new_state
from arnas.search.step import StagePlan, architecture_step, weight_step
from arnas.spaces.options import SearchSpaceOptions
from arnas.training.losses import Step, pgd_loss
from arnas.training.options import RetrainOptions
from benchmarks.reference import adversarial
from benchmarks.reference.search import PlainSearch
from benchmarks.reference.supernet import PlainSupernet, copy_into
from benchmarks.timing import Case, Measurement, difference, input_gradient, interleaved
from benchmarks.workloads import arnas_pair, noise

EPSILON, STEP = 8 / 255, 2 / 255
CPU = torch.device("cpu")


def _search_pair(
    channels: int, dtype: torch.dtype = torch.float32
) -> tuple[SearchState, PlainSearch]:
    """Return a search of four cells before its first step, and the plain one in the same place."""
    torch.manual_seed(0)
    options, space = SupernetOptions(channels=channels, cells=4), SearchSpaceOptions()
    sizes = {"num_classes": 10, "in_channels": 3}
    state = new_state(options, space, **sizes, seed=0, device=CPU)
    plain = PlainSupernet(space.kinds, space.widths, 4, channels, **sizes)
    copy_into(state.supernet, plain)
    state.supernet.to(dtype).train()
    return state, PlainSearch(plain.to(dtype))


def _full_pass(model: nn.Module, x: Tensor, y: Tensor) -> None:
    """Go forward in training mode and back to every parameter."""
    model.train()
    F.cross_entropy(model(x), y).backward()


def _attack_pass(model: nn.Module, x: Tensor, y: Tensor) -> None:
    """Go forward on batch statistics and back to the input."""
    with frozen_eval(model, "batch"):
        input_gradient(model, x, y)


def _plain_attack_pass(model: nn.Module, x: Tensor, y: Tensor) -> None:
    """Go forward in training mode and back to input and parameters."""
    _full_pass(model, x.clone().requires_grad_(), y)


def _supernet(attack: bool) -> Measurement:
    state, plain = _search_pair(channels=16)
    x, y = noise(16, 32)
    ours, theirs = (_attack_pass, _plain_attack_pass) if attack else (_full_pass, _full_pass)
    timing = interleaved(
        partial(ours, state.supernet, x, y), partial(theirs, plain.net, x, y), rounds=5
    )
    state, plain = _search_pair(16, torch.float64)
    x, y = noise(4, 16, torch.float64)
    models = (state.supernet, plain.net)
    with torch.no_grad():
        logits = difference(*(model(x) for model in models))
    gradient = difference(*(input_gradient(model, x, y) for model in models))
    return Measurement(*timing, {"logits": logits, "input gradient": gradient})


def _search_step(state: SearchState, train: Batch, validation: Batch, start: Tensor) -> None:
    """Take a whole step as the search loop does."""
    attack = partial(
        arnas.pgd,
        state.supernet,
        threat=Threat("linf", EPSILON),
        steps=7,
        step_size=STEP,
        start=start,
        keep="last",
        batch_norm="batch",
    )
    plan = StagePlan("multiobjective", 1, "second", "min_norm", adversarial_weight=0.1)
    train = Batch(attack(*train), train.y)
    attacked = Batch(attack(*validation), validation.y)
    architecture_step(state, plan, train, {"natural": validation, "adversarial": attacked})
    weight_step(state, train, SupernetOptions())


def _plain_search_step(plain: PlainSearch, train: Batch, validation: Batch, start: Tensor) -> None:
    """Take it as the published algorithm does."""
    how = {"epsilon": EPSILON, "steps": 7, "step_size": STEP}
    train, attacked = (
        Batch(adversarial.pgd(plain.net, *batch, start, **how), batch.y)
        for batch in (train, validation)
    )
    plain.architecture_step(train, validation, attacked)
    plain.weight_step(train)


def _start(x: Tensor) -> Tensor:
    """Return a start of PGD, uniform in the ball."""
    return EPSILON * (2 * torch.rand_like(x) - 1)


def _whole_search_step() -> Measurement:
    state, plain = _search_pair(channels=8)
    train, validation = noise(16, 32), noise(16, 32)
    batches = (train, validation, _start(train.x))
    ours = partial(_search_step, state, *batches)
    timing = interleaved(ours, partial(_plain_search_step, plain, *batches), rounds=3, warm=False)
    return Measurement(*timing, _search_agreement())


def _search_agreement() -> dict[str, float]:
    """Compare the direction that Adam remembers, and the weights, after a step."""
    state, plain = _search_pair(4, torch.float64)
    train, validation = noise(4, 8, torch.float64), noise(4, 8, torch.float64)
    batches = (train, validation, _start(train.x))
    _search_step(state, *batches)
    _plain_search_step(plain, *batches)
    moved = copy.deepcopy(plain.net)
    copy_into(state.supernet, moved)
    found = [state.alpha_optimiser.state[a]["exp_avg"] for a in state.supernet.alphas.values()]
    expected = [plain.first[f"alphas.{kind}"] for kind in state.supernet.alphas]
    return {
        "architecture direction": difference(torch.cat(found), torch.cat(expected)),
        "weights": _weight_difference(moved, plain.net),
    }


def _weight_difference(found: nn.Module, expected: nn.Module) -> float:
    """Return the difference of the parameters of two networks of one kind."""
    joined = (
        torch.cat([p.detach().flatten() for p in net.parameters()]) for net in (found, expected)
    )
    return difference(*joined)


SGD = partial(torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=1e-4)
RECIPE = RetrainOptions()


def _training_step(model: nn.Module, optimiser: torch.optim.SGD, batch: Batch) -> None:
    """Take a step of adversarial training as the training loop does."""
    generator = torch.Generator().manual_seed(0)
    step = Step(model.train(), batch, Threat("linf", EPSILON), RECIPE, generator)
    optimiser.zero_grad()
    pgd_loss(step).loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), RECIPE.gradient_clip)
    optimiser.step()


def _plain_training_step(model: nn.Module, optimiser: torch.optim.SGD, batch: Batch) -> None:
    """Take the same step as the plain loop does."""
    noise = torch.randn(batch.x.shape, generator=torch.Generator().manual_seed(0))
    start = RECIPE.attack.start_scale * noise.to(batch.x)
    how = {"epsilon": EPSILON, "steps": 7, "step_size": 0.01, "clip": RECIPE.gradient_clip}
    adversarial.training_step(model, optimiser, *batch, start, **how)


def _bare_training(model: nn.Module, batch: Batch) -> None:
    """Make the passes of the step alone."""
    with frozen_eval(model):
        for _ in range(7):
            input_gradient(model, *batch)
    _full_pass(model, *batch)


def _adversarial_training() -> Measurement:
    model, plain = arnas_pair(cells=5)
    batch = noise(16, 32)
    ours = partial(_training_step, model, SGD(model.parameters()), batch)
    theirs = partial(_plain_training_step, plain, SGD(plain.parameters()), batch)
    timing = interleaved(ours, theirs, partial(_bare_training, model, batch), rounds=3)
    model, plain = (net.double() for net in arnas_pair(cells=3, channels=4))
    batch = noise(4, 16, torch.float64)
    _training_step(model, SGD(model.parameters()), batch)
    _plain_training_step(plain, SGD(plain.parameters()), batch)
    # Parameters in the order of the plain network's, where both have the same.
    arrived = copy.deepcopy(plain)
    arrived.load_from(model)
    return Measurement(*timing, {"weights": _weight_difference(arrived, plain)})


PLAIN = "plain supernet"
SUPERNET = [
    Case("supernet, attack step", f"{PLAIN}, all gradients", 0.22, partial(_supernet, True)),
    Case("supernet, weight step", PLAIN, 0.33, partial(_supernet, False)),
]
SEARCH = [
    Case(
        "whole ARNAS search step: two PGD-7, second order, min-norm",
        "plain step, deep copies and all gradients",
        0.18,
        _whole_search_step,
    )
]
TRAINING = [
    Case(
        "adversarial training step, PGD-7, ARNAS network of 16 channels",
        "plain loop on the plain network, all gradients in the attack",
        0.33,
        _adversarial_training,
    )
]
