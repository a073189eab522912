"""Attacks on the trained networks."""


# All outcomes of the run.
rule evaluate:
    input:
        plan.files("whitebox", "outcomes"),
        plan.files("blackbox", "outcomes"),


# Attacks with full knowledge of the network.
rule whitebox:
    input:
        **plan.inputs("whitebox"),
    output:
        **plan.outputs("whitebox"),
    log:
        plan.log_file("whitebox"),
    benchmark:
        plan.benchmark_file("whitebox")
    resources:
        gpu=1,
    params:
        **plan.settings("whitebox"),
    message:
        plan.message("whitebox")
    shell:
        plan.command("whitebox")


# Examples made on one network for the others, and Square against it.
rule blackbox_examples:
    input:
        **plan.inputs("blackbox_examples"),
    output:
        **plan.outputs("blackbox_examples"),
    log:
        plan.log_file("blackbox_examples"),
    benchmark:
        plan.benchmark_file("blackbox_examples")
    resources:
        gpu=1,
    params:
        **plan.settings("blackbox_examples"),
    message:
        plan.message("blackbox_examples")
    shell:
        plan.command("blackbox_examples")


# Every source's examples shown to every target: forward passes only.
rule blackbox:
    input:
        **plan.inputs("blackbox"),
    output:
        **plan.outputs("blackbox"),
    log:
        plan.log_file("blackbox"),
    benchmark:
        plan.benchmark_file("blackbox")
    resources:
        gpu=1,
    params:
        **plan.settings("blackbox"),
    message:
        plan.message("blackbox")
    shell:
        plan.command("blackbox")
