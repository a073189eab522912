"""The result tables, the figures and the report."""


# Sizes, operations by depth, the search's trajectories, and what networks say of examples.
rule analysis:
    input:
        **plan.inputs("analysis"),
    output:
        **plan.outputs("analysis"),
    log:
        plan.log_file("analysis"),
    benchmark:
        plan.benchmark_file("analysis")
    params:
        **plan.settings("analysis"),
    message:
        plan.message("analysis")
    shell:
        plan.command("analysis")


# Everything measured, in long form.
rule tables:
    input:
        **plan.inputs("tables"),
    output:
        **in_report(
            plan.outputs("tables"), category="Tables", caption="tables", ending=".csv"
        ),
    log:
        plan.log_file("tables"),
    benchmark:
        plan.benchmark_file("tables")
    params:
        **plan.settings("tables"),
    message:
        plan.message("tables")
    shell:
        plan.command("tables")


# One HTML file, and its figures.
rule report:
    input:
        **plan.inputs("report"),
    output:
        **in_report(plan.outputs("report"), category="Figures"),
    log:
        plan.log_file("report"),
    benchmark:
        plan.benchmark_file("report")
    params:
        **plan.settings("report"),
    message:
        plan.message("report")
    shell:
        plan.command("report")
