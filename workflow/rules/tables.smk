"""The result tables.

REQUIRED INPUTS:
    of every search of the run, both histories and the genotype
    of every network of the run, its training history, description and outcomes

OUTPUTS:
    results/tables/{name}/*.csv, *.md, metrics.json
"""


# Everything measured, in long form.
rule tables:
    input:
        searched("results/{name}/search/{search}/{seed}/adversarial/history.jsonl"),
        searched("results/{name}/search/{search}/{seed}/multiobjective/history.jsonl"),
        searched("results/{name}/search/{search}/{seed}/genotype/genotype.json"),
        trained("results/{name}/retrain/{dataset}/{network}/{seed}/history.jsonl"),
        trained(
            "results/{name}/retrain/{dataset}/{network}/{seed}/selected.safetensors.json"
        ),
        trained(
            "results/{name}/whitebox/{dataset}/{network}/{seed}/outcomes.safetensors"
        ),
        trained(
            "results/{name}/whitebox/{dataset}/{network}/{seed}/outcomes.safetensors.json"
        ),
        token=token("tables"),
    output:
        expand(
            "results/tables/{name}/{table}.csv",
            name=config["name"],
            table=["search", "training", "models"],
        ),
        expand(
            "results/tables/{name}/{table}.md",
            name=config["name"],
            table=["whitebox", "summary", "search", "training", "models"],
        ),
        report(
            expand(
                "results/tables/{name}/{table}.csv",
                name=config["name"],
                table=["whitebox", "summary"],
            ),
            category="Tables",
            caption="../report/tables.rst",
        ),
        metrics=expand("results/tables/{name}/metrics.json", name=config["name"]),
        manifest=expand("results/{name}/manifest.json", name=config["name"]),
    log:
        expand("results/{name}/logs/tables.txt", name=config["name"]),
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
