"""InfoAT: images with much information between input and output count more.

After Xu et al. (InfoAT, IEEE TNNLS 2022, arXiv 2206.12292); the concept is reproduced, the formula
for the information is ours: the abstract names mutual information and gives no estimator.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from arnas.attacks.eval_mode import BatchNorm, frozen_eval
from arnas.models.features import logits_and_features
from arnas.training.losses import LossValue, Step, boosted_loss, doubt
from arnas.training.registry import InfoatOptions


def infoat_loss(step: Step) -> LossValue:
    """Return BCE(p(x'), y) + strength * mean(w(x) KL(p(x) || p(x'))), x' as for PGD training.

    The weights w of `local_mi` are the images' `local_information` over its mean in the batch, and
    constants; with `mart` the loss is that of MART, with `one` all images count alike.
    """
    settings: InfoatOptions = step.settings
    x, y = step.batch

    def weigh(clean: Tensor) -> Tensor:
        if settings.weight == "mart":
            return doubt(clean, y)
        if settings.weight == "one":
            return torch.ones_like(clean[:, 0])
        of_features, statistics = settings.of == "latent", step.options.attack.batch_norm
        information = local_information(
            step.model, x, of_features, settings.projections, step.generator, statistics
        )
        return information / information.mean().clamp_min(torch.finfo(x.dtype).tiny)

    return boosted_loss(step, settings.strength, weigh)


def local_information(
    model: nn.Module,
    x: Tensor,
    of_features: bool = False,
    projections: int = 0,
    generator: torch.Generator | None = None,
    batch_norm: BatchNorm = "eval",
) -> Tensor:
    """Return what the outputs of each image tell of small Gaussian changes of it, in nats.

    The capacity of the channel from x to the outputs z, linearised: log det(1 + J J' / tau^2) / 2
    with J = dz/dx and tau^2 the mean over the diagonals of J J' of the batch.

    Parameters
    ----------
    model, x, batch_norm
        As for `arnas.attacks.eval_mode.frozen_eval`.
    of_features
        Whether z are the inputs of the last linear layer and not the probabilities.
    projections
        Random directions of z, each for one backward pass, that stand for J; 0 for all of z.
    generator
        CPU generator of the directions.

    Returns
    -------
    Tensor
        Of shape (N,), 0 and more.
    """
    with frozen_eval(model, batch_norm), torch.enable_grad():
        x = x.detach().requires_grad_()
        logits, features = logits_and_features(model, x) if of_features else (model(x), None)
        z = logits.softmax(1) if features is None else features
        size = z.shape[1]
        if projections:
            directions = (
                torch.randn(z.shape[1], projections, generator=generator) / projections**0.5
            )
            z = z @ directions.to(z)
        rows = [torch.autograd.grad(out.sum(), x, retain_graph=True)[0] for out in z.unbind(1)]
    jacobian = torch.stack(rows, 1).flatten(2)
    gram = jacobian @ jacobian.transpose(1, 2)
    scale = (gram.diagonal(dim1=1, dim2=2).sum(1).mean() / size).clamp_min(
        torch.finfo(x.dtype).tiny
    )
    return torch.eye(gram.shape[1]).to(gram).add(gram / scale).logdet() / 2
