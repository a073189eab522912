"""Classifying images in batches, in evaluation mode."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from arnas.attacks.eval_mode import frozen_eval, home
from arnas.data.placement import on_device


def logits(model: nn.Module, x: Tensor, batch_size: int) -> Tensor:
    """Return the logits of images, of shape (N, classes), on the device of `x`.

    Parameters
    ----------
    model
        Pixels in [0, 1] to logits; put into evaluation mode, and afterwards it is what it was.
    x
        Floating images of shape (N, C, H, W), N from 1 up, on any device. Batch by batch they are
        moved to the model and converted to its type.
    batch_size
        Images that go through the model together.
    """
    place, dtype = home(model)
    with frozen_eval(model), torch.no_grad():
        parts = [model(on_device(part, place).to(dtype)) for part in torch.split(x, batch_size)]
        return torch.cat(parts).to(x.device)


def predict(model: nn.Module, x: Tensor, batch_size: int) -> Tensor:
    """Return the predicted classes, int64 of shape (N,); parameters are those of `logits`."""
    return logits(model, x, batch_size).argmax(1)
