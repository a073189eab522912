"""Device and threads come from the environment, and its mistakes are named."""

from collections.abc import Iterator

import pytest
import torch

from arnas.runtime.device import configure_threads, select_device
from arnas.runtime.errors import UserError


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> int:
    """Pretend that the machine has as many GPUs as the parameter says."""
    count: int = request.param
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    return count


def with_gpus(count: int) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("gpus", [count], indirect=True)


@pytest.mark.parametrize(("gpus", "found"), [(0, "cpu"), (2, "cuda")], indirect=["gpus"])
@pytest.mark.parametrize("wanted", ["auto", None])
def test_auto_takes_a_gpu_where_there_is_one(
    gpus: int, found: str, wanted: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ARNAS_DEVICE", raising=False)
    if wanted is not None:
        monkeypatch.setenv("ARNAS_DEVICE", wanted)
    assert select_device() == torch.device(found)


@with_gpus(2)
@pytest.mark.parametrize("wanted", ["cpu", "cuda", "cuda:0", "cuda:1"])
def test_a_named_device_is_taken(gpus: int, wanted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARNAS_DEVICE", wanted)
    assert select_device() == torch.device(wanted)


@pytest.mark.parametrize(
    ("gpus", "wanted"), [(0, "cuda"), (0, "cuda:0"), (2, "cuda:2")], indirect=["gpus"]
)
def test_a_gpu_that_is_not_there_is_refused(
    gpus: int, wanted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ARNAS_DEVICE", wanted)
    with pytest.raises(UserError, match=f"'{wanted}', but this machine shows {gpus} CUDA"):
        select_device()


@with_gpus(1)
@pytest.mark.parametrize("wanted", ["", "gpu", "CPU", "mps", "cuda:x", "cuda:-1", "cuda:0:0", "0"])
def test_an_unknown_device_is_refused(
    gpus: int, wanted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ARNAS_DEVICE", wanted)
    with pytest.raises(UserError, match=f"ARNAS_DEVICE is '{wanted}': allowed are auto, cpu"):
        select_device()


@with_gpus(1)
@pytest.mark.parametrize("wanted", ["cpu:", "cuda:"])
def test_a_device_without_its_number_is_refused(
    gpus: int, wanted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ARNAS_DEVICE", wanted)
    with pytest.raises(UserError, match="ARNAS_DEVICE"):
        select_device()


@pytest.fixture
def threads() -> Iterator[None]:
    """Put the thread count back."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize(("wanted", "count"), [("2", 2), ("1", 1), (None, 1)])
def test_threads_are_set_and_returned(
    wanted: str | None, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ARNAS_THREADS", raising=False)
    torch.set_num_threads(3)
    if wanted is not None:
        monkeypatch.setenv("ARNAS_THREADS", wanted)
    assert configure_threads() == count
    assert torch.get_num_threads() == count


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("wanted", ["0", "-1", "two", "1.5", "", " "])
def test_impossible_thread_counts_are_refused(wanted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARNAS_THREADS", wanted)
    with pytest.raises(UserError, match=f"ARNAS_THREADS is '{wanted}': it must be a whole number"):
        configure_threads()
