"""Lays the workflow into the wheel as `arnas/workflow`; everything else is in pyproject.toml."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["arnas*"]), "arnas.workflow"],
    package_dir={"arnas.workflow": "workflow"},
)
