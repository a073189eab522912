"""AutoAttack's standard composition through the published package."""

from __future__ import annotations

import importlib
import importlib.util
import logging

import torch
from torch import Tensor, nn

from arnas.attacks.eval_mode import frozen_eval
from arnas.attacks.oracle import AttackOutput, Oracle, RandomStreams, in_batches
from arnas.attacks.threat import Threat
from arnas.runtime.errors import UserError

PACKAGE_NORMS = {"linf": "Linf", "l2": "L2", "l1": "L1"}
MIN_CLASSES = 4
"""The targeted losses of the composition compare the four largest logits."""
SEED = 0
"""Fixed, because the package's own default is the clock."""


def autoattack(
    model: nn.Module, x: Tensor, y: Tensor, threat: Threat, *, batch_size: int = 250
) -> Tensor:
    """Run APGD-CE, targeted APGD, targeted FAB and Square with their published budgets.

    The parameter-free composition of arXiv 2003.01690 in the code that its authors published; the
    suite ``standard`` is the same composition in this package's own attacks. Upstream's package
    `autoattack` is used where it is installed, otherwise `pyautoattack`, the same attacks on the
    package index. Images that are misclassified already are not attacked.

    Parameters
    ----------
    model
        Pixels in [0, 1] to logits of at least 4 classes, float32; attacked in evaluation mode.
    x, y
        float32 of shape (N, C, H, W) in [0, 1] and int64 of shape (N,).
    threat
        Norm and budget.
    batch_size
        Images attacked together. The package draws its random numbers by batch.

    Returns
    -------
    Tensor
        x_adv of x's shape; a robust image is returned unchanged.

    Raises
    ------
    UserError
        For fewer than 4 classes, where the composition is not defined.
    """
    if not len(x) or threat.epsilon == 0:
        return x.clone()
    with frozen_eval(model), torch.random.fork_rng():
        with torch.no_grad():
            classes = model(x[:1]).shape[1]
        check_classes(classes)
        return _package_attack(model, x, y, threat, batch_size, classes)


def reference_batch(
    oracle: Oracle, x: Tensor, y: Tensor, threat: Threat, streams: RandomStreams
) -> AttackOutput:
    """Run `autoattack` batch by batch; the package draws its own random numbers."""

    def attack(image: Tensor, label: Tensor) -> Tensor:
        return autoattack(oracle.model, image, label, threat, batch_size=oracle.batch_size)

    return in_batches(oracle, attack, x, y)


def check_classes(classes: int) -> None:
    """Refuse a model of too few classes for the composition."""
    if classes < MIN_CLASSES:
        raise UserError(
            f"the package's AutoAttack needs {MIN_CLASSES} classes, the model has {classes}: use "
            "the suite standard, which is the same composition for any number of classes."
        )


def _package_attack(
    model: nn.Module, x: Tensor, y: Tensor, threat: Threat, batch_size: int, classes: int
) -> Tensor:
    """Call whichever package is installed; their interfaces differ, their attacks do not."""
    upstream = importlib.util.find_spec("autoattack") is not None
    package = importlib.import_module("autoattack" if upstream else "pyautoattack")
    logging.getLogger("auto-attack").setLevel(logging.WARNING)
    adversary = package.AutoAttack(
        model,
        norm=PACKAGE_NORMS[threat.norm],
        eps=threat.epsilon,
        seed=SEED,
        version="standard",
        device=x.device,
        **({"verbose": False} if upstream else {}),
    )
    # Where there are fewer other classes than their targets, they try every other class.
    for attack in (adversary.apgd_targeted, adversary.fab):
        attack.n_target_classes = min(attack.n_target_classes, classes - 1)
    if upstream:
        found: Tensor = adversary.run_standard_evaluation(x, y, bs=batch_size)
    else:
        found, _ = adversary.run_standard_evaluation(x, y, batch_size=batch_size)
    return found.detach()
