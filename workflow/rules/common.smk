"""Checks the settings before anything runs, and hands them to the stages.

REQUIRED INPUTS:
    config: params.yaml with the overrides of the command line
    arnas/pipeline/versions.yaml: the version of each stage

OUTPUTS:
    .arnas/params/<digest>.json: the settings as resolved, named to the stages by ARNAS_PARAMS
    .arnas/tokens/<name>/...: for each job, new if its result on disk does not fit the settings
"""

import os

from arnas.config.handoff import hand_off
from arnas.pipeline.freshness import token_path, write_token
from arnas.pipeline.plan import stage_by_command, stage_versions
from arnas.pipeline.snakemake import put_in_order

os.environ["ARNAS_PARAMS"] = hand_off(config, workflow.config_settings.config)
if workflow.is_main_process:
    put_in_order(config)


envvars:
    "ARNAS_PARAMS",


VERSIONS = stage_versions()
RUN = config["run"]


wildcard_constraints:
    name=config["name"],
    dataset="|".join(config["data"]),
    search="|".join(config["searches"]) or "-",
    network="|".join([*config["networks"], *config["searches"]]),
    seed=r"\d+",


def user_files(wildcards):
    """Return the user's own file that a dataset is read from, if any."""
    options = config["data"][wildcards.dataset]
    return [options["path"]] if options["source"] == "npz" else []


def token(command):
    """Return an input function for the job's token, which makes Snakemake see stale results."""

    def find(wildcards):
        axes = {axis: wildcards[axis] for axis in stage_by_command(command).axes}
        if workflow.is_main_process:
            return write_token(command, axes, config)
        return str(token_path(command, axes, config["name"]))

    return find


def searched(pattern):
    """Return the files of every search of the run."""
    return expand(
        pattern, name=config["name"], search=RUN["searches"], seed=RUN["seeds"]
    )


def trained(pattern):
    """Return the files of every trained network of the run."""
    return [
        path for dataset in RUN["datasets"] for path in trained_on(dataset, pattern)
    ]


def trained_on(dataset, pattern):
    """Return the files of every network that the run trains on a dataset."""
    grid = [
        (RUN["networks_on"], RUN["networks"]),
        (RUN["searches_on"], RUN["searches"]),
    ]
    return [
        path
        for datasets, networks in grid
        if dataset in datasets
        for path in expand(
            pattern,
            name=config["name"],
            dataset=dataset,
            network=networks,
            seed=RUN["seeds"],
        )
    ]


def of_dataset(pattern):
    """Return an input function for the files of every network trained on the job's dataset."""

    def find(wildcards):
        return trained_on(wildcards.dataset, pattern)

    return find


def tables_of(*names, kind="csv"):
    """Return the paths of result tables."""
    return expand(
        "results/tables/{name}/{table}.{kind}",
        name=config["name"],
        table=names,
        kind=kind,
    )
