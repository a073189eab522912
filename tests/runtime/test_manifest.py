"""The fingerprint identifies what went in, and nothing else."""

import hashlib
from pathlib import Path

import pytest
import torch

from arnas.runtime.errors import UserError
from arnas.runtime.files import digest, write_sealed
from arnas.runtime.manifest import environment, fingerprint, manifest_or_empty, read_manifest

PARAMS = {"retrain.epochs": 10, "data.digits": {"split": "stratified", "split_seed": 0}}
INPUTS = {"results/a/splits.safetensors": "aa", "results/a/genotype.json": "bb"}
FINGERPRINT = fingerprint(PARAMS, INPUTS, 0, 1)


def test_the_fingerprint_is_a_sha256_of_canonical_json() -> None:
    text = (
        '{"inputs":{"results/a/genotype.json":"bb","results/a/splits.safetensors":"aa"},'
        '"params":{"data.digits":{"split":"stratified","split_seed":0},"retrain.epochs":10},'
        '"seed":0,"version":1}'
    )
    assert hashlib.sha256(text.encode()).hexdigest() == FINGERPRINT


@pytest.mark.parametrize(
    ("params", "inputs", "seed", "version"),
    [
        ({**PARAMS, "retrain.epochs": 11}, INPUTS, 0, 1),
        ({**PARAMS, "retrain.epochs": 10.0}, INPUTS, 0, 1),
        ({**PARAMS, "retrain.epochs": "10"}, INPUTS, 0, 1),
        ({**PARAMS, "retrain.more": None}, INPUTS, 0, 1),
        ({**PARAMS, "data.digits": {"split": "stratified", "split_seed": 1}}, INPUTS, 0, 1),
        (PARAMS, {**INPUTS, "results/a/genotype.json": "bc"}, 0, 1),
        (PARAMS, {"results/a/splits.safetensors": "aa"}, 0, 1),
        (PARAMS, dict(zip(INPUTS, reversed(INPUTS.values()), strict=True)), 0, 1),
        (PARAMS, INPUTS, 1, 1),
        (PARAMS, INPUTS, None, 1),
        (PARAMS, INPUTS, 0, 2),
        (PARAMS, INPUTS, 1, 0),
        (INPUTS, PARAMS, 0, 1),
    ],
)
def test_every_component_changes_it(
    params: dict[str, object], inputs: dict[str, str], seed: int | None, version: int
) -> None:
    assert fingerprint(params, inputs, seed, version) != FINGERPRINT


def test_the_order_of_keys_does_not() -> None:
    nested = {"split_seed": 0, "split": "stratified"}
    params = {"data.digits": nested, "retrain.epochs": 10}
    inputs = dict(reversed(INPUTS.items()))
    assert fingerprint(params, inputs, 0, 1) == FINGERPRINT


def test_the_order_of_lists_does() -> None:
    assert digest([1, 2]) != digest([2, 1])


def test_a_list_is_a_tuple_is_a_list() -> None:
    """Settings come from YAML as lists and from option models as tuples."""
    assert digest({"seeds": (0, 1)}) == digest({"seeds": [0, 1]})


def test_the_environment_is_on_record() -> None:
    record = environment("cpu", 1)
    assert record["packages"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert (record["device"], record["threads"]) == ("cpu", 1)
    told = {"packages", "python", "git", "device", "threads", "deterministic", "compiled"}
    assert record.keys() == told


def test_outside_git_there_is_no_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert environment("cpu", 1)["git"] is None


def test_without_git_there_is_no_revision(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert environment("cpu", 1)["git"] is None


def test_a_manifest_comes_back(tmp_path: Path) -> None:
    content = {"fingerprint": FINGERPRINT, "inputs": INPUTS, "seed": None, "seconds": 1.5}
    write_sealed(tmp_path / "manifest.json", content)
    assert read_manifest(tmp_path / "manifest.json") == content


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "is missing"),
        ('{"fingerprint": ', "not readable JSON"),
        ("[]", "is no manifest"),
        ("{}", "is damaged or was edited"),
    ],
)
def test_a_missing_or_damaged_manifest_is_a_users_error(
    text: str | None, words: str, tmp_path: Path
) -> None:
    path = tmp_path / "manifest.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=words):
        read_manifest(path)
    assert manifest_or_empty(path) == {}
