"""The stages of evaluation on networks made in a moment: what they store, and their verdicts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml
from torch import Tensor, nn

from arnas.attacks.oracle import AttackOutput
from arnas.config.load import load_params
from arnas.data.splits import Splits, load_splits, save_splits
from arnas.evaluation.checks import CHECKS
from arnas.evaluation.predict import predict
from arnas.evaluation.record import from_record
from arnas.evaluation.result import ROBUST
from arnas.models.registry import ModelSpec
from arnas.models.weight_files import save_weights
from arnas.pipeline.attack import EvalConfig, assess, load_target
from arnas.pipeline.jobs import Job, find_job
from arnas.pipeline.runner import run_command
from arnas.reporting.run.page import accuracies
from arnas.reporting.run.tables import whitebox_rows
from arnas.runtime.files import load_tensors, save_tensors
from arnas.runtime.seeds import seeded
from arnas.stages import blackbox, data, whitebox

ROOT = Path(__file__).parents[2]
CELL = {"dataset": "digits", "network": "arnas", "seed": "0"}
TEST, SELECTION = 24, 20


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A folder with the digits cut; the test writes what it changes with `use`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ARNAS_PARAMS", raising=False)
    monkeypatch.setenv("ARNAS_DEVICE", "cpu")
    content: dict[str, Any] = yaml.safe_load((ROOT / "workflow/presets/smoke.yaml").read_text())
    content["data"]["digits"] |= {"test_images": TEST, "val_images": SELECTION}
    content["run"] |= {"searches": [], "networks": ["arnas", "arnas_undefended"]}
    content["whitebox"] |= {"autoattack_images": 2}
    del content["reproduction"]  # whose attacks some tests leave out
    use(content)
    run_command("data", {"dataset": "digits"}, data.run)
    return content


def use(content: dict[str, Any]) -> None:
    Path("params.yaml").write_text(yaml.safe_dump(content))


def splits() -> Splits:
    return load_splits(Path("results/smoke/data/digits/splits.safetensors"))


def job(command: str, axes: dict[str, str]) -> Job:
    return find_job(command, axes, load_params(Path("params.yaml")))


def pixels_to_attack() -> tuple[Tensor, Tensor]:
    """Return the test images and their labels."""
    images, y = splits().subset("test")
    return splits().pixels(images), y


def quick_network(seed: int) -> tuple[nn.Module, dict[str, Any]]:
    """Return random features with a classifier fitted to them, and the model's description."""
    described = ModelSpec(
        "arnas", num_classes=10, image_size=8, in_channels=1, channels=4, cells=3, space=None
    )
    with seeded("a test", seed):
        model = described.build().eval()
    images, y = splits().subset("train", "search_val")
    features: list[Tensor] = []
    hook = model.classifier.register_forward_pre_hook(lambda _, given: features.append(given[0]))
    with torch.no_grad():
        model(splits().pixels(images))
        hook.remove()
        scale = features[0].std(0) + 1e-6
        known = torch.cat([features[0] / scale, torch.ones(len(y), 1)], dim=1)
        wanted = nn.functional.one_hot(y, 10).float() - 0.1
        solved = torch.linalg.lstsq(known, 10 * wanted).solution
        model.classifier.weight.copy_(solved[:-1].T / scale)
        model.classifier.bias.copy_(solved[-1])
    return model, described


def store(axes: dict[str, str], seed: int, **changes: Any) -> nn.Module:
    """Store a quick network as both checkpoints of a cell and return it."""
    model, described = quick_network(seed)
    images, y = splits().subset("val")
    right = predict(model, splits().pixels(images), 256) == y
    paths = job("retrain", axes).outputs
    loss = load_params(Path("params.yaml")).networks[axes["network"]].loss.name
    for key in ("selected", "last"):
        provenance = {
            "dataset": axes["dataset"],
            "network": axes["network"],
            "seed": int(axes["seed"]),
            "loss": loss,
            "checkpoint": key,
            "epoch": 2,
            "val_clean": 100 * float(right.float().mean()),
            **changes.get(key, {}),
        }
        save_weights(paths[key], model, described, provenance)
    return model


