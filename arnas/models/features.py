"""Logits and features of a network from one forward pass."""

from __future__ import annotations

from torch import Tensor, nn

from arnas.models.sharing import is_shared, join_parts
from arnas.runtime.errors import UserError


def logits_and_features(model: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return a model's logits and its features, the input of the linear layer that runs last.

    Parameters
    ----------
    model
        Any network with an `nn.Linear` layer.
    x
        float of shape (N, C, H, W).

    Returns
    -------
    tuple of Tensor
        Logits of shape (N, classes) and features of shape (N, D), both with a graph.

    Raises
    ------
    UserError
        When no linear layer takes part.

    Examples
    --------
    >>> logits, features = logits_and_features(build_model("resnet18"), torch.rand(2, 3, 32, 32))
    >>> features.shape
    torch.Size([2, 512])
    """
    inputs: list[Tensor] = []
    hooks = [
        module.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
        for module in model.modules()
        if isinstance(module, nn.Linear)
    ]
    try:
        logits = model(x)
    finally:
        for hook in hooks:
            hook.remove()
    if not inputs:
        raise UserError(
            f"{type(model).__name__} has no linear layer, whose input would be its features: "
            "choose a method that works on logits."
        )
    features = inputs[-1].flatten(1)
    return logits, join_parts(features, len(x)) if is_shared(model) else features
