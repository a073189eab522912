"""Examples made on one network, to be shown to others."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from arnas.attacks.eval_mode import home
from arnas.attacks.pgd import transferable
from arnas.attacks.threat import Threat
from arnas.data.placement import on_device
from arnas.runtime.resume import NO_CHECKPOINT, Checkpointer, Snapshot
from arnas.runtime.seeds import per_image_uniform


def transfer_examples(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    *,
    steps: int,
    batch_size: int,
    seed: int,
    checkpointer: Checkpointer = NO_CHECKPOINT,
) -> Tensor:
    """Return adversarial examples made on `model` for showing to other models.

    Those of `arnas.attacks.pgd.transferable`, also of images that the model misclassifies, of x's
    shape and on its device. Images, float32 of shape (N, C, H, W), are moved to the model batch by
    batch. An image's start depends on the seed and the image's index only. The checkpointer keeps
    the examples, so that a later run makes only those that are missing.
    """
    device, _ = home(model)
    kept = checkpointer.load()
    x_adv = x.clone() if kept is None else kept.tensors["x_adv"].to(x)
    done = 0 if kept is None else kept.description["done"]
    for index in torch.split(torch.arange(done, len(x)), batch_size):
        if not len(index):
            break
        clean, label = on_device(x[index], device), y[index].to(device)
        unit = per_image_uniform(("blackbox", seed), index, x.shape[1:]).to(clean)
        made = transferable(model, clean, label, threat, unit, steps=steps)
        x_adv[index] = made.to(x_adv)
        checkpointer.maybe_save(partial(Snapshot, {"x_adv": x_adv}, {"done": int(index[-1]) + 1}))
    return x_adv
