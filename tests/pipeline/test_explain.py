"""What would run and why; `tests/workflow/test_hazards.py` compares it with Snakemake."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from fake_run import make, make_all, record

from arnas.config.load import check_params
from arnas.config.params import Params
from arnas.pipeline.explain import explain
from arnas.pipeline.jobs import Instance, instances
from arnas.pipeline.snakemake import put_in_order
from arnas.runtime.errors import UserError
from arnas.runtime.manifest import read_manifest

SMOKE: dict[str, Any] = yaml.safe_load(
    (Path(__file__).parents[2] / "workflow/presets/smoke.yaml").read_text()
)


@pytest.fixture
def params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    """Settings of a run that is complete, in the present folder."""
    monkeypatch.chdir(tmp_path)
    found = check_params(SMOKE, "smoke")
    make_all(found)
    return found


def named(title: str, params: Params) -> Instance:
    return next(i for i in instances(params) if i.title == title)


def reasons(target: str, params: Params) -> dict[str, str]:
    return {rerun.instance.title: rerun.reason for rerun in explain(target, params)}


def test_nothing_runs_for_what_is_current(params: Params) -> None:
    for target in ("report", "retrain", "retrain digits/arnas/0", "results/smoke/report.html"):
        assert reasons(target, params) == {}


def test_only_the_chain_to_the_target_counts(params: Params) -> None:
    content = yaml.safe_load(yaml.safe_dump(SMOKE))
    content["searches"]["dsara"]["derive"]["epoch"] = 1
    changed = check_params(content, "changed")
    assert reasons("retrain digits/arnas/0", changed) == {}
    assert reasons("results/smoke/retrain/digits/dsara/0/last.safetensors", changed) == {
        "derive dsara/0": 'searches.dsara.derive.epoch was "last", is 1',
        "retrain digits/dsara/0": "derive dsara/0 runs",
    }
    assert list(reasons("whitebox", changed)) == [
        "derive dsara/0",
        "retrain digits/dsara/0",
        "whitebox digits/dsara/0",
    ]


def test_a_missing_output_counts_where_somebody_reads_it(params: Params) -> None:
    path = named("retrain digits/arnas/0", params).outputs["last"]
    path.unlink()
    assert reasons("report", params) == {}, "as Snakemake has it: nothing that runs reads it"
    assert reasons(str(path), params) == {"retrain digits/arnas/0": f"{path} is missing"}
    record(named("whitebox digits/arnas/0", params), version=0)
    found = reasons("whitebox", params)
    assert found["retrain digits/arnas/0"] == (
        f"{path} is missing, which whitebox digits/arnas/0 reads"
    )
    assert found["whitebox digits/arnas/0"].startswith("the stage's version was 0, is ")


def test_what_is_made_anew_for_one_reader_leads_to_all_others(params: Params) -> None:
    named("data digits", params).outputs["splits"].unlink()
    record(named("derive dsara/0", params), version=0)
    assert "data digits" not in reasons("derive", params), "which derive does not read"
    found = reasons("report", params)
    assert found["data digits"].endswith("is missing, which retrain digits/dsara/0 reads")
    assert found["search_adversarial dsara/0"] == "data digits runs"
    assert set(found) == {instance.title for instance in instances(params)}


def test_an_altered_input_is_named(params: Params) -> None:
    splits = named("data digits", params).outputs["splits"]
    later = time.time() + 60
    os.utime(splits, (later, later))
    assert reasons("derive", params) == {}, "a new time alone is no change"
    splits.write_text("forged")
    os.utime(splits, (later, later))
    assert reasons("search_adversarial", params) == {
        "search_adversarial dsara/0": f"{splits} was altered after its stage had written it"
    }


def test_an_altered_table_is_named(params: Params) -> None:
    """No manifest lies beside it."""
    table = named("tables", params).outputs["whitebox_csv"]
    table.write_text("forged")
    assert reasons("report", params) == {"report": f"{table} has changed"}


def test_paths_are_found_however_they_are_written(params: Params) -> None:
    path = named("derive dsara/0", params).outputs["genotype"]
    path.unlink()
    for target in (path, Path.cwd() / path, f"./{path}", "results/../" + str(path)):
        assert list(reasons(str(target), params)) == ["derive dsara/0"]


@pytest.mark.parametrize(
    ("target", "near"),
    [
        ("retrian", "retrain"),
        ("retrain digits/arnsa/0", "retrain digits/arnas/0"),
        ("results/smoke/report.htm", "results/smoke/report.html"),
        ("", "a line of `status`"),
    ],
)
def test_an_unknown_target_names_the_nearest(params: Params, target: str, near: str) -> None:
    with pytest.raises(UserError, match="there is no target") as caught:
        explain(target, params)
    assert near in str(caught.value)


def times(instance: Instance) -> list[int]:
    return [p.stat().st_mtime_ns for p in (*instance.outputs.values(), instance.manifest)]


def test_times_are_put_in_order_where_contents_agree(params: Params) -> None:
    """As after a checkout by DVC, which writes the last first."""
    for number, instance in enumerate(reversed(instances(params))):
        for path in [*instance.outputs.values(), instance.manifest]:
            os.utime(path, (1e9 + number, 1e9 + number))
    before = {i.title: read_manifest(i.manifest) for i in instances(params)}
    put_in_order(params)
    for instance in instances(params):
        newest = max((p.stat().st_mtime_ns for p in instance.inputs.values()), default=0)
        assert min(times(instance)) >= newest
        assert read_manifest(instance.manifest) == before[instance.title]


def test_altered_inputs_and_stale_results_keep_their_times(params: Params) -> None:
    report, table = named("report", params), named("tables", params).outputs["whitebox_csv"]
    for path in [*report.outputs.values(), report.manifest]:
        os.utime(path, (1e9, 1e9))
    table.write_text("forged")
    put_in_order(params)
    assert set(times(report)) == {10**18}
    make(named("tables", params), params)
    record(report, version=0)
    os.utime(report.manifest, (1e9, 1e9))
    put_in_order(params)
    assert set(times(report)) == {10**18}


def test_links_keep_the_times_of_the_cache(params: Params, tmp_path: Path) -> None:
    report = named("report", params)
    path = report.outputs["html"]
    cached = tmp_path / "cache"
    path.rename(cached)
    path.symlink_to(cached)
    os.utime(cached, (1e9, 1e9))
    os.utime(path, (1e9, 1e9), follow_symlinks=False)
    put_in_order(params)
    assert path.lstat().st_mtime > 1e9
    assert cached.stat().st_mtime == 1e9
