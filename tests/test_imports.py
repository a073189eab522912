"""No command waits for a library that it does not use: many would load longer than it works.

That settings and the plan are read without torch is in test_house.py.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from loading import loaded_modules

RARE = {"torchvision", "scipy.stats", "scipy.signal", "torch._dynamo", "pyautoattack", "dvc"}
"""For torchvision's datasets and models, rare statistics, corruptions, optimizers, one suite."""
ATTACK = "attack --model own:build --data own.npz --threat linf:0.1 --suite fgsm"
NOT_LOADED = {
    "models": (
        "from arnas.cli import app; app(['models'])",
        {"torch", "scipy", "pandas", "matplotlib"},
    ),
    "results": ("import arnas.reporting.run.tables", {"torch", "scipy", "matplotlib"}),
    "digits": (
        "from arnas.data.load import load_images; load_images('digits')",
        {"torchvision", "matplotlib", "torch._dynamo"},
    ),
    "training": (
        "import arnas.stages.search, arnas.stages.retrain",
        {"scipy", "sklearn", "pandas", "matplotlib", *RARE},
    ),
    "attack": (
        f"from arnas.cli import app; app({ATTACK.split()})",
        {"sklearn", "pandas", *RARE},
    ),
    "tables": (
        "import arnas.stages.tables, arnas.pipeline.runner",
        {"torch", "scipy", "sklearn", "matplotlib", *RARE},
    ),
    "reproduces": ("import arnas.reporting.run.reproduction", {"torch", "scipy", "matplotlib"}),
    "report": ("import arnas.stages.report", {"scipy", "sklearn", *RARE}),
}
"""Code, and the modules that it does not load."""


@pytest.mark.parametrize("name", NOT_LOADED)
def test_only_what_is_used_is_loaded(tmp_path: Path, name: str) -> None:
    code, absent = NOT_LOADED[name]
    (tmp_path / "own.py").write_text(
        "from torch import nn\ndef build(): return nn.Sequential(nn.Flatten(), nn.Linear(64, 2))\n"
    )
    images = np.random.default_rng(0).random((8, 1, 8, 8), np.float32)
    np.savez(tmp_path / "own.npz", x=images, y=np.arange(8) % 2)
    loaded = loaded_modules(["-c", code], tmp_path)
    assert "arnas" in loaded
    assert not loaded & absent
