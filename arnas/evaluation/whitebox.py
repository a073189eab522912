"""White-box evaluation: which images withstand which attack."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from arnas.attacks import objectives
from arnas.attacks.eval_mode import frozen_eval
from arnas.attacks.folding import folded
from arnas.attacks.oracle import AttackOutput, Oracle, RandomStreams
from arnas.attacks.reference import autoattack
from arnas.attacks.registry import ATTACKS, AttackEntry
from arnas.attacks.square import per_image_numbers
from arnas.attacks.threat import Threat
from arnas.data.placement import on_device
from arnas.evaluation.ledger import Ledger
from arnas.evaluation.witness import EvalMonitor
from arnas.runtime.progress import Report
from arnas.runtime.references import load_reference
from arnas.runtime.seeds import per_image_uniform


class Evaluation(NamedTuple):
    """What attacks left, and what was seen meanwhile."""

    outcomes: dict[str, Tensor]
    """``clean`` and each attack's name to uint8 of shape (n,): 1 where the image stands. n is the
    number of images, or the limit of a limited attack if that is fewer."""
    witness: EvalMonitor


def predict(
    model: nn.Module, x: Tensor, batch_size: int, device: torch.device | None = None
) -> Tensor:
    """Return the predicted classes, int64 of shape (N,), in evaluation mode.

    Parameters
    ----------
    model
        Pixels in [0, 1] to logits.
    x
        float32 of shape (N, C, H, W).
    batch_size
        Images classified together.
    device
        Where the model is and the answer will be, if it is not that of `x`.
    """
    parts = (on_device(part, device or x.device) for part in torch.split(x, batch_size))
    with frozen_eval(model), torch.no_grad():
        return torch.cat([model(part).argmax(1) for part in parts])


def evaluate(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    attacks: Sequence[str],
    *,
    limit: int,
    batch_size: int,
    seed: int,
    report: Report,
    ledger: Ledger | None = None,
    scope: str = "evaluation",
) -> Evaluation:
    """Attack a model and return what each image withstood.

    Only images that the model classifies correctly are attacked; one counts as robust if it is
    correct clean and on the adversarial example, which is forwarded anew. Examples are made on the
    model's faster copy (`arnas.attacks.folding`) and judged on the model. Each image's random
    numbers depend on the seed and its index, not on the batch or the attack: PGD-100 walks the path
    of PGD-20 and goes on, so it is never weaker.

    Parameters
    ----------
    model
        Pixels in [0, 1] to logits.
    x, y
        float32 of shape (N, C, H, W) in [0, 1] and int64 of shape (N,). The labels are on the
        device of the model; images elsewhere are moved there batch by batch.
    threat
        Norm and budget.
    attacks
        Names of `arnas.attacks.registry.ATTACKS`.
    limit
        Images that the attacks with a limit (AutoAttack) run on, from the first.
    batch_size
        Images attacked together.
    seed
        The replicate's seed.
    report
        Called after every attack.
    ledger, scope
        What an earlier run that was cut short had found under that name is not attacked again.
    """
    standing = predict(model, x, batch_size, y.device) == y
    outcomes = {"clean": standing.to(torch.uint8).cpu()}
    ledger = ledger or Ledger()
    witness, copy = ledger.witness(scope), folded(model)
    total = len(attacks) + 1
    report(1, total, f"clean {_percent(standing)}")
    for number, name in enumerate(attacks):
        entry = ATTACKS[name]
        n = min(limit, len(y)) if entry.limited else len(y)
        with witness.watching(model, copy):
            robust = _withstands(
                _Work(f"{scope}.{name}", entry, threat, batch_size, seed, witness, ledger),
                (model, copy),
                _Images(x[:n], y[:n]),
                standing[:n],
            )
        outcomes[name] = robust.to(torch.uint8).cpu()
        report(number + 2, total, f"{name} {_percent(robust)}")
    return Evaluation(outcomes, witness)


def accuracy_curve(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threats: Sequence[Threat],
    *,
    attack: str,
    batch_size: int,
    seed: int,
    report: Report,
    ledger: Ledger | None = None,
    scope: str = "curve",
) -> tuple[Tensor, EvalMonitor]:
    """Attack a model with growing budgets and return what each image withstood.

    An image that falls to a budget falls to every larger one, because the balls are nested; only
    images that still stand are attacked again. So the accuracy never rises along the curve.

    Parameters
    ----------
    model, x, y, batch_size, seed, report, ledger, scope
        As for `evaluate`.
    threats
        Threat models of one norm with rising epsilon.
    attack
        A name of `arnas.attacks.registry.ATTACKS`.

    Returns
    -------
    tuple of Tensor and EvalMonitor
        uint8 of shape (len(threats), N), 1 where the image stands.
    """
    ledger = ledger or Ledger()
    witness, copy = ledger.witness(scope), folded(model)
    standing = predict(model, x, batch_size, y.device) == y
    rows = []
    with witness.watching(model, copy):
        for number, threat in enumerate(threats):
            name = f"{scope}.{number}"
            standing = _withstands(
                _Work(name, ATTACKS[attack], threat, batch_size, seed, witness, ledger),
                (model, copy),
                _Images(x, y),
                standing,
            )
            rows.append(standing.to(torch.uint8).cpu())
            text = f"{attack} at epsilon {threat.epsilon:.4g}: {_percent(standing)}"
            report(number + 1, len(threats), text)
    return torch.stack(rows), witness


def _percent(flags: Tensor) -> str:
    """Return a share in words."""
    return f"{100 * float(flags.float().mean()):.1f} % of {len(flags)}"


class _Work(NamedTuple):
    """One attack with one budget."""

    name: str
    entry: AttackEntry
    threat: Threat
    batch_size: int
    seed: int
    witness: EvalMonitor
    ledger: Ledger


class _Images(NamedTuple):
    """Float images in [0, 1] of shape (N, C, H, W) and int64 labels of shape (N,)."""

    x: Tensor
    y: Tensor


def _withstands(
    work: _Work, models: tuple[nn.Module, nn.Module], images: _Images, standing: Tensor
) -> Tensor:
    """Return which of the standing images are still correct after the attack.

    `models` are the one that judges and the one that examples are made on.
    """
    (model, copy), (x, y) = models, images
    robust, done = work.ledger.begin(work.name, standing)
    for number, index in enumerate(torch.split(standing.nonzero().flatten(), work.batch_size)):
        if number < done or not len(index):
            continue
        clean = on_device(x[index.to(x.device)], y.device)
        unit = per_image_uniform(("whitebox", work.seed), index, x.shape[1:]).to(clean)
        x_adv = _examples(work.entry, copy, clean, y[index], work.threat, unit)
        work.witness.see(clean, x_adv, work.threat)
        robust[index] = predict(model, x_adv, work.batch_size) == y[index]
        work.ledger.note(work.name, robust, number + 1)
    return robust


def _examples(
    entry: AttackEntry, model: nn.Module, x: Tensor, y: Tensor, threat: Threat, unit: Tensor
) -> Tensor:
    """Return an attack's adversarial examples."""
    if entry.parts:
        return autoattack(model, x, y, threat)
    normal = torch.special.ndtri(unit.clamp(1e-6, 1 - 1e-6))
    streams = RandomStreams(
        lambda shape: unit,
        lambda shape: normal,
        per_image_numbers(("whitebox",), torch.arange(len(x))),
    )
    arguments = {
        k: getattr(objectives, v) if k == "objective" else v for k, v in entry.arguments.items()
    }
    with frozen_eval(model):
        attack = load_reference(entry.function)
        found: AttackOutput = attack(Oracle(model, len(x)), x, y, threat, streams, **arguments)
    return found.x_adv
