"""What would run and why; `tests/workflow/test_hazards.py` compares it with Snakemake."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from fake_run import job_named, make, record, smoke

from arnas.config.load import check_params
from arnas.config.params import Params
from arnas.pipeline.explain import explain
from arnas.pipeline.freshness import write_token
from arnas.pipeline.jobs import Job, planned_jobs
from arnas.pipeline.snakemake import put_in_order
from arnas.runtime.errors import UserError
from arnas.runtime.manifest import read_manifest


def reasons(target: str, params: Params) -> dict[str, str]:
    return {rerun.job.title: rerun.reason for rerun in explain(target, params)}


def test_nothing_runs_for_what_is_current(complete_run: Params) -> None:
    for target in ("report", "retrain", "retrain digits/arnas/0", "results/smoke/report.html"):
        assert reasons(target, complete_run) == {}


def test_only_the_chain_to_the_target_counts(complete_run: Params) -> None:
    content = smoke()
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


def test_a_missing_output_is_made_again(complete_run: Params) -> None:
    path = job_named("retrain digits/arnas/0", complete_run).outputs["last"]
    path.unlink()
    made = {"retrain digits/arnas/0": f"{path} is missing"}
    assert reasons(str(path), complete_run) == made
    assert reasons("report", complete_run).items() > made.items()
    assert reasons("derive", complete_run) == {}, "which is not made from it"


def test_what_is_made_anew_for_one_reader_leads_to_all_others(complete_run: Params) -> None:
    job_named("data digits", complete_run).outputs["splits"].unlink()
    record(job_named("derive dsara/0", complete_run), version=0)
    found = reasons("report", complete_run)
    assert found["data digits"].endswith("is missing")
    assert found["search_adversarial dsara/0"] == "data digits runs"
    assert set(found) == {job.title for job in planned_jobs(complete_run)}


def test_an_altered_output_is_made_again_whatever_its_date(complete_run: Params) -> None:
    data = job_named("data digits", complete_run)
    splits = data.outputs["splits"]
    later = time.time() + 60
    os.utime(splits, (later, later))
    assert reasons("derive", complete_run) == {}, "a new time alone is no change"
    times = splits.stat()
    splits.write_bytes(splits.read_bytes()[::-1])
    os.utime(splits, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert reasons("search_adversarial", complete_run) == {
        "data digits": f"{splits} is not what the stage has written",
        "search_adversarial dsara/0": "data digits runs",
    }


def test_paths_are_found_however_they_are_written(complete_run: Params) -> None:
    path = job_named("derive dsara/0", complete_run).outputs["genotype"]
    path.unlink()
    for target in (path, Path.cwd() / path, f"./{path}", "results/../" + str(path)):
        assert list(reasons(str(target), complete_run)) == ["derive dsara/0"]


@pytest.mark.parametrize(
    ("target", "near"),
    [
        ("retrian", "retrain"),
        ("retrain digits/arnsa/0", "retrain digits/arnas/0"),
        ("results/smoke/report.htm", "results/smoke/report.html"),
        ("", "a line of `status`"),
    ],
)
def test_an_unknown_target_names_the_nearest(complete_run: Params, target: str, near: str) -> None:
    with pytest.raises(UserError, match="there is no target") as caught:
        explain(target, complete_run)
    assert near in str(caught.value)


def times(job: Job) -> list[int]:
    return [p.stat().st_mtime_ns for p in (*job.outputs.values(), job.manifest)]


def test_times_are_put_in_order_where_contents_agree(complete_run: Params) -> None:
    """As after a checkout by DVC, which writes the last first."""
    for number, job in enumerate(reversed(planned_jobs(complete_run))):
        for path in [*job.outputs.values(), job.manifest]:
            os.utime(path, (1e9 + number, 1e9 + number))
    before = {i.title: read_manifest(i.manifest) for i in planned_jobs(complete_run)}
    put_in_order(complete_run)
    for job in planned_jobs(complete_run):
        newest = max((p.stat().st_mtime_ns for p in job.inputs.values()), default=0)
        assert min(times(job)) >= newest
        assert read_manifest(job.manifest) == before[job.title]


def test_altered_inputs_and_stale_results_keep_their_times(complete_run: Params) -> None:
    report, table = (
        job_named("report", complete_run),
        job_named("tables", complete_run).outputs["whitebox_csv"],
    )
    for path in [*report.outputs.values(), report.manifest]:
        os.utime(path, (1e9, 1e9))
    table.write_text("forged")
    put_in_order(complete_run)
    assert set(times(report)) == {10**18}
    make(job_named("tables", complete_run), complete_run)
    record(report, version=0)
    os.utime(report.manifest, (1e9, 1e9))
    put_in_order(complete_run)
    assert set(times(report)) == {10**18}


def test_results_of_a_clock_that_was_ahead_are_older_than_a_new_token(
    complete_run: Params,
) -> None:
    data, ahead = job_named("data digits", complete_run), time.time() + 10**6
    for path in data.files:
        os.utime(path, (ahead, ahead))
    data.outputs["splits"].write_text("forged")
    os.utime(data.outputs["splits"], (ahead, ahead))
    put_in_order(complete_run)
    assert write_token(data, complete_run).stat().st_mtime_ns > max(times(data))


def test_a_file_of_the_users_own_from_the_future_is_refused_and_keeps_its_date(
    complete_run: Params, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = tmp_path / "images.npz"
    images.write_bytes(b"")
    content = smoke()
    content["data"]["digits"] |= {"source": "npz", "path": str(images)}
    ahead = time.time() + 1000
    os.utime(images, (ahead, ahead))
    with pytest.raises(SystemExit):
        put_in_order(check_params(content, "changed"))
    assert f"`touch {images}`, or put the clock right" in capsys.readouterr().err
    assert images.stat().st_mtime == ahead


def test_links_keep_the_times_of_the_cache(complete_run: Params, tmp_path: Path) -> None:
    report = job_named("report", complete_run)
    path = report.outputs["html"]
    cached = tmp_path / "cache"
    path.rename(cached)
    path.symlink_to(cached)
    os.utime(cached, (1e9, 1e9))
    os.utime(path, (1e9, 1e9), follow_symlinks=False)
    put_in_order(complete_run)
    assert path.lstat().st_mtime > 1e9
    assert cached.stat().st_mtime == 1e9
