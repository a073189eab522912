"""A record gives back the evaluation it was made from, and notices every damage."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import assessment_cases as cases
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from arnas.evaluation.record import (
    FORMAT,
    from_record,
    mixed_units,
    read_record,
    to_record,
    worst_class,
    write_record,
)
from arnas.evaluation.result import EvalResult
from arnas.evaluation.statistics import wilson
from arnas.runtime.errors import UserError
from arnas.runtime.files import SEAL, canonical_json, sha256_bytes

CURVE = {"0": wilson(9, 10), "8/255": wilson(5, 10), "1": wilson(0, 10)}


def same(first: EvalResult, second: EvalResult) -> bool:
    """Return whether all but the examples is equal, orders included."""
    for name in ("threat", "suite", "clean_accuracy", "robust_accuracy", "checks", "reliable"):
        assert getattr(first, name) == getattr(second, name), name
    assert list(first.attacks.items()) == list(second.attacks.items())
    assert list(first.curve.items()) == list(second.curve.items())
    assert first.provenance == second.provenance
    assert torch.equal(first.labels, second.labels)
    assert second.labels.dtype == torch.int64
    assert list(first.outcomes) == list(second.outcomes)
    for name, flags in first.outcomes.items():
        assert torch.equal(flags, second.outcomes[name])
        assert second.outcomes[name].dtype == torch.uint8
    return True


@pytest.mark.parametrize("failed", [True, False])
def test_a_record_gives_back_the_evaluation(tmp_path: Path, failed: bool) -> None:
    made = cases.assessment(failed=failed, curve=CURVE)
    path = tmp_path / "record.json"
    write_record(path, made)
    found = read_record(path)
    assert same(made, found)
    assert found.x_adv.shape == (0, 0, 0, 0)
    assert to_record(found) == to_record(made)


def test_the_same_evaluation_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.json", "b.json"):
        write_record(tmp_path / name, cases.assessment(curve=CURVE))
    write_record(tmp_path / "c.json", read_record(tmp_path / "a.json"))
    first, second, third = ((tmp_path / f"{name}.json").read_bytes() for name in "abc")
    assert first == second == third


def test_what_a_record_says() -> None:
    record = to_record(cases.assessment())
    assert record["format"] == FORMAT
    assert record["outcomes"] == cases.OUTCOMES
    assert record["labels"] == "0 1 2 0 1 2 0 1 2 2"
    assert record["threat"] == {
        "norm": "linf",
        "epsilon": 8 / 255,
        "text": "8/255 = 0.0313725 = 8 of 255, linf",
    }
    assert [attack["name"] for attack in record["attacks"]] == ["apgd_ce", "apgd_t", "square"]
    assert record["robust"]["correct"] == cases.ROBUST_IMAGES
    # By hand: class 0 are the images 0, 3 and 6, of which only 6 withstands everything.
    assert [(part["label"], part["robust"]["correct"]) for part in record["per_class"]] == [
        (0, 1),
        (1, 2),
        (2, 2),
    ]
    assert record["worst_class"] == 0
    assert record["reliable"] is False
    assert len(record["checks"]) == 30
    assert "x_adv" not in record


def test_of_two_worst_classes_the_first_is_named() -> None:
    outcomes = {"clean": "1111111111", "square": "0001110001"}
    labels = torch.tensor([2, 2, 2, 0, 0, 0, 1, 1, 1, 0])
    assert worst_class(cases.assessment(outcomes, labels=labels)) == 1


def test_an_evaluation_without_attacks_has_a_record(tmp_path: Path) -> None:
    made = cases.assessment({"clean": "1111111110"})
    write_record(tmp_path / "r.json", made)
    assert same(made, read_record(tmp_path / "r.json"))


def test_odd_names_and_values_survive(tmp_path: Path) -> None:
    names = {"square": 'sq"u\\are\n\u2028\x00', "apgd_ce": "ünïcode 漢字"}
    provenance = {
        "versions": {"torch": "2.13"},
        "left": None,
        "list": [1, 2.5, "x"],
        "data_sha256": 1,
    }
    made = cases.assessment(names=names, provenance=provenance)
    write_record(tmp_path / "r.json", made)
    assert same(made, read_record(tmp_path / "r.json"))


def test_half_a_letter_does_not_stop_a_record(tmp_path: Path) -> None:
    made = cases.assessment(provenance={"data": "caf\udce9"})
    write_record(tmp_path / "r.json", made)
    assert read_record(tmp_path / "r.json").provenance == {"data": "caf?"}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1, 2}, torch.zeros(1)])
def test_provenance_must_be_json(value: object) -> None:
    with pytest.raises(UserError, match="cannot be written as JSON"):
        to_record(cases.assessment(provenance={"value": value}))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("record") / "r.json"
    write_record(path, cases.assessment(curve=CURVE))
    return path.read_bytes()


@settings(
    deadline=None,
    derandomize=True,
    max_examples=150,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_every_damage_is_one_sentence(tmp_path: Path, whole: bytes, data: st.DataObject) -> None:
    """Cut, flip, insert or delete a byte anywhere: never an evaluation, never another error."""
    place = data.draw(st.integers(0, len(whole) - 1))
    kind = data.draw(st.sampled_from(["cut", "flip", "insert", "delete"]))
    value = data.draw(st.integers(1, 255))
    damaged = {
        "cut": whole[:place],
        "flip": whole[:place] + bytes([whole[place] ^ value]) + whole[place + 1 :],
        "insert": whole[:place] + bytes([value]) + whole[place:],
        "delete": whole[:place] + whole[place + 1 :],
    }[kind]
    path = tmp_path / "damaged.json"
    path.write_bytes(damaged)
    with pytest.raises(UserError) as caught:
        read_record(path)
    assert "\n" not in str(caught.value)


def sealed(path: Path, content: dict[str, Any]) -> Path:
    """Write a record with a seal that fits, as somebody would who knows the format."""
    plain = json.loads(json.dumps(content))
    seal = sha256_bytes(canonical_json(plain).encode())
    text = json.dumps({**plain, SEAL: seal}, indent=2, sort_keys=True, ensure_ascii=False)
    path.write_text(text + "\n")
    return path


def change(key: str, value: object) -> Callable[[dict[str, Any]], None]:
    def edit(record: dict[str, Any]) -> None:
        *parents, last = key.split(".")
        for parent in parents:
            record = record[int(parent) if isinstance(record, list) else parent]
        record[last] = value

    return edit


EDITS = {
    "more images": (change("n", 11), "outcomes are not those of 11 images"),
    "label missing": (change("labels", "0 1 2"), "outcomes are not those of 10 images"),
    "clean spared": (change("outcomes.clean", "2111111110"), "not those of 10 images"),
    "better robust": (
        change("robust", wilson(6, 10)._asdict()),
        "the accuracy of robust is not that of its outcomes",
    ),
    "better attack": (
        change("attacks.1.robust_accuracy", wilson(9, 10)._asdict()),
        "the accuracy of apgd_t is not that of its outcomes",
    ),
    "flattering interval": (change("robust.low", 49.0), "5 of 10 images are not 50 %"),
    "curve impossible": (change("curve.0.accuracy.correct", 11), "11 of 10 images are not 90 %"),
    "reliable": (change("reliable", True), "whether it is reliable"),
    "worst class": (change("worst_class", 1), "its worst class"),
    "classes": (change("per_class.0.robust", wilson(2, 3)._asdict()), "accuracies of its classes"),
    "one attack twice": (change("attacks.1.name", "square"), "two of its attacks have one name"),
    "attack renamed": (change("attacks.1.name", "pgd"), "not those of its attacks"),
    "outcome extra": (change("outcomes.pgd", "1111111111"), "not those of its attacks"),
    "broken too often": (change("attacks.0.broken", 3), "apgd_ce broke more images"),
    "curve twice": (change("curve.1.epsilon", "0"), "stands twice in its curve"),
    "other digit": (change("outcomes.square", "2112211103"), "holds something else"),
    "flags as list": (change("outcomes.square", [1, 0]), "holds something else"),
    "text for number": (change("n", "10"), "holds something else"),
    "truth for number": (change("worst_class", False), "holds something else"),
    "unknown key": (change("note", "x"), "holds something else"),
    "status": (change("checks.3.status", "OK"), "checks.3.status"),
    "norm": (change("threat.norm", "l3"), "impossible threat"),
    "budget": (change("threat.epsilon", 8.0), "impossible threat"),
    "budget with two lines": (change("threat.norm", "l\n2"), "impossible threat"),
    "another budget": (change("threat.epsilon", 0.1), "reads otherwise in words"),
    "unreadable curve": (change("curve.0.epsilon", "x"), "'x' is not a distance"),
    "endless images": (change("curve.0.accuracy.n", 10**30), "curve.0.accuracy.n"),
    "class of other images": (change("per_class.0.robust.n", 4), "accuracies of its classes"),
    "earlier format": (change("format", "arnas evaluation 1"), "run the evaluation again"),
    "later format": (change("format", "arnas evaluation 3"), "format 'arnas evaluation 3'"),
    "other format": (change("format", "something"), "is no record of an evaluation"),
}


@pytest.mark.parametrize("name", EDITS)
def test_contradictions_are_refused_behind_a_good_seal(tmp_path: Path, name: str) -> None:
    edit, expected = EDITS[name]
    record = to_record(cases.assessment(curve=CURVE))
    edit(record)
    path = sealed(tmp_path / "edited.json", record)
    with pytest.raises(UserError, match=expected) as caught:
        read_record(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_sealing_of_the_tests_is_that_of_records(tmp_path: Path, whole: bytes) -> None:
    record = to_record(cases.assessment(curve=CURVE))
    assert sealed(tmp_path / "sealed.json", record).read_bytes() == whole


def test_a_record_without_a_seal_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bare.json"
    path.write_text(json.dumps(to_record(cases.assessment())))
    with pytest.raises(UserError, match="own_sha256"):
        read_record(path)


def test_a_state_file_of_autoattack_is_refused_with_the_reason(tmp_path: Path) -> None:
    from pyautoattack.state import EvaluationState

    path = tmp_path / "state.json"
    state = EvaluationState({"apgd-ce"}, path)
    state.robust_flags = torch.ones(10, dtype=torch.bool)
    state.to_disk(force=True)
    assert path.exists()
    with pytest.raises(UserError, match=r"state file of AutoAttack, which names neither the model"):
        read_record(path)


@pytest.mark.parametrize("text", ["[]", "3", '"arnas"', "{}", "null"])
def test_other_json_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(UserError, match="no record of an evaluation"):
        read_record(path)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing.json"):
        with pytest.raises(UserError):
            read_record(path)


def test_a_record_in_memory_needs_no_seal() -> None:
    made = cases.assessment()
    assert same(made, from_record(to_record(made)))


@pytest.mark.parametrize(
    ("threats", "expected"),
    [
        ([("linf", 8 / 255), ("linf", "8/255"), ("linf", "8px")], None),
        ([("linf", 8 / 255), ("linf", 0.031)], "rounded value of the other"),
        ([("linf", 8 / 255), ("linf", 0.031373)], "rounded value of the other"),
        ([("linf", 8 / 255), ("linf", 4 / 255)], "different budgets"),
        ([("linf", 0.5), ("l2", 0.5)], "different norms, linf and l2"),
        ([], None),
        ([("l2", 0.5)], None),
    ],
)
def test_tables_of_mixed_threats_are_noticed(
    threats: list[tuple[str, float | str]], expected: str | None
) -> None:
    made = [cases.assessment(norm=norm, epsilon=epsilon) for norm, epsilon in threats]
    found = mixed_units(made)
    assert found is None if expected is None else expected in str(found)
    if expected and "rounded" not in expected:
        assert "rounded" not in str(found)
