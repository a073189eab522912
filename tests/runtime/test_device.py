"""Devices and threads come from the environment, and its mistakes are named."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from arnas.runtime.device import Devices, configure_determinism, configure_threads, held_devices
from arnas.runtime.errors import UserError


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, tmp_path: Path) -> int:
    """Pretend that the machine has as many GPUs as the parameter says."""
    count: int = request.param
    names = ("CUDA_VISIBLE_DEVICES", "ARNAS_DEVICE", "ARNAS_GPUS", "ARNAS_RANKS", "SLURM_JOB_ID")
    for name in names:
        monkeypatch.setenv(name, "")  # so that it is put back, whatever the code sets
        monkeypatch.delenv(name)
    monkeypatch.setenv("ARNAS_LEASE_DIR", str(tmp_path))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    return count


CPU = Devices((), (torch.device("cpu"),))


def with_gpus(count: int) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("gpus", [count], indirect=True)


def held(most: int | None = None) -> Devices:
    with held_devices(print, most) as devices:
        return devices


def indices(devices: Devices) -> list[int | None]:
    assert all(device.type == "cuda" for device in devices.all)
    return [device.index for device in devices.all]


@with_gpus(0)
def test_no_gpu_means_the_cpu(gpus: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARNAS_GPUS", "4")
    assert held() == CPU
    assert held().text == "cpu"


@with_gpus(2)
def test_auto_takes_a_gpu_where_there_is_one_and_the_next_job_another(
    gpus: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with held_devices(print) as first:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES")  # a job has an environment of its own
        with held_devices(print) as second:
            assert (first.gpus, second.gpus) == (("0",), ("1",))
            # CUDA that was looked at before still counts as it did then.
            assert indices(first) + indices(second) == [0, 1]


@with_gpus(3)
@pytest.mark.parametrize(
    ("wanted", "names"), [("cuda", ("0",)), ("cuda:0", ("0",)), ("cuda:2", ("2",))]
)
def test_a_named_device_is_taken(
    gpus: int, wanted: str, names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ARNAS_DEVICE", wanted)
    assert held().gpus == names


@with_gpus(2)
def test_the_cpu_by_name_leaves_the_gpus_alone(gpus: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARNAS_DEVICE", "cpu")
    assert held() == CPU
    monkeypatch.setenv("ARNAS_RANKS", "3")
    assert held().text == "cpu, 3 ranks"
    assert len(held(most=1).all) == 1


@with_gpus(3)
def test_a_job_gets_as_many_as_it_asks_for_and_can_use(
    gpus: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ARNAS_GPUS", "2")
    assert held().gpus == ("0", "1")
    assert held(most=1).gpus == ("0",)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert held(most=0) == CPU
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,MIG-x,1")
    assert held().gpus == ("2", "MIG-x")


@with_gpus(1)
def test_only_the_devices_held_are_visible_afterwards(
    gpus: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,GPU-y")
    with held_devices(print) as first:
        assert first.gpus == ("5",)
        assert indices(first) == [0]
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,GPU-y")
        with held_devices(print) as second:
            assert second.gpus == ("GPU-y",)
            assert indices(second) == [0]


@with_gpus(2)
def test_the_assignment_of_a_cluster_is_taken_as_it_is(
    gpus: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    monkeypatch.setenv("ARNAS_GPUS", "2")
    with held_devices(print) as first, held_devices(print) as second:
        assert first.gpus == second.gpus == ("0", "1")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("gpus", "wanted"), [(0, "cuda"), (0, "cuda:0"), (2, "cuda:2")], indirect=["gpus"]
)
def test_a_gpu_that_is_not_there_is_refused(
    gpus: int, wanted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ARNAS_DEVICE", wanted)
    with pytest.raises(UserError, match=f"'{wanted}', but this machine shows {gpus} CUDA"):
        held()


@with_gpus(1)
@pytest.mark.parametrize(
    "wanted", ["", "gpu", "CPU", "mps", "cuda:x", "cuda:-1", "cuda:0:0", "0", "cpu:", "cuda:"]
)
def test_an_unknown_device_is_refused(
    gpus: int, wanted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ARNAS_DEVICE", wanted)
    with pytest.raises(UserError, match=f"ARNAS_DEVICE is '{wanted}': allowed are auto, cpu"):
        held()


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


@pytest.fixture
def determinism() -> Iterator[None]:
    yield
    torch.set_deterministic_debug_mode("default")
    torch.backends.cudnn.deterministic = False


@pytest.mark.usefixtures("determinism")
@pytest.mark.parametrize(("wanted", "expected"), [(None, False), ("0", False), ("1", True)])
def test_deterministic_algorithms_are_asked_for(
    wanted: str | None, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "so that it is removed again")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    monkeypatch.delenv("ARNAS_DETERMINISTIC", raising=False)
    torch.set_deterministic_debug_mode("default" if expected else "error")
    if wanted is not None:
        monkeypatch.setenv("ARNAS_DETERMINISTIC", wanted)
    assert configure_determinism() is expected
    assert torch.are_deterministic_algorithms_enabled() is expected
    assert torch.backends.cudnn.deterministic is expected
    assert ("CUBLAS_WORKSPACE_CONFIG" in os.environ) is expected


def test_determinism_is_on_or_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARNAS_DETERMINISTIC", "yes")
    with pytest.raises(UserError, match="ARNAS_DETERMINISTIC is 'yes': allowed are 0 and 1"):
        configure_determinism()
