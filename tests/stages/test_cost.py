"""What a run would cost: steps and bytes against a run that was made, times against a clock."""

from __future__ import annotations

import json
import math
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_run import ROOT, exit_code

from arnas.config.load import load_params
from arnas.config.params import Params
from arnas.cost import estimate as cost
from arnas.cost import networks as network_cost
from arnas.cost import stopwatch
from arnas.cost.estimate import estimate
from arnas.cost.networks import Line, Part, Speed
from arnas.cost.stopwatch import Timing, time_steps
from arnas.cost.table import Cost
from arnas.data.sizes import dataset_size
from arnas.runtime.errors import UserError

CPU = torch.device("cpu")
PRESETS = ROOT / "workflow/presets"


@pytest.fixture
def one_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every step take a second, without taking it."""
    monkeypatch.setattr(stopwatch, "time_steps", lambda work, device: Timing(1.0, 1000))


def rows_of(params: Params) -> dict[tuple[str, str], Cost]:
    rows = estimate(params, CPU, lambda text: None)
    return {(row.stage, f"{row.dataset} {row.name}".strip()): row for row in rows}


def size_of(*paths: Path) -> int:
    return sum(path.stat().st_size for path in paths)


@pytest.mark.usefixtures("one_second")
def test_the_bytes_are_those_of_a_run(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Headers and descriptions of some kilobytes come on top of the estimates."""
    monkeypatch.chdir(run)
    rows, results = rows_of(load_params(run / "params.yaml")), run / "results/golden"
    weights = results / "retrain/digits/arnas/0"
    for key, paths in {
        ("data", "digits"): [results / "data/digits/splits.safetensors"],
        ("search_adversarial", "digits dsara"): [
            results / "search/dsara/0/adversarial/state.safetensors"
        ],
        ("retrain", "digits arnas"): [
            weights / "last.safetensors",
            weights / "selected.safetensors",
        ],
        ("blackbox_examples", "digits arnas"): [
            results / "blackbox_examples/digits/arnas/0/examples.safetensors"
        ],
    }.items():
        found = size_of(*paths)
        assert rows[key].disk <= found + 1000, key
        # Names of tensors take most of a small file; momentum is there after the first step.
        assert rows[key].disk >= (found - 120_000) * 0.45, key


