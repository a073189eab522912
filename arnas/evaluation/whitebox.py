"""White-box evaluation: which images withstand which attack."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from arnas.attacks.modes import attacked
from arnas.attacks.registry import ATTACKS, AttackEntry
from arnas.attacks.threat import Threat
from arnas.runtime.progress import Report
from arnas.runtime.seeds import per_image_uniform

TOLERANCE = 1e-6
"""Rounding that float32 adds to the ball and the box."""


def predict(model: nn.Module, x: Tensor, batch_size: int) -> Tensor:
    """Return the predicted classes, int64 of shape (N,), in evaluation mode."""
    with attacked(model), torch.no_grad():
        return torch.cat([model(part).argmax(1) for part in torch.split(x, batch_size)])


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
) -> dict[str, Tensor]:
    """Attack a model and return what each image withstood.

    Only images that the model classifies correctly are attacked; one counts as robust if it is
    correct clean and on the adversarial example, which is forwarded anew. Each image's random
    numbers depend on the seed and its index, not on the batch or the attack: PGD-100 walks the path
    of PGD-20 and goes on, so it is never weaker.

    Parameters
    ----------
    model
        Pixels in [0, 1] to logits.
    x, y
        float32 of shape (N, C, H, W) in [0, 1] and int64 of shape (N,).
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

    Returns
    -------
    dict of str to Tensor
        ``clean`` and each attack's name to uint8 of shape (n,): 1 where the image stands. n is
        the number of images, or `limit` if that is fewer.

    Raises
    ------
    RuntimeError
        When an attack leaves the ball or the box: a defect, not a result.
    """
    standing = predict(model, x, batch_size) == y
    outcomes = {"clean": standing.to(torch.uint8).cpu()}
    total = len(attacks) + 1
    report(1, total, f"clean {_percent(standing)}")
    for number, name in enumerate(attacks):
        entry = ATTACKS[name]
        n = min(limit, len(y)) if entry.limited else len(y)
        robust = _withstands(
            model, x[:n], y[:n], threat, name, entry, standing[:n], batch_size, seed
        )
        outcomes[name] = robust.to(torch.uint8).cpu()
        report(number + 2, total, f"{name} {_percent(robust)}")
    return outcomes


def _percent(flags: Tensor) -> str:
    """Return a share in words."""
    return f"{100 * float(flags.float().mean()):.1f} % of {len(flags)}"


def _withstands(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    name: str,
    entry: AttackEntry,
    standing: Tensor,
    batch_size: int,
    seed: int,
) -> Tensor:
    """Return which of the standing images are still correct after the attack."""
    robust = standing.clone()
    if not bool(standing.any()):
        return robust
    for index in torch.split(standing.nonzero().flatten(), batch_size):
        unit = per_image_uniform(("whitebox", seed), index, x.shape[1:]).to(x)
        x_adv = entry.run(model, x[index], y[index], threat, unit)
        _check_within(x[index], x_adv, threat, name)
        robust[index] = predict(model, x_adv, batch_size) == y[index]
    return robust


def _check_within(x: Tensor, x_adv: Tensor, threat: Threat, name: str) -> None:
    """Raise if adversarial examples leave the ball or the box."""
    order = float("inf") if threat.norm == "linf" else 2.0
    size = float((x_adv - x).flatten(1).norm(p=order, dim=1).max())
    low, high = float(x_adv.min()), float(x_adv.max())
    inside = size <= threat.epsilon + TOLERANCE and low >= -TOLERANCE and high <= 1 + TOLERANCE
    if not inside or not bool(torch.isfinite(x_adv).all()):
        raise RuntimeError(
            f"{name} left the threat model {threat}: largest perturbation {size:.8g}, pixels from "
            f"{low:.8g} to {high:.8g}"
        )
