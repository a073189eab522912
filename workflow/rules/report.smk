"""The result tables, the figures and the report.

REQUIRED INPUTS:
    of every search of the run, both histories, the state and the genotype
    of every network of the run, its training history, description, outcomes and examples
    of every dataset of the run, its splits and black-box outcomes

OUTPUTS:
    results/tables/{name}/*.csv, *.md, metrics.json
    results/{name}/report.html, results/{name}/report/*.svg
"""

ANALYSIS = ["datasets", "models", "operations", "examples"]
TABLES = [
    "whitebox",
    "summary",
    "curve",
    "blackbox",
    "transfer",
    "checks",
    "search",
    "training",
    "published",
]
REPORT = f"results/{config['name']}/report"


# Sizes, operations by depth, the search's trajectories, and what networks say of examples.
rule analysis:
    input:
        expand(
            "results/{name}/data/{dataset}/splits.safetensors",
            name=config["name"],
            dataset=RUN["datasets"],
        ),
        searched(
            "results/{name}/search/{search}/{seed}/multiobjective/state.safetensors"
        ),
        trained(
            "results/{name}/retrain/{dataset}/{network}/{seed}/selected.safetensors"
        ),
        trained(
            "results/{name}/blackbox_examples/{dataset}/{network}/{seed}/examples.safetensors"
        ),
        token=token("analysis"),
    output:
        tables_of(*ANALYSIS, "alphas", "gamma"),
        tables_of(*ANALYSIS, kind="md"),
        manifest=f"results/{config['name']}/analysis/manifest.json",
    log:
        f"results/{config['name']}/logs/analysis.txt",
    benchmark:
        f"results/{config['name']}/benchmarks/analysis.tsv"
    threads: 1
    params:
        version=VERSIONS["analysis"],
        run=RUN,
        report=lookup("report", within=config),
    message:
        "Looking at what was found"
    shell:
        "python -m arnas analysis 2>&1 | tee {log}"


# Everything measured, in long form.
rule tables:
    input:
        searched("results/{name}/search/{search}/{seed}/adversarial/history.jsonl"),
        searched("results/{name}/search/{search}/{seed}/multiobjective/history.jsonl"),
        trained("results/{name}/retrain/{dataset}/{network}/{seed}/history.jsonl"),
        trained(
            "results/{name}/retrain/{dataset}/{network}/{seed}/selected.safetensors"
        ),
        trained(
            "results/{name}/whitebox/{dataset}/{network}/{seed}/outcomes.safetensors"
        ),
        expand(
            "results/{name}/blackbox/{dataset}/outcomes.safetensors",
            name=config["name"],
            dataset=RUN["datasets"],
        ),
        token=token("tables"),
    output:
        report(
            tables_of(*TABLES),
            category="Tables",
            caption="../report/tables.rst",
        ),
        tables_of(*TABLES, kind="md"),
        metrics=f"results/tables/{config['name']}/metrics.json",
        manifest=f"results/{config['name']}/tables/manifest.json",
    log:
        f"results/{config['name']}/logs/tables.txt",
    benchmark:
        f"results/{config['name']}/benchmarks/tables.tsv"
    threads: 1
    params:
        version=VERSIONS["tables"],
        run=RUN,
    message:
        "Writing the tables"
    shell:
        "python -m arnas tables 2>&1 | tee {log}"


# One HTML file, and its figures.
rule report:
    input:
        tables_of(*TABLES),
        tables_of(*ANALYSIS, "alphas", "gamma"),
        searched("results/{name}/search/{search}/{seed}/genotype/genotype.json"),
        expand(
            "results/{name}/data/{dataset}/splits.safetensors",
            name=config["name"],
            dataset=RUN["datasets"],
        ),
        trained(
            "results/{name}/blackbox_examples/{dataset}/{network}/{seed}/examples.safetensors"
        ),
        token=token("report"),
    output:
        report(
            f"{REPORT}/tradeoff.svg",
            category="Figures",
            labels={"figure": "tradeoff"},
            caption="../report/tradeoff.rst",
        ),
        report(
            f"{REPORT}/epsilon_curve.svg",
            category="Figures",
            labels={"figure": "epsilon curve"},
            caption="../report/epsilon_curve.rst",
        ),
        report(
            f"{REPORT}/blackbox.svg",
            category="Figures",
            labels={"figure": "blackbox"},
            caption="../report/blackbox.rst",
        ),
        report(
            f"{REPORT}/learning_curves.svg",
            category="Figures",
            labels={"figure": "learning curves"},
            caption="../report/learning_curves.rst",
        ),
        report(
            f"{REPORT}/gamma.svg",
            category="Figures",
            labels={"figure": "gamma"},
            caption="../report/gamma.rst",
        ),
        report(
            f"{REPORT}/alphas.svg",
            category="Figures",
            labels={"figure": "alphas"},
            caption="../report/alphas.rst",
        ),
        report(
            f"{REPORT}/operations.svg",
            category="Figures",
            labels={"figure": "operations"},
            caption="../report/operations.rst",
        ),
        report(
            f"{REPORT}/examples.svg",
            category="Figures",
            labels={"figure": "examples"},
            caption="../report/examples.rst",
        ),
        html=f"results/{config['name']}/report.html",
        manifest=f"{REPORT}/manifest.json",
    log:
        f"results/{config['name']}/logs/report.txt",
    benchmark:
        f"results/{config['name']}/benchmarks/report.tsv"
    threads: 1
    params:
        version=VERSIONS["report"],
        settings={k: v for k, v in config.items() if k not in {"name", "reproduction"}},
    message:
        "Writing the report"
    shell:
        "python -m arnas report 2>&1 | tee {log}"
