"""Cost-sensitive adversarial training: some confusions of classes cost more than others."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from arnas.runtime.errors import UserError
from arnas.training.losses import LossValue, Step, training_examples
from arnas.training.registry import CostSensitiveOptions


def cost_sensitive_loss(step: Step) -> LossValue:
    """Return CE(x') + weight * mean_i sum_j C[j, y_i] p_j(x'_i), x' as for PGD training.

    The loss of Shen et al. (arXiv 2101.12372; L_CSA of the first author's code). There each batch
    takes a clean step and one on FGSM examples of this loss; here the examples are those of the
    recipe, so that rows of a table differ in the loss alone.
    """
    logits = step.model(training_examples(step))
    costs = cost_matrix(step.settings, logits.shape[1]).to(logits)
    expected = (costs.T[step.batch.y] * logits.softmax(1)).sum(1).mean()
    loss = F.cross_entropy(logits, step.batch.y) + step.settings.weight * expected
    return LossValue(loss, logits.detach())


def cost_matrix(settings: CostSensitiveOptions, classes: int) -> Tensor:
    """Return C, of shape (classes, classes): row the class that is predicted, column the true one.

    By default ones, but `cost` in the rows and columns of protected classes, and 0 on the diagonal.

    Raises
    ------
    UserError
        When the settings name a class, or have a matrix, that the network's classes do not fit.
    """
    if settings.costs is not None:
        lengths = sorted({len(settings.costs), *map(len, settings.costs)})
        if lengths != [classes]:
            raise UserError(
                f"loss.costs has rows or columns of {' and '.join(map(str, lengths))} numbers: "
                f"needed are {classes} rows and columns, one for each class."
            )
        return torch.tensor(settings.costs)
    if unknown := [label for label in settings.protected if label >= classes]:
        raise UserError(
            f"loss.protected names class {unknown[0]}: allowed are 0 to {classes - 1}, the classes "
            "of the dataset."
        )
    costs = torch.ones(classes, classes)
    costs[settings.protected] = settings.cost
    costs[:, settings.protected] = settings.cost
    return costs.fill_diagonal_(0)
