"""Results that somebody pushed are there in a fresh clone, and nothing is computed again."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from dvc.cli import main as dvc
from dvc.repo import Repo
from engines import ROOT, checked, commit, copied, run

REPORT = "results/smoke/report.html"
WEIGHTS = "results/smoke/retrain/digits/arnas/0/selected.safetensors"


@pytest.fixture(scope="module")
def remote(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("remote")


@pytest.fixture(scope="module")
def pushed(run_by_dvc: Path, tmp_path_factory: pytest.TempPathFactory, remote: Path) -> Path:
    """A checkout whose results were made, committed and pushed."""
    folder = copied(run_by_dvc, tmp_path_factory.mktemp("pushed"))
    checked(folder, "dvc", "remote", "add", "--default", "shared", str(remote))
    checked(folder, "dvc", "remote", "modify", "shared", "verify", "true")
    commit(folder)
    checked(folder, "dvc", "push")
    return folder


def clone(pushed: Path, target: Path) -> Path:
    """Clone a checkout for somebody on another machine, who shares no index with the first."""
    checked(pushed, "git", "clone", "-q", str(pushed), str(target))
    checked(target, "dvc", "config", "--local", "core.site_cache_dir", f"{target}-site")
    return target


def stored(folder: Path, remote: Path, path: str) -> Path:
    """Return the file of the remote that holds an output, by dvc.lock."""
    stages = yaml.safe_load((folder / "dvc.lock").read_text())["stages"].values()
    (md5,) = {out["md5"] for stage in stages for out in stage["outs"] if out["path"] == path}
    return remote / "files/md5" / md5[:2] / md5[2:]


@pytest.mark.long
def test_a_fresh_clone_has_the_report(pushed: Path, tmp_path: Path) -> None:
    folder = clone(pushed, tmp_path / "clone")
    assert not (folder / "results/smoke").exists()
    assert (folder / "results/tables/smoke/whitebox.csv").exists()
    checked(folder, "dvc", "pull", REPORT)
    assert [path.name for path in (folder / "results/smoke").iterdir()] == ["report.html"]
    checked(folder, "dvc", "pull")
    assert (folder / REPORT).read_bytes() == (pushed / REPORT).read_bytes()
    assert json.loads(checked(folder, "dvc", "status", "--json")) == {}
    for image in ("arnas.sif", "docker://registry.example.org/arnas:0.2.0"):
        assert "Nothing to be done" in checked(folder, "snakemake", "-n", ARNAS_CONTAINER=image)
    assert checked(folder, "git", "status", "--porcelain") == ""
    shown = checked(folder, "python", "-m", "arnas", "results")
    assert shown == checked(pushed, "python", "-m", "arnas", "results")
    assert "dsara" in shown


@pytest.mark.long
@pytest.mark.parametrize("verify", [True, False])
def test_a_damaged_object_is_named(
    pushed: Path, remote: Path, tmp_path: Path, verify: bool
) -> None:
    """By DVC if it is asked to verify, else when the file is read; and it can be pushed again."""
    place = stored(pushed, remote, WEIGHTS)
    content = bytearray(place.read_bytes())
    content[5000] ^= 1
    place.chmod(0o644)
    place.write_bytes(content)
    place.chmod(0o444)  # as DVC leaves them; of another mode it would take a look by itself
    folder = clone(pushed, tmp_path / "clone")
    if verify:
        pulled = run(folder, "dvc", "pull")
        assert pulled.returncode != 0
        assert WEIGHTS in pulled.stderr
        assert not (folder / WEIGHTS).exists()
    else:
        checked(folder, "dvc", "remote", "modify", "--local", "shared", "verify", "false")
        checked(folder, "dvc", "pull")
        code = f"import arnas; arnas.load_weights({WEIGHTS!r})"
        loaded = run(folder, "python", "-c", code)
        assert f"UserError: {WEIGHTS} is damaged or was replaced" in loaded.stderr
    place.unlink()
    checked(pushed, "dvc", "push")
    if verify:
        checked(folder, "dvc", "pull")
        assert (folder / WEIGHTS).read_bytes() == (pushed / WEIGHTS).read_bytes()


def test_remotes_are_configured_as_the_page_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each option that the page names is one of DVC's for that kind of remote."""
    monkeypatch.chdir(tmp_path)
    Repo.init(str(tmp_path), no_scm=True).close()
    text = (ROOT / "docs/pages/how-to/share-results.md").read_text()
    lines = re.findall(r"^    dvc ((?:remote|config) .*)$", text, re.M)
    for_one = {"s3": {"region", "endpointurl", "profile"}, "ssh": {"user", "keyfile"}}
    kinds = [line.split()[-1] for line in lines if line.startswith("remote add")]
    assert [kind.split(":")[0] for kind in kinds] == ["s3", "ssh", "/mnt/shared/arnas"]
    for url in kinds:
        kind = url.split(":")[0]
        assert dvc(["remote", "add", "--force", "--default", "shared", url]) == 0
        for line in lines:
            option = line.split()[-2]
            others = (names for other, names in for_one.items() if other != kind)
            if not line.startswith("remote add") and not any(option in each for each in others):
                assert dvc(line.split()) == 0, line
        assert dvc(["remote", "modify", "shared", "magic", "1"]) != 0
        (tmp_path / ".dvc/config").write_text("")
        (tmp_path / ".dvc/config.local").write_text("")
