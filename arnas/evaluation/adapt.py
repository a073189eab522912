"""Models as attacks need them: a gradient by the image where there is one, images left alone."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointFunction

from arnas.attacks.eval_mode import frozen_eval
from arnas.models.opaque import Opaque, as_module
from arnas.runtime.seeds import seeded


class Guarded(nn.Module):
    """A model that gets a copy of its images, for one that writes into them.

    Names of parameters and buffers are the model's own.

    Parameters
    ----------
    model
        Images to logits.
    reentrant
        Whether reentrant checkpointing inside is left out: it allows no ``torch.autograd.grad``.
    """

    def __init__(self, model: nn.Module, reentrant: bool) -> None:
        super().__init__()
        self.inside, self.reentrant = model, reentrant

    def forward(self, x: Tensor) -> Any:
        """Return what the model returns."""
        if not self.reentrant:
            return self.inside(x.clone())
        with mock.patch.object(CheckpointFunction, "apply", _without_checkpoint):
            return self.inside(x.clone())

    def named_parameters(self, *args: Any, **options: Any) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield those of the model."""
        yield from self.inside.named_parameters(*args, **options)

    def named_buffers(self, *args: Any, **options: Any) -> Iterator[tuple[str, Tensor]]:
        """Yield those of the model."""
        yield from self.inside.named_buffers(*args, **options)


def _without_checkpoint(function: Callable[..., Any], preserve: bool, *args: Any) -> Any:
    """Compute what is checkpointed, and keep its graph."""
    return function(*args)


class BinaryLogits(Guarded):
    """A model with one output z as one with two logits, 0 and z: class 1 where z is positive."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model, reentrant=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits of shape (N, 2)."""
        z: Tensor = self.inside(x)
        return torch.cat([torch.zeros_like(z), z], dim=1)


def adapted(model: object, image: Tensor, y: Tensor) -> nn.Module:
    """Return a model that can be attacked, or the model itself if nothing is in the way.

    Taken are modules, TorchScript, exported programs and functions; what was made in inference mode
    is copied. The model must be called with a batch of one image to find out.

    Parameters
    ----------
    image
        float of shape (1, C, H, W), on the model's device.
    y
        All labels: with 0 and 1 only, a single output is taken for the logit of class 1.
    """
    module = as_module(model)
    if any(t.is_inference() for t in (*module.parameters(), *module.buffers())):
        module = _outside_inference(module)
    try:
        with seeded("adapt"), frozen_eval(module):
            writes, reentrant, outputs = _probe(module, image)
    except Exception:  # whatever a model that takes no such images raises
        return module
    if writes or reentrant:
        module = Guarded(module, reentrant)
    if outputs == 1 and 0 < int(y.max()) <= 1:
        module = BinaryLogits(module)
    return module


def _probe(model: nn.Module, image: Tensor) -> tuple[bool, bool, int]:
    """Return whether a model writes into its images, whether it is reentrant, and its outputs."""
    probe = image.detach().clone()
    version = probe._version
    with torch.no_grad():
        model(probe)
    writes, reentrant = probe._version != version, False
    with torch.enable_grad():
        leaf = image.detach().clone().requires_grad_()
        logits = model(leaf.clone())
        if logits.requires_grad:
            try:
                torch.autograd.grad(logits.sum(), leaf, allow_unused=True)
            except RuntimeError as error:
                reentrant = "heckpoint" in str(error)
    return writes, reentrant, logits.shape[1]


def _outside_inference(model: nn.Module) -> nn.Module:
    """Return a copy whose tensors take part in autograd."""
    if isinstance(model, Opaque):
        return model
    model = copy.deepcopy(model)
    for module in model.modules():
        stores: tuple[dict[str, Any], ...] = (module._parameters, module._buffers, vars(module))
        for store in stores:
            for name, value in store.items():
                if isinstance(value, Tensor) and value.is_inference():
                    kept = nn.Parameter(value.clone(), value.requires_grad)
                    store[name] = kept if isinstance(value, nn.Parameter) else value.clone()
    return model
