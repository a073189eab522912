"""AutoAttack's standard composition, and its part Square, through the reference package."""

from __future__ import annotations

import importlib
import importlib.util
import logging
from typing import Any

import torch
from torch import Tensor, nn

from arnas.attacks.eval_mode import frozen_eval
from arnas.attacks.threat import Threat
from arnas.runtime.errors import UserError

PACKAGE_NORMS = {"linf": "Linf", "l2": "L2"}
MIN_CLASSES = 4
"""The targeted losses of the composition compare the four largest logits."""
TARGETS = 9
"""Targets of the published composition."""
SEED = 0
"""Fixed, because the package's own default is the clock."""


def autoattack(
    model: nn.Module, x: Tensor, y: Tensor, threat: Threat, *, batch_size: int = 250
) -> Tensor:
    """Run APGD-CE, targeted APGD, targeted FAB and Square with their published budgets.

    The parameter-free composition of arXiv 2003.01690. Upstream's package `autoattack` is used
    when it is installed, otherwise `pyautoattack`, the same attacks on the package index. Images
    already misclassified are not attacked.

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
        x_adv of x's shape; an image that withstood everything is returned as it was.

    Raises
    ------
    UserError
        For fewer than 4 classes, where the composition is not defined.
    """
    if not len(x):
        return x.clone()
    if threat.epsilon == 0:
        return x.clone()
    with frozen_eval(model), torch.random.fork_rng():
        with torch.no_grad():
            classes = model(x[:1]).shape[1]
        if classes < MIN_CLASSES:
            raise UserError(
                f"AutoAttack standard needs {MIN_CLASSES} classes, the model has {classes}: leave "
                "autoattack out of whitebox.attacks."
            )
        return _package_attack(model, x, y, threat, batch_size, classes)


def square(model: nn.Module, x: Tensor, y: Tensor, threat: Threat, *, queries: int) -> Tensor:
    """Search for adversarial squares with the outputs of the model alone (arXiv 1912.00049).

    Parameters and result as for `autoattack`, for two classes and more. An image costs at most
    `queries` forward passes, and three in which the package looks at where it stands. The package
    draws its random numbers by batch.
    """
    if not len(x) or threat.epsilon == 0:
        return x.clone()
    package = importlib.import_module(f"{package_name()}.square")
    with frozen_eval(model), torch.random.fork_rng(), torch.no_grad():
        adversary = package.SquareAttack(
            model,
            norm=PACKAGE_NORMS[threat.norm],
            eps=threat.epsilon,
            n_queries=queries,
            seed=SEED,
            device=x.device,
        )
        found: Tensor = adversary.perturb(x, y)
    return found.detach()


def package_name() -> str:
    """Return the name of the AutoAttack package that is used."""
    return "autoattack" if importlib.util.find_spec("autoattack") else "pyautoattack"


def _package_attack(
    model: nn.Module, x: Tensor, y: Tensor, threat: Threat, batch_size: int, classes: int
) -> Tensor:
    """Call whichever package is installed; their interfaces differ, their attacks do not."""
    name = package_name()
    package = importlib.import_module(name)
    norm = PACKAGE_NORMS[threat.norm]
    if name == "autoattack":
        adversary = package.AutoAttack(
            model, norm=norm, eps=threat.epsilon, seed=SEED, verbose=False, device=x.device
        )
        _fit_targets(adversary, classes)
        found: Tensor = adversary.run_standard_evaluation(x, y, bs=batch_size)
        return found.detach()
    logging.getLogger("auto-attack").setLevel(logging.WARNING)
    adversary = package.AutoAttack(
        model, norm=norm, eps=threat.epsilon, seed=SEED, version="standard", device=x.device
    )
    _fit_targets(adversary, classes)
    found, _ = adversary.run_standard_evaluation(x, y, batch_size=batch_size)
    return found.detach()


def _fit_targets(adversary: Any, classes: int) -> None:
    """Let the targeted attacks try every other class where there are fewer than their nine."""
    for attack in (adversary.apgd_targeted, adversary.fab):
        attack.n_target_classes = min(TARGETS, classes - 1)
