"""J-SIGR: small Jacobians, and input gradients only where the image matters to the prediction.

After Liu et al. (Pattern Recognition 145, 2024, arXiv 2207.13036); the concept is reproduced, the
formulas are ours: the abstract names both terms and gives neither.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from arnas.attacks.eval_mode import frozen_eval
from arnas.training.losses import LossValue, Step

BLUR = 5
"""Pixels on a side that the mean is taken over where a patch is blurred."""


def jsigr_loss(step: Step) -> LossValue:
    """Return CE(x) + jacobian |dz/dx|^2 + selective |(1 - M) dCE/dx|^2, norms by image, averaged.

    No adversarial examples are made. z are the logits; of |dz/dx|^2, the squared Frobenius norm,
    each step has an unbiased estimate from one random direction. M keeps the half of the image's
    patches on which the prediction depends most (`salient_patches`). Takes two differentiations of
    the gradient.
    """
    settings, (x, y) = step.settings, step.batch
    kept = salient_patches(step.model, x, settings.grid)
    x = x.detach().requires_grad_()
    logits = step.model(x)
    losses = F.cross_entropy(logits, y, reduction="none")
    (slope,) = torch.autograd.grad(losses.sum(), x, create_graph=True)
    selective = ((1 - kept) * slope).square().flatten(1).sum(1).mean()
    jacobian = jacobian_norm(logits, x, step.generator).mean()
    loss = losses.mean() + settings.jacobian * jacobian + settings.selective * selective
    return LossValue(loss, logits.detach())


def jacobian_norm(logits: Tensor, x: Tensor, generator: torch.Generator) -> Tensor:
    """Return an unbiased estimate of each image's |d logits/dx|_F^2, of shape (N,), with a graph.

    K times the squared gradient of the logits along a random unit vector, K their number (Hoffman
    et al., arXiv 1908.02729, section 2.3).
    """
    direction = F.normalize(torch.randn(logits.shape, generator=generator, dtype=logits.dtype))
    along = (logits * direction.to(logits)).sum()
    (slope,) = torch.autograd.grad(along, x, create_graph=True)
    return logits.shape[1] * slope.square().flatten(1).sum(1)


@torch.no_grad()
def salient_patches(model: nn.Module, x: Tensor, grid: int) -> Tensor:
    """Return ones on the patches whose blur changes the probabilities most, on half of them.

    Saliency is |p(x) - p(x blurred on the patch)|^2 / 2, in evaluation mode.

    Parameters
    ----------
    grid
        Patches on a side of the image.

    Returns
    -------
    Tensor
        Of shape (N, 1, H, W), zeros and ones.
    """
    count, size = grid * grid, x.shape[2:]
    patches = torch.eye(count).to(x).view(count, 1, grid, grid)
    patches = F.interpolate(patches, size)
    blurred = F.avg_pool2d(x, BLUR, 1, BLUR // 2, count_include_pad=False)
    with frozen_eval(model):
        own = model(x).softmax(1)
        changed = [model(x + patch * (blurred - x)).softmax(1) for patch in patches]
    saliency = torch.stack([(p - own).square().sum(1) / 2 for p in changed], 1)
    chosen = torch.zeros_like(saliency).scatter(1, saliency.topk(count // 2, dim=1).indices, 1.0)
    return F.interpolate(chosen.view(-1, 1, grid, grid), size)
