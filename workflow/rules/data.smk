"""Datasets into splits."""


# Read a dataset and divide it into its splits.
rule data:
    input:
        **plan.inputs("data"),
    output:
        **plan.outputs("data"),
    log:
        plan.log_file("data"),
    benchmark:
        plan.benchmark_file("data")
    params:
        **plan.settings("data"),
    message:
        plan.message("data")
    shell:
        plan.command("data")
