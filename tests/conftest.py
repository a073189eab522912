"""What many tests need: one thread, and a run of small files in a folder of the test's own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from fake_run import SMOKE, make_all, smoke

from arnas.config.load import check_params
from arnas.config.params import Params

torch.set_num_threads(1)  # two threads on a loaded machine are several times slower


@pytest.fixture
def empty_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    """Return the smoke settings of a run of which nothing is there, in the present folder."""
    monkeypatch.chdir(tmp_path)
    for variable in ("ARNAS_PARAMS", "ARNAS_STATE_DIR", "DVC_ROOT"):
        monkeypatch.delenv(variable, raising=False)
    Path("params.yaml").write_text(SMOKE)
    return check_params(smoke(), "smoke")


@pytest.fixture
def complete_run(empty_run: Params) -> Params:
    """Return the settings of a run whose results are all there."""
    make_all(empty_run)
    return empty_run
