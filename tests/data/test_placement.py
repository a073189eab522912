"""Where images lie: on the device if they fit, else on the host, with the same batches."""

import pytest
import torch
from torch import Tensor, nn

from arnas.attacks.threat import Threat
from arnas.data.batches import Batch, epoch_batches
from arnas.data.options import AugmentOptions
from arnas.data.placement import SHARE, fits, gather, on_device, placed
from arnas.data.splits import LabelledImages
from arnas.evaluation.predict import predict
from arnas.evaluation.transfer import transfer_examples

CPU = torch.device("cpu")
META = torch.device("meta")
EVERYTHING = AugmentOptions(crop_padding=2, flip=True, cutout=4)
on_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def images(count: int = 40) -> LabelledImages:
    generator = torch.Generator().manual_seed(1)
    stored = torch.randint(0, 256, (count, 3, 8, 8), generator=generator, dtype=torch.uint8)
    return LabelledImages(stored, torch.arange(count))


def batches(data: LabelledImages) -> list[Batch]:
    return list(epoch_batches(data, 255, 16, EVERYTHING, ("a test",)))


def test_on_the_cpu_nothing_is_moved_or_copied() -> None:
    data = images()
    found = placed(data, CPU, share=0.0)
    assert found.images is data.images
    assert found.labels is data.labels
    assert on_device(data.images, CPU) is data.images


@pytest.mark.parametrize(
    ("free", "share", "answer"),
    [(4000, 0.25, True), (3999, 0.25, False), (10_000, 0.0, False), (1000, 1.0, True)],
)
def test_a_set_may_take_its_share_of_the_free_memory(
    free: int, share: float, answer: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 10**9))
    assert fits(1000, torch.device("cuda", 0), share) is answer
    assert fits(1000, CPU, share)
    assert 0 < SHARE < 0.5, "room is left for the network and a second set"


def test_batches_are_on_the_device_of_the_labels() -> None:
    """The meta device stands for one that the images do not fit on."""
    data = images()
    there = LabelledImages(data.images, data.labels.to(META))
    picked = gather(there, torch.tensor([3, 1]))
    assert picked.images.device == picked.labels.device == META
    assert picked.images.shape == (2, 3, 8, 8)
    for batch, expected in zip(batches(there), batches(data), strict=True):
        assert batch.x.device == batch.y.device == META
        assert batch.x.shape == expected.x.shape
    assert there.images.device == CPU


def test_gathering_is_indexing() -> None:
    data, index = images(), torch.tensor([7, 0, 7, 39])
    picked = gather(data, index)
    assert torch.equal(picked.images, data.images[index])
    assert torch.equal(picked.labels, index)


@on_a_gpu
def test_predictions_and_examples_from_the_host_are_those_from_the_device() -> None:
    device, data = torch.device("cuda", torch.cuda.current_device()), images(40)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 3)).to(device).eval()
    x, threat = data.images / 255, Threat("linf", 8 / 255)
    places = (x, x.to(device))
    y, other = (predict(model, place, 16).to(CPU) for place in places)
    assert torch.equal(y, other)
    made = [
        transfer_examples(model, place, y, threat, steps=2, batch_size=16, seed=0)
        for place in places
    ]
    assert torch.equal(made[0], made[1].cpu())


@on_a_gpu
def test_batches_from_the_host_are_those_from_the_device() -> None:
    device, data = torch.device("cuda", torch.cuda.current_device()), images(200)
    near, far = placed(data, device), placed(data, device, share=0.0)
    assert near.images.device == far.labels.device == device
    assert far.images.device == CPU
    for one, other in zip(batches(near), batches(far), strict=True):
        assert one.x.device == other.x.device == device
        assert torch.equal(one.x, other.x)
        assert torch.equal(one.y, other.y)


def test_a_host_set_is_gathered_in_the_order_of_the_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """The path of images on the host, with the transfer replaced by one that can be looked into."""
    data, moved = images(), []

    def transfer(batch: Tensor, device: torch.device) -> Tensor:
        moved.append(batch.clone())
        return batch

    monkeypatch.setattr("arnas.data.placement.on_device", transfer)
    plain = AugmentOptions()
    near = list(epoch_batches(data, 255, 16, plain, ("a test",)))
    far = LabelledImages(data.images, data.labels.to(META))
    moved.clear()
    for batch, expected in zip(epoch_batches(far, 255, 16, plain, ("a test",)), near, strict=True):
        assert torch.equal(batch.x, expected.x)
    assert sum(len(batch) for batch in moved) == 32
    assert all(len(batch) == 16 for batch in moved), "batch by batch, never the whole set"
