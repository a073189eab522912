"""Training of the zoo's networks and of the searched ones."""


# All trained networks of the run.
rule retrain:
    input:
        plan.files("retrain", "selected"),


# A model of the zoo.
rule retrain_zoo:
    input:
        **plan.inputs("retrain_zoo"),
    output:
        **plan.outputs("retrain_zoo"),
    log:
        plan.log_file("retrain_zoo"),
    benchmark:
        plan.benchmark_file("retrain_zoo")
    wildcard_constraints:
        network="|".join(config["networks"]) or "-",
    priority: 1
    resources:
        gpu=1,
    params:
        **plan.settings("retrain_zoo"),
    message:
        plan.message("retrain_zoo")
    shell:
        plan.command("retrain_zoo")


# The network of a searched genotype.
rule retrain_searched:
    input:
        **plan.inputs("retrain_searched"),
    output:
        **plan.outputs("retrain_searched"),
    log:
        plan.log_file("retrain_searched"),
    benchmark:
        plan.benchmark_file("retrain_searched")
    wildcard_constraints:
        network="|".join(config["searches"]) or "-",
    priority: 2
    resources:
        gpu=1,
    params:
        **plan.settings("retrain_searched"),
    message:
        plan.message("retrain_searched")
    shell:
        plan.command("retrain_searched")
