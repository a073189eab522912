"""What each of two ranks does in the tests of `arnas.models.sharing`; run as a program.

Writes what it found to the file named by the first argument, with the rank in its name. Without
ranks (a single argument) the same is done by this process alone.
"""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from arnas.attacks.folding import attacked
from arnas.attacks.pgd import pgd
from arnas.attacks.threat import Threat
from arnas.data.splits import LabelledImages
from arnas.models.registry import build_model
from arnas.models.sharing import share_batches, share_statistics, sum_gradients
from arnas.runtime.files import save_tensors
from arnas.runtime.progress import silent
from arnas.runtime.seeds import make_generator
from arnas.training.loop import TrainingData, TrainingTask, train
from arnas.training.options import RetrainOptions
from arnas.training.registry import LossOptions, loss_options

CLASSES = 4


def network(name: str = "arnas", auxiliary: bool = False, cells: int | None = 3) -> nn.Module:
    """Return a small network with random statistics, in float64."""
    torch.manual_seed(0)
    sizes: Any = {"num_classes": CLASSES, "image_size": 8, "in_channels": 1, "channels": 4}
    model = build_model(name, cells=cells, auxiliary=auxiliary, **sizes).double()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.5, 0.5)  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
    return model


def batch(count: int) -> tuple[Tensor, Tensor]:
    """Return random images and labels."""
    generator = make_generator("sharing", count)
    x = torch.rand(count, 1, 8, 8, generator=generator, dtype=torch.float64)
    return x, torch.randint(CLASSES, (count,), generator=generator)


def found() -> dict[str, Tensor]:
    """Return outputs, gradients, statistics and attacks of batches of several sizes."""
    torch.set_num_threads(1)
    result = {}
    for count in (7, 1, 2):
        model = network()
        share_batches(share_statistics(model))
        x, y = batch(count)
        with torch.no_grad():
            result[f"{count}.eval"] = model.eval()(x)
            with attacked(model, x) as copy:
                assert copy is not model
                result[f"{count}.folded"] = copy(x)
        for norm in ("eval", "batch"):
            result[f"{count}.attack.{norm}"] = pgd(
                model,
                x,
                y,
                Threat("linf", 0.1),
                steps=3,
                generator=make_generator("attack"),
                batch_norm=norm,  # type: ignore[arg-type]
            )
        with torch.no_grad():
            result[f"{count}.parts"] = share_batches(network()).train()(x) if count > 3 else y
        x.requires_grad_()
        logits = model.train()(x)
        F.cross_entropy(logits, y).backward()
        sum_gradients(model)
        assert x.grad is not None
        result |= {f"{count}.logits": logits.detach(), f"{count}.input": x.grad}
        result |= {f"{count}.grad.{k}": p.grad for k, p in model.named_parameters()}  # type: ignore[misc]
        result |= {f"{count}.buffer.{k}": b.clone() for k, b in model.named_buffers()}
    return result


def other_models() -> dict[str, Tensor]:
    """Return logits and input gradients of models made by hand, and of norms that learn nothing."""
    result = {}
    x, y = batch(7)
    for name in ("robnet_large_v1", "preact_resnet18", "densenet121", "mobilenet_v2", "wrn28_10"):
        cells = 3 if name.startswith("robnet") else None
        model = share_batches(share_statistics(network(name, cells=cells))).train()
        pixels = x.clone().requires_grad_()
        logits = model(pixels)
        F.cross_entropy(logits, y).backward()
        assert pixels.grad is not None
        result |= {f"other.{name}.logits": logits.detach(), f"other.{name}.input": pixels.grad}
    return result


def auxiliary() -> dict[str, Tensor]:
    """Return both logits of a shared batch, and the gradients of their losses, also of a copy."""
    result = {}
    shared = share_batches(share_statistics(network(auxiliary=True))).train()
    for kind, model in (("itself", shared), ("copy", copy.deepcopy(shared))):
        for count in (7, 2):
            model.zero_grad()
            x, y = batch(count)
            both: tuple[Tensor, Tensor] = model.with_auxiliary(x)  # type: ignore[operator]
            (F.cross_entropy(both[0], y) + 0.4 * F.cross_entropy(both[1], y)).backward()
            sum_gradients(model)
            name = f"auxiliary.{kind}.{count}"
            result |= {f"{name}.{i}": logits.detach() for i, logits in enumerate(both)}
            result |= {f"{name}.{k}": p.grad.clone() for k, p in model.named_parameters()}  # type: ignore[union-attr]
    return result


class InFloat64(nn.Module):
    """A network that computes in float64 on the float32 pixels of training."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        logits: Tensor = self.inner(x.double())
        return logits


def trained(loss: LossOptions) -> dict[str, Tensor]:
    """Return weights and figures of an adversarial training whose batches split unevenly."""
    model = share_batches(share_statistics(InFloat64(network())))
    images = torch.randint(0, 17, (26, 1, 8, 8), generator=make_generator("train"))
    labels = torch.randint(CLASSES, (26,), generator=make_generator("labels"))
    part = LabelledImages(images.to(torch.uint8), labels)
    options = RetrainOptions(
        epochs=2,
        batch_size=5,
        milestones=[1],
        attack={"steps": 2, "step_size": 0.05},
        selection={"steps": 2},
    )
    task = TrainingTask(
        loss,
        TrainingData(part, LabelledImages(part.images[:9], part.labels[:9]), 16),
        options,
        Threat("linf", 0.1),
        ("sharing",),
    )
    result = train(model, task, silent)
    figures = [value for row in result.history for value in row.values()]
    weights = {f"{loss.name}.last.{k}": v.double() for k, v in result.last.weights.items()}
    return weights | {
        f"{loss.name}.history": torch.tensor(figures, dtype=torch.float64),
        f"{loss.name}.selected": torch.tensor(result.selected.epoch),
    }


def main() -> None:
    """Run as one of two ranks, or alone."""
    path, *numbers = sys.argv[1:]
    if numbers:
        rank, port = map(int, numbers)
        store = dist.TCPStore("127.0.0.1", port, 2, is_master=rank == 0)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    tensors = found() | other_models() | auxiliary()
    for loss in ("pgd", "trades", "iat", "jsigr", {"name": "infoat", "of": "latent"}):
        tensors |= trained(loss_options(loss))
    save_tensors(Path(path), tensors, {})
    if numbers:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
