"""The search: two stages of the supernet, then the genotype.

Priorities are those of the longest chain of jobs, which should not be left for the end.
"""


# All genotypes of the run.
rule search:
    input:
        plan.files("derive", "genotype"),


# Stage 1: weights and architecture on the adversarial loss.
rule search_adversarial:
    input:
        **plan.inputs("search_adversarial"),
    output:
        **plan.outputs("search_adversarial"),
    log:
        plan.log_file("search_adversarial"),
    benchmark:
        plan.benchmark_file("search_adversarial")
    priority: 3
    resources:
        gpu=1,
    params:
        **plan.settings("search_adversarial"),
    message:
        plan.message("search_adversarial")
    shell:
        plan.command("search_adversarial")


# Stage 2: the architecture along both the natural and the adversarial loss.
rule search_multiobjective:
    input:
        **plan.inputs("search_multiobjective"),
    output:
        **plan.outputs("search_multiobjective"),
    log:
        plan.log_file("search_multiobjective"),
    benchmark:
        plan.benchmark_file("search_multiobjective")
    priority: 3
    resources:
        gpu=1,
    params:
        **plan.settings("search_multiobjective"),
    message:
        plan.message("search_multiobjective")
    shell:
        plan.command("search_multiobjective")


# The architecture parameters (alphas) of the chosen epoch become a genotype and its drawing.
rule derive:
    input:
        **plan.inputs("derive"),
    output:
        **in_report(
            plan.outputs("derive"),
            category="Genotypes",
            caption="cells",
            labels={"search": "{search}", "seed": "{seed}"},
        ),
    log:
        plan.log_file("derive"),
    benchmark:
        plan.benchmark_file("derive")
    priority: 3
    params:
        **plan.settings("derive"),
    message:
        plan.message("derive")
    shell:
        plan.command("derive")
