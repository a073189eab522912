"""Checks the settings before anything runs, and hands them to the stages.

Paths, settings and commands of the rules come from the plan, arnas/pipeline/plan.py; see
docs/pages/how-to/add-a-stage.md.

REQUIRED INPUTS:
    config: params.yaml with the overrides of the command line
    arnas/pipeline/versions.yaml: the version of each stage

OUTPUTS:
    .arnas/params/<digest>.json: the settings as resolved, named to the stages by ARNAS_PARAMS
    .arnas/tokens/<name>/...: for each job, new if its result on disk does not fit the settings
"""

import os
import sys

from arnas.config.handoff import hand_off
from arnas.config.load import check_params
from arnas.pipeline.snakemake import Rules, check_exported, keep_tables, put_in_order

exported = os.environ.get("ARNAS_PARAMS")
os.environ["ARNAS_PARAMS"] = hand_off(config, workflow.config_settings.config)
PARAMS = check_params(config, "settings")
if workflow.is_main_process:
    keep_tables(sys.argv)
    check_exported(exported, PARAMS)
    put_in_order(PARAMS)


envvars:
    "ARNAS_PARAMS",


plan = Rules(PARAMS, workflow.is_main_process)


wildcard_constraints:
    dataset="|".join(config["data"]),
    search="|".join(config["searches"]) or "-",
    network="|".join([*config["networks"], *config["searches"]]),
    seed=r"\d+",


def in_report(outputs, category, caption=None, labels=None, ending=".svg"):
    """Show outputs in `snakemake --report`, each with a caption from workflow/report/."""
    shown = {
        key: report(
            path,
            category=category,
            labels=labels or {"figure": key.replace("_", " ")},
            caption=f"../report/{caption or key}.rst",
        )
        for key, path in outputs.items()
        if path.endswith(ending)
    }
    return outputs | shown