def attacked(axes: dict[str, str] = CELL) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Run the stage `whitebox` and return what it stored."""
    run_command("whitebox", axes, whitebox.run)
    tensors, description = load_tensors(job("whitebox", axes).outputs["outcomes"])
    return tensors, description


def statuses(description: dict[str, Any]) -> dict[str, str]:
    return {check["id"]: check["status"] for check in description["checks"]}


# White box


def test_a_plain_network_passes_every_cheap_check(settings: dict[str, Any]) -> None:
    model = store(CELL, 0)
    attacks = ["fgsm", "pgd20", "pgd100", "cw_inf"]
    settings["whitebox"] |= {"attacks": attacks, "last_attacks": []}
    settings["threat"]["digits"]["epsilon"] = 0.02
    use(settings)
    tensors, description = attacked()
    found = statuses(description)
    cheap = {n for n, c in CHECKS.items() if c.tier == "cheap" and c.phase in ("model", "attacks")}
    assert set(found) == {*cheap, "unbounded_attack", "selection_not_test"}
    assert "FAIL" not in found.values()
    for name in ("iterative_not_weaker", "more_steps_not_weaker", "margin_not_stronger"):
        assert found[name] == "PASS"
    x, y = pixels_to_attack()
    clean = predict(model, x, 256) == y
    assert int(clean.sum()) > TEST // 2
    assert torch.equal(tensors["selected.clean"].bool(), clean)
    assert tensors["curve"].shape == (3, 20)
    assert torch.equal(tensors["curve"][0].bool(), clean[:20])
    assert int(tensors["curve"][2].sum()) == 0
    assert [point["budget"] for point in description["epsilon_curve"]] == [0, 0.1, 1]
    assert "git" not in description["evaluations"]["selected"]["provenance"]


def test_the_command_gives_the_outcomes_of_the_table(settings: dict[str, Any]) -> None:
    """Image by image, from the network's file and the file of the splits.

    For AutoAttack and a trained network, table_against_command.py compares them.
    """
    store(CELL, 0)
    settings["whitebox"] |= {"attacks": ["fgsm", "pgd20", "cw_inf"]}
    settings["whitebox"] |= {"last_attacks": [], "checks": "none"}
    settings["threat"]["digits"]["epsilon"] = 0.02
    use(settings)
    tensors, description = attacked()
    line = EvalConfig(
        model=str(job("retrain", CELL).outputs["selected"]),
        data="results/smoke/data/digits/splits.safetensors",
        threat="linf:0.02",
        suite="fgsm,pgd20,cw_inf",
        combine="each",
        checks="none",
        seed=0,
    )
    with assess(load_target(line)) as each:
        assert each is not None
    for name, outcome in each.outcomes.items():
        assert torch.equal(outcome == ROBUST, tensors[f"selected.{name}"].bool())
    assert from_record(description["evaluations"]["selected"]).attacks == each.attacks
    assert 0 < int((each.outcomes["pgd20"] == ROBUST).sum()) < TEST


def test_a_checkpoint_chosen_on_other_images_fails(settings: dict[str, Any]) -> None:
    store(CELL, 0, selected={"val_clean": 12.5})
    settings["whitebox"] |= {"attacks": [], "last_attacks": [], "checks": "none"}
    use(settings)
    _, description = attacked()
    assert statuses(description)["selection_not_test"] == "FAIL"
    (figure,) = (c["evidence"] for c in description["checks"] if c["id"] == "selection_not_test")
    assert "noted when it was chosen 12.50 %" in figure


@pytest.mark.parametrize(("shared", "status"), [(False, "WARN"), (True, "FAIL")])
def test_test_images_in_other_parts_are_noticed(
    shared: bool, status: str, settings: dict[str, Any]
) -> None:
    found = splits()
    test, train = found.indices["test"], found.indices["train"]
    if shared:
        found.indices["train"][0] = test[3]
    else:
        found.images[train[0]] = found.images[test[3]]
    Path("results/smoke/data/digits/manifest.json").unlink()  # which knows the right ones
    save_splits(Path("results/smoke/data/digits/splits.safetensors"), found)
    store(CELL, 0)
    settings["whitebox"] |= {"attacks": [], "last_attacks": [], "checks": "none"}
    use(settings)
    assert statuses(attacked()[1])["selection_not_test"] == status


@pytest.mark.parametrize("epoch", [2, 3])
def test_the_last_checkpoint_is_attacked_unless_it_is_the_selected_one(
    epoch: int, settings: dict[str, Any]
) -> None:
    """Its weights are others here, which shows whether they were looked at."""
    store(CELL, 0, last={"epoch": epoch})
    path = job("retrain", CELL).outputs["last"]
    tensors, description = load_tensors(path)
    for name, value in tensors.items():
        if name.startswith("classifier"):
            tensors[name] = torch.zeros_like(value)
    save_tensors(path, tensors, description)
    settings["whitebox"] |= {"attacks": ["fgsm"], "last_attacks": ["fgsm"], "checks": "none"}
    use(settings)
    found, _ = attacked()
    _, y = pixels_to_attack()
    first = (y == 0).to(torch.uint8)
    assert not torch.equal(found["selected.fgsm"], first)
    expected = found["selected.fgsm"] if epoch == 2 else first
    assert torch.equal(found["last.fgsm"], expected), "equal logits mean the first class"


def test_autoattack_is_kept_to_defended_networks_and_to_some_datasets(
    settings: dict[str, Any],
) -> None:
    attacks = {"attacks": ["autoattack", "fgsm"], "last_attacks": [], "checks": "none"}
    attacks |= {"epsilon_curve": [0]}  # within which nothing more is broken
    plain = {"selected.clean", "selected.fgsm", "last.clean", "curve"}
    for network, datasets, more in (
        ("arnas", None, {"selected.autoattack"}),
        ("arnas_undefended", None, set()),
        ("arnas", [], set()),
    ):
        settings["whitebox"] |= attacks | {"autoattack_datasets": datasets}
        use(settings)
        axes = {**CELL, "network": network}
        store(axes, 0)
        assert set(attacked(axes)[0]) == plain | more


def test_what_the_curve_breaks_is_in_the_union(settings: dict[str, Any]) -> None:
    attacks = {"attacks": ["fgsm"], "last_attacks": [], "checks": "none"}
    settings["whitebox"] |= attacks | {"epsilon_curve": [0, 0.05, 1], "curve_images": 200}
    settings["threat"]["digits"]["epsilon"] = 0.05
    use(settings)
    store(CELL, 0)
    tensors, _ = attacked()
    union = torch.stack([v for k, v in tensors.items() if k.startswith("selected.")]).amin(0)
    assert torch.equal(union, tensors["curve"][1])
    assert 0 < union.sum() < tensors["selected.fgsm"].sum()


def test_an_attack_of_the_users_own_is_named_by_its_reference(settings: dict[str, Any]) -> None:
    """In the outcomes, the table and the report, between the attacks of the registry and all."""
    Path("grey_attack.py").write_text(
        "def darker(model, x, y, threat, generator=None):\n"
        "    return (x - threat.epsilon).clamp(0, 1)\n"
    )
    own = "grey_attack:darker"
    settings["whitebox"] |= {"attacks": [own, "fgsm"], "last_attacks": [own], "checks": "none"}
    settings["whitebox"]["epsilon_curve"] = [0]
    use(settings)
    model = store(CELL, 0)
    tensors, description = attacked()
    x, y = pixels_to_attack()
    robust = [predict(model, images, 256) == y for images in (x, (x - 0.1).clamp(0, 1))]
    assert load_params(Path("params.yaml")).threat["digits"].threat().epsilon == 0.1
    assert torch.equal(tensors[f"selected.{own}"], (robust[0] & robust[1]).to(torch.uint8))
    assert own in description["attacks"]
    assert Path("grey_attack.py") in job("whitebox", CELL).inputs.values()
    table = pd.DataFrame(whitebox_rows(tensors, description)).assign(status="ok")
    selected = table[table["checkpoint"] == "selected"]
    assert list(selected["attack"]) == ["clean", "fgsm", own, "union"]
    assert accuracies(table)[0]["attacks"] == ["clean", "FGSM", own, "union"]


@pytest.mark.parametrize(("last", "checked"), [(7, False), (8, True)])
def test_the_end_of_an_l2_curve_is_the_diagonal_of_the_box(
    last: int, checked: bool, settings: dict[str, Any]
) -> None:
    """Which is 8 for 64 pixels."""
    settings["threat"]["digits"] |= {"norm": "l2"}
    settings["whitebox"] |= {"attacks": [], "checks": "none", "epsilon_curve": [0.5, last]}
    use(settings)
    store(CELL, 0)
    assert ("unbounded_attack" in statuses(attacked(CELL)[1])) == checked


# Black box


def test_examples_are_stored_with_what_the_network_says_of_them(settings: dict[str, Any]) -> None:
    model = store(CELL, 0)
    settings["blackbox"] |= {"square_images": 9, "square_queries": 5, "steps": 3}
    use(settings)
    run_command("blackbox_examples", CELL, blackbox.make_examples)
    found, description = load_tensors(job("blackbox_examples", CELL).outputs["examples"])
    x, y = pixels_to_attack()
    assert torch.equal(found["labels"], y)
    assert float((found["x_adv"] - x).abs().max()) <= 0.1 + 1e-6
    assert 0 <= float(found["x_adv"].min()) <= float(found["x_adv"].max()) <= 1
    for kind, images in (("clean", x), ("adversarial", found["x_adv"])):
        with torch.no_grad():
            shares = model(images).softmax(1)
        assert torch.equal(found[f"{kind}.predicted"], shares.argmax(1))
        torch.testing.assert_close(found[f"{kind}.confidence"], shares.amax(1))
    right = found["clean.predicted"] == y
    assert found["square"].shape == (9,)
    assert bool((found["square"].bool() <= right[:9]).all())
    worse = int((right & (found["adversarial.predicted"] == y)).sum())
    assert worse < int(right.sum())
    assert (description["network"], description["loss"], description["seed"]) == ("arnas", "pgd", 0)
    assert description["settings"]["steps"] == 3
    (check,) = description["checks"]
    assert (check["id"], check["status"]) == ("blackbox_ball_and_box", "PASS")
    assert "examples exceed epsilon by 0.000000" in check["evidence"]


def test_square_that_leaves_the_ball_is_seen(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    store(CELL, 0)
    use(settings)

    def far(oracle: Any, x: Tensor, *rest: Any, **more: Any) -> AttackOutput:
        return AttackOutput(torch.ones(len(x), dtype=torch.bool), 1 - x)

    monkeypatch.setattr("arnas.attacks.square.square_batch", far)
    run_command("blackbox_examples", CELL, blackbox.make_examples)
    _, description = load_tensors(job("blackbox_examples", CELL).outputs["examples"])
    assert description["checks"][0]["status"] == "FAIL"


def verdict(number: int) -> dict[str, str]:
    return {"id": f"made {number}", "status": "PASS", "evidence": "", "advice": ""}


def test_every_network_is_shown_the_examples_of_its_seed(settings: dict[str, Any]) -> None:
    """Examples made by hand, of four kinds: the image, white, black, and the image upside down."""
    settings["run"] |= {"seeds": [0, 3]}
    use(settings)
    x, y = pixels_to_attack()
    kinds = [x, torch.ones_like(x), torch.zeros_like(x), x.flip(2)]
    shown: dict[tuple[str, str], Tensor] = {}
    models: dict[tuple[str, str], nn.Module] = {}
    squares: dict[tuple[str, str], Tensor] = {}
    for number, (network, seed) in enumerate(
        (network, seed) for network in ("arnas", "arnas_undefended") for seed in ("0", "3")
    ):
        axes = {"dataset": "digits", "network": network, "seed": seed}
        models[network, seed] = store(axes, number)
        shown[network, seed] = kinds[number]
        squares[network, seed] = (torch.arange(7) < number).to(torch.uint8)
        save_tensors(
            job("blackbox_examples", axes).outputs["examples"],
            {
                "x_adv": kinds[number],
                "square": squares[network, seed],
                "labels": y,
                **{f"{kind}.predicted": y for kind in ("clean", "adversarial")},
                **{f"{kind}.confidence": y / 10 for kind in ("clean", "adversarial")},
            },
            {
                "dataset": {"name": "digits"},
                "network": network,
                "seed": int(seed),
                "loss": "pgd",
                "threat": {"norm": "linf", "epsilon": 0.1},
                "settings": {"steps": 3},
                "checks": [verdict(number)],
            },
        )
    run_command("blackbox", {"dataset": "digits"}, blackbox.score)
    found, description = load_tensors(job("blackbox", {"dataset": "digits"}).outputs["outcomes"])
    expected = {}
    for (network, seed), model in models.items():
        clean = predict(model, x, 256) == y
        for source in ("arnas", "arnas_undefended"):
            stands = clean & (predict(model, shown[source, seed], 256) == y)
            expected[f"{seed}.{network}.{source}"] = stands.tolist()
        expected[f"{seed}.{network}.square"] = squares[network, seed].bool().tolist()
    assert {name: flags.bool().tolist() for name, flags in found.items()} == expected
    assert len({str(value) for value in expected.values()}) > 8, "the case must tell cells apart"
    assert description["networks"] == ["arnas", "arnas_undefended"]
    assert description["losses"] == {"arnas": "pgd", "arnas_undefended": "natural"}
    assert description["threat"] == {"norm": "linf", "epsilon": 0.1}
    assert description["dataset"] == "digits"
    assert description["checks"] == {
        "0.arnas": [verdict(0)],
        "3.arnas": [verdict(1)],
        "0.arnas_undefended": [verdict(2)],
        "3.arnas_undefended": [verdict(3)],
    }
