"""Pretend GPUs in another process: they are leased, and the work is done on the CPU.

Python imports this module at its start when this folder is on ``PYTHONPATH``. ``TEST_GPUS`` lists
the names. Only `arnas.runtime.device` is changed, when it is imported.
"""

import importlib.util
import os
import sys
from types import ModuleType


class _Finder:
    """Finds one module as ever, and changes it after it has run."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> object:
        if name != "arnas.runtime.device":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        run = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            run(module)
            cpu = module.torch.device("cpu")
            module.visible_gpus = lambda: tuple(os.environ["TEST_GPUS"].split(","))
            module._devices = lambda held, names: module.Devices(held, (cpu,) * len(held))

        spec.loader.exec_module = exec_module
        return spec


if "TEST_GPUS" in os.environ:
    sys.meta_path.insert(0, _Finder())