@pytest.mark.usefixtures("one_second")
def test_steps_and_hours_are_counted_exactly() -> None:
    params = load_params(PRESETS / "cifar10.yaml")
    rows = rows_of(params)
    search = rows["search_multiobjective", "cifar10 arnas_search"]
    # 49,000 images, half of them for the weights, in full batches of 32.
    assert search.steps == 50 * (24_500 // 32)
    assert search.runs == 3
    assert search.hours == pytest.approx(3 * search.steps / 3600)
    assert rows["search_adversarial", "cifar10 arnas_search"].steps == 0
    steps = 110 * (49_000 // 32)
    trained = rows["retrain", "cifar10 arnas"]
    assert trained.steps == steps
    # Selection after each epoch: 1,000 and 500 images in batches of 250, 10 steps, two looks.
    assert trained.step_seconds == pytest.approx(1 + 6 * 12 / (49_000 // 32))
    passes = {  # backward and forward passes of a batch, a last look included
        "fgsm": 1 + 2,
        "pgd20": 20 + 2,
        "pgd100": 100 + 2,
        "cw_inf": 30 + 2,
        "apgd_ce": 101 + 1,
        "autoattack": 101 + 9 * 101 + 9 * 200 + 5001 + 1,
    }
    selected, last = sum(passes.values()), passes["fgsm"] + passes["pgd20"]
    attacked = rows["whitebox", "cifar10 arnas"]
    looks, curve = 2 * 40, 4 * 7 * 2 * passes["apgd_ce"]
    assert attacked.steps == looks + 40 * (selected + last) + curve
    assert attacked.step_seconds == pytest.approx(1)
    undefended = rows["whitebox", "cifar10 arnas_undefended"]
    assert attacked.steps - undefended.steps == 40 * passes["autoattack"]
    # Ten networks, each shown the examples of all ten, and clean images.
    assert rows["blackbox", "cifar10"].steps == 3 * 10 * 11 * 40
    assert sum(row.stage == "retrain" for row in rows.values()) == 10
    assert rows["data", "cifar10"].disk == pytest.approx(60_000 * 3072, rel=0.01)


@pytest.mark.usefixtures("one_second")
def test_presets_are_estimated_without_their_files() -> None:
    rows = rows_of(load_params(PRESETS / "tiny_imagenet.yaml"))
    assert {stage for stage, _ in rows} == {
        "data",
        "retrain",
        "whitebox",
        "blackbox_examples",
        "blackbox",
    }


def test_steps_are_really_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each piece of work does as many steps as it is told to, through the code of the stages."""
    taken: list[tuple[str, int]] = []

    def count(work: Callable[[int], object], device: torch.device) -> Timing:
        seen = {"steps": 0}
        for module, name in ((cost, "run_stage"), (network_cost, "train")):
            real = getattr(module, name)

            def spy(what: Any, task: Any, *rest: Any, real: Any = real, name: str = name) -> Any:
                batch = 26 if name == "run_stage" else 32
                data = task.data.train
                seen["steps"] = len(data.labels) // batch
                taken.append((name, seen["steps"]))
                return real(what, task, *rest)

            monkeypatch.setattr(module, name, spy)
        work(3)
        monkeypatch.undo()
        monkeypatch.setattr(stopwatch, "time_steps", count)
        return Timing(1.0, 1)

    monkeypatch.setattr(stopwatch, "time_steps", count)
    content = load_params(PRESETS / "smoke.yaml").model_dump(mode="json")
    content["supernet"]["batch_size"] = 26
    for recipe in content["retrain"].values():
        recipe["batch_size"] = 32
    content["run"] |= {"networks": ["arnas"], "searches_on": []}
    estimate(Params.model_validate(content), CPU, lambda text: None)
    assert ("run_stage", 3) in taken
    assert ("train", 3) in taken


def test_a_step_is_timed_without_what_is_done_once() -> None:
    def work(steps: int) -> None:
        time.sleep(0.05 + 0.02 * steps)

    found = time_steps(work, CPU)
    assert 0.018 < found.seconds < 0.04
    assert found.memory > 10_000_000


def test_a_long_step_is_timed_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stopwatch, "ENOUGH_SECONDS", 0.01)
    calls: list[int] = []

    def work(steps: int) -> None:
        calls.append(steps)
        time.sleep(0.02)

    assert time_steps(work, CPU).seconds >= 0.02
    assert calls == [1, 1]
    monkeypatch.setattr(stopwatch, "SLOW_SECONDS", 0.01)
    calls.clear()
    assert time_steps(work, CPU).seconds >= 0.02
    assert calls == [1]


def test_memory_that_runs_out_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    def explode(*rest: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(stopwatch, "ENOUGH_SECONDS", 0.0)
    monkeypatch.setattr(network_cost, "train", explode)
    monkeypatch.setattr(cost, "run_stage", explode)
    rows = rows_of(load_params(PRESETS / "smoke.yaml"))
    trained = rows["retrain", "digits arnas"]
    assert trained.step_seconds is None
    assert trained.hours == 0
    assert "out of memory" in trained.note
    assert rows["whitebox", "digits arnas"].step_seconds is not None


def test_a_batch_that_does_not_fit_is_halved(monkeypatch: pytest.MonkeyPatch) -> None:
    def explode(model: Any, x: torch.Tensor, *rest: Any) -> None:
        if len(x) > 7:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried ...")

    monkeypatch.setattr(stopwatch, "time_steps", lambda work, device: (work(1), Timing(1.0, 1))[1])
    monkeypatch.setattr(network_cost, "input_gradient", explode)
    found = rows_of(load_params(PRESETS / "smoke.yaml"))["whitebox", "digits arnas"]
    batch = int(found.note.split("do not fit, measured with ")[1])
    assert 3 < batch <= 7


def test_small_batches_are_not_priced_as_whole_ones() -> None:
    """Seconds of a pass: a part for the batch and a part for each image, from two measurements."""
    line = network_cost._line(0.9, 80, 0.2, 10)
    assert line == pytest.approx((0.1, 0.01))
    assert line.seconds(80) == pytest.approx(0.9)
    parts = [Part(170, 80, 3, 2)]
    assert parts[0].batches == [80, 80, 10]
    assert parts[0].steps == 15
    speed = Speed(line, Line(0.05, 0.0), 0, 80)
    assert speed.seconds(parts) == pytest.approx(3 * (0.9 + 0.9 + 0.2) + 2 * 3 * 0.05)


@pytest.mark.parametrize(("whole", "few"), [(1.0, 2.0), (1.0, 1.0), (1.0, 0.001)])
def test_a_measurement_with_noise_gives_no_negative_time(whole: float, few: float) -> None:
    line = network_cost._line(whole, 8, few, 1)
    assert min(line) >= 0
    assert line.seconds(8) == pytest.approx(whole)


def test_an_impossible_network_is_named() -> None:
    content = load_params(PRESETS / "smoke.yaml").model_dump(mode="json")
    content["networks"]["vgg"] = {"model": "vgg16_bn"}
    content["run"] |= {"networks": ["vgg"], "searches": [], "searches_on": []}
    with pytest.raises(UserError, match="network vgg on digits: image_size is 8"):
        rows_of(Params.model_validate(content))


def test_a_measurement_cannot_take_all_memory() -> None:
    """Within it less may be had than without, where the system says what is free."""
    before = resource.getrlimit(resource.RLIMIT_DATA)
    seen = []

    def work(steps: int) -> None:
        seen.append(resource.getrlimit(resource.RLIMIT_DATA)[0])
        if len(seen) == 1:
            raise MemoryError

    assert stopwatch.time_or_reason(work, CPU) == (None, "out of memory")
    assert stopwatch.time_or_reason(work, CPU)[0] is not None
    assert resource.getrlimit(resource.RLIMIT_DATA) == before
    if Path("/proc/meminfo").exists():
        assert 0 < seen[0] < 2**50
    with pytest.raises(RuntimeError, match="another"):
        stopwatch.time_or_reason(lambda steps: (_ for _ in ()).throw(RuntimeError("another")), CPU)


@pytest.mark.usefixtures("one_second")
def test_the_command_prints_a_table_or_json(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.delenv("ARNAS_PARAMS", raising=False)
    monkeypatch.setenv("ARNAS_DEVICE", "cpu")
    assert exit_code("cost", {"preset": "smoke"}) == 0
    table = capsys.readouterr().out
    assert "Cost of the run smoke on cpu" in table
    assert "search_multiobjective" in table
    monkeypatch.setattr("sys.argv", ["arnas", "cost", "--preset", "smoke", "--json"])
    from arnas.cli import main

    with pytest.raises(SystemExit):
        main()
    content = json.loads(capsys.readouterr().out)
    assert content["hours"] == pytest.approx(sum(row["hours"] for row in content["rows"]))
    assert math.isfinite(content["disk"])
    assert exit_code("cost", {"preset": "mars"}) == 2
    assert "there is no preset 'mars': allowed are cifar10" in capsys.readouterr().err


def test_noise_has_the_shape_of_the_dataset() -> None:
    size = dataset_size("digits", load_params(ROOT / "params.yaml").data["digits"])
    assert (size.images, size.test, size.val, size.shape) == (1797, 360, 144, (1, 8, 8))
    images, labels = size.noise(12, CPU)
    assert (images.shape, images.dtype) == ((12, 1, 8, 8), torch.uint8)
    assert labels.tolist() == [*range(10), 0, 1]
