"""`python -m arnas attack` and `compare`, as a user and as a gate in CI call them."""

from __future__ import annotations

import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from attackable import write_factory
from calls import Arnas, caller
from PIL import Image
from pyautoattack.state import EvaluationState
from torch import nn
from torchvision.models import get_model

from arnas.evaluation.checks import CHECKS
from arnas.evaluation.record import read_record
from arnas.models.loading.outside import normalisation

LINE = "attack --model mine:build --data digits.npz --threat linf:0.1 --suite pgd20,apgd_ce"


@pytest.fixture
def arnas(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Arnas:
    """Return a function that runs a command line in a folder with a model and images."""
    write_factory(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ARNAS_DEVICE", "cpu")
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    run = caller(monkeypatch, capsys)
    return run


def test_a_user_gets_a_table_a_json_and_a_page(arnas: Arnas) -> None:
    ended = arnas(
        f"{LINE} --out out/net --curve 0,0.1,1 --examples ex --junit ci/j.xml --fail-under 1 "
        "--card card/README.md"
    )
    assert ended.code in (0, None), ended.err
    assert "apgd_ce" in ended.out
    assert f"{sum(entry.phase != 'run' for entry in CHECKS.values())} checks" in ended.out
    assert "robust so far" in ended.err
    found = read_record(Path("out/net.json"))
    assert found.reliable
    assert found.n == 40
    assert 0 < found.robust < found.clean
    assert [*found.curve] == ["0", "0.1", "1"]
    percents = [point.percent for point in found.curve.values()]
    assert percents[0] == found.clean
    assert percents[1] <= found.robust
    assert percents[2] == 0
    assert [check.id for check in found.checks] == [
        name for name, entry in CHECKS.items() if entry.phase != "run"
    ]
    assert "<html" in Path("out/net.html").read_text()
    arrays = np.load("ex/examples.npz")
    assert np.abs(arrays["x_adv"] - arrays["x"]).max() <= 0.1 + 1e-6
    fallen = (arrays["outcomes"] == 0)[1:].any(0).sum()
    pictures = sorted(Path("ex").glob("*.png"))
    assert len(pictures) == fallen > 0
    place = int(pictures[0].name.split("_")[0])
    levels = np.asarray(Image.open(pictures[0])).astype(int)
    assert np.abs(levels - 255 * arrays["x_adv"][place, 0]).max() <= 0.5 + 1e-4
    suite = ElementTree.parse("ci/j.xml").getroot()
    assert len(list(suite.iter("testcase"))) == len(found.checks) + 1
    assert Path("card/README.md").read_text().startswith("---\n")
    assert not list(Path(".arnas").rglob("*.safetensors"))


def test_examples_of_other_models_are_shown_too(arnas: Arnas) -> None:
    arnas(f"{LINE} --transfer-from mine:other --transfer-from mine:build --out t")
    found = read_record(Path("t.json"))
    assert [*found.attacks][2:] == ["transfer from mine:other", "transfer from mine:build"]
    assert found.provenance["sources_equal_to_model"] == ["mine:build"]
    assert found.attacks["transfer from mine:other"].attacked > 0
    ended = arnas(f"{LINE} --transfer-from mine:narrow")
    assert ended.code == 2
    assert "mine:narrow" in ended.err


def test_the_gate(arnas: Arnas) -> None:
    ended = arnas(f"{LINE} --fail-under 99")
    assert ended.code == 1
    assert "is below 99 %" in ended.err
    ended = arnas(f"{LINE.replace('build', 'masked')} --fail-under 1 --out masked")
    assert ended.code == 1
    assert "unreliable" in ended.err
    assert "UNRELIABLE" in ended.out
    assert not read_record(Path("masked.json")).reliable


def test_the_claimed_accuracy_is_compared(arnas: Arnas) -> None:
    arnas(f"{LINE} --out a")
    clean = read_record(Path("a.json")).clean
    ended = arnas(f"{LINE} --out b --expect-clean {clean} --fail-under 1")
    assert ended.code in (0, None)
    assert "No check found a reason not to rely on this number." in ended.out.splitlines()[-1]
    ended = arnas(f"{LINE} --out c --expect-clean {clean - 30:g} --fail-under 1")
    assert ended.code == 1
    assert "Do not rely on this number: expected_accuracy failed." in ended.out
    assert read_record(Path("c.json")).provenance["expect_clean"] == clean - 30


def test_other_evaluations_have_other_default_files(arnas: Arnas) -> None:
    short = LINE.replace("pgd20,apgd_ce", "fgsm --checks none")
    for line in (
        short,
        f"{short} --n 20",
        f"{short} --seed 1",
        short.replace("build", "other"),
        short,
    ):
        arnas(line)
    assert len(list(Path("results/attacks").glob("*.json"))) == 4


def test_a_network_of_torchvision_is_attacked_behind_its_normalisation(arnas: Arnas) -> None:
    x = torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    net = get_model("resnet18", weights=None, num_classes=4).eval()
    with torch.no_grad():
        y = nn.Sequential(normalisation("imagenet", 3), net)(x).argmax(1)
    np.savez("colour.npz", x=x.numpy(), y=y.numpy())
    torch.save({"ema": net.state_dict(), "model": get_model("resnet34").state_dict()}, "w.pt")
    ended = arnas(
        "attack --model torchvision:resnet18 --weights w.pt --weights-key ema --num-classes 4 "
        "--normalise imagenet --data colour.npz --threat linf:1/255 --suite fgsm --checks none "
        "--out tv"
    )
    assert ended.code in (0, None), ended.err
    found = read_record(Path("tv.json"))
    assert found.clean == 100
    assert found.provenance["mean"] == pytest.approx([0.485, 0.456, 0.406])
    assert found.provenance["normalise"] == "imagenet"


def test_two_models_are_compared(arnas: Arnas) -> None:
    arnas(f"{LINE} --out a")
    arnas(f"{LINE.replace('0.1', '0.02')} --out b")
    arnas(f"{LINE.replace('build', 'masked')} --out c")
    ended = arnas("compare a.json c.json")
    assert ended.code in (0, None)
    assert "McNemar" in ended.out
    assert "unreliable" in ended.out
    ended = arnas("compare a.json b.json")
    assert ended.code == 2
    assert "epsilon" in ended.err or "budget" in ended.err or "threat" in ended.err
    ended = arnas("compare a.json b.json c.json")
    assert ended.code in (0, None)
    assert "different budgets" in ended.out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--threat linf:8", ["8/255"]),
        ("--threat linf", ["linf:8/255"]),
        ("--threat l0:3", ["allowed are linf, l2, l1"]),
        ("--suite pgd0", ["pgd0", "standard, fast, rand"]),
        ("--suite pgd20,pgd20", ["pgd20,pgd20", "once"]),
        ("--n 0", ["count is 0"]),
        ("--n 1000", ["1000", "40"]),
        ("--batch-size 0", ["batch_size is 0"]),
        ("--eot 0", ["expectation is 0"]),
        ("--curve 0,wide", ["wide", "8/255"]),
        ("--model mine:nothing", ["nothing"]),
        ("--model mine:not_a_model", ["not_a_model"]),
        ("--model resnet18", ["weights"]),
        ("--model away.safetensors", ["away.safetensors"]),
        ("--data away.npz", ["away.npz"]),
        ("--data mine.py", ["mine.py"]),
        ("--fail-under 0.4", ["40"]),
        ("--corruptions", ["32"]),
        ("--split moon", ["moon"]),
        ("--out .", ["out is '.'", "results/mine"]),
        (f"--out {'a' * 300}", ["300 characters", "200"]),
        ("--normalise mars", ["mars", "cifar10", "MEAN:STD"]),
        ("--normalise 0.5,0.5:0.2", ["2 channels", "have 1"]),
        ("--model torchvision:resnet18", ["torchvision:resnet18", "--weights"]),
        ("--model torchvision:resnet19 --weights digits.npz", ["resnet19"]),
        ("--classes away.txt", ["away.txt"]),
    ],
)
def test_a_mistake_is_one_sentence(arnas: Arnas, options: str, words: list[str]) -> None:
    words_of_line = dict(zip(LINE.split()[1::2], LINE.split()[2::2], strict=True))
    given = options.split()
    words_of_line |= {given[0]: " ".join(given[1:])}
    ended = arnas("attack " + " ".join(f"{key} {value}" for key, value in words_of_line.items()))
    assert ended.code == 2, ended.err
    sentences = [line for line in ended.err.splitlines() if not line.startswith("[attack]")]
    assert len(sentences) == 1, ended.err
    assert sentences[0].startswith("error: ")
    for word in words:
        assert word in sentences[0]
    assert not list(Path().glob("results/**/*.json"))


def test_a_state_of_autoattack_is_refused(arnas: Arnas) -> None:
    EvaluationState({"apgd-ce"}, path=Path("aa.json")).to_disk(force=True)
    arnas(f"{LINE} --out a")
    ended = arnas("compare a.json aa.json")
    assert ended.code == 2
    assert "AutoAttack" in ended.err
