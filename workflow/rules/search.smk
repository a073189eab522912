"""The search: two stages of the supernet, then the genotype.

REQUIRED INPUTS:
    results/{name}/data/{dataset}/splits.safetensors of run.search_dataset

OUTPUTS:
    results/{name}/search/{search}/{seed}/adversarial/state.safetensors, history.jsonl
    results/{name}/search/{search}/{seed}/multiobjective/state.safetensors, history.jsonl
    results/{name}/search/{search}/{seed}/genotype/genotype.json, cells.svg
"""


# All genotypes of the run.
rule search:
    input:
        searched("results/{name}/search/{search}/{seed}/genotype/genotype.json"),


# Stage 1: weights and architecture on the adversarial loss.
rule search_adversarial:
    input:
        splits=f"results/{{name}}/data/{RUN['search_dataset']}/splits.safetensors",
        token=token("search_adversarial"),
    output:
        state="results/{name}/search/{search}/{seed}/adversarial/state.safetensors",
        history="results/{name}/search/{search}/{seed}/adversarial/history.jsonl",
        manifest="results/{name}/search/{search}/{seed}/adversarial/manifest.json",
    log:
        "results/{name}/logs/search_adversarial/{search}/{seed}.txt",
    benchmark:
        "results/{name}/benchmarks/search_adversarial/{search}/{seed}.tsv"
    threads: 1
    resources:
        gpu=1,
    params:
        version=VERSIONS["search_adversarial"],
        supernet=lookup("supernet", within=config),
        space=lookup("searches/{search}/space", within=config),
        adversarial=lookup("searches/{search}/adversarial", within=config),
        threat=lookup(f"threat/{RUN['search_dataset']}", within=config),
    message:
        "Searching {wildcards.search}, seed {wildcards.seed}: adversarial stage"
    shell:
        "ARNAS_GPUS={resources.gpu}"
        " python -m arnas search_adversarial --search {wildcards.search} --seed {wildcards.seed}"
        " 2>&1 | tee {log}"


# Stage 2: the architecture along both the natural and the adversarial loss.
rule search_multiobjective:
    input:
        splits=f"results/{{name}}/data/{RUN['search_dataset']}/splits.safetensors",
        before="results/{name}/search/{search}/{seed}/adversarial/state.safetensors",
        token=token("search_multiobjective"),
    output:
        state="results/{name}/search/{search}/{seed}/multiobjective/state.safetensors",
        history="results/{name}/search/{search}/{seed}/multiobjective/history.jsonl",
        manifest="results/{name}/search/{search}/{seed}/multiobjective/manifest.json",
    log:
        "results/{name}/logs/search_multiobjective/{search}/{seed}.txt",
    benchmark:
        "results/{name}/benchmarks/search_multiobjective/{search}/{seed}.tsv"
    threads: 1
    resources:
        gpu=1,
    params:
        version=VERSIONS["search_multiobjective"],
        supernet=lookup("supernet", within=config),
        space=lookup("searches/{search}/space", within=config),
        multiobjective=lookup("searches/{search}/multiobjective", within=config),
        threat=lookup(f"threat/{RUN['search_dataset']}", within=config),
    message:
        "Searching {wildcards.search}, seed {wildcards.seed}: multi-objective stage"
    shell:
        "ARNAS_GPUS={resources.gpu}"
        " python -m arnas search_multiobjective --search {wildcards.search} --seed {wildcards.seed}"
        " 2>&1 | tee {log}"


# The architecture parameters (alphas) of the chosen epoch become a genotype and its drawing.
rule derive:
    input:
        state="results/{name}/search/{search}/{seed}/multiobjective/state.safetensors",
        token=token("derive"),
    output:
        genotype="results/{name}/search/{search}/{seed}/genotype/genotype.json",
        drawing=report(
            "results/{name}/search/{search}/{seed}/genotype/cells.svg",
            category="Genotypes",
            labels={"search": "{search}", "seed": "{seed}"},
            caption="../report/cells.rst",
        ),
        manifest="results/{name}/search/{search}/{seed}/genotype/manifest.json",
    log:
        "results/{name}/logs/derive/{search}/{seed}.txt",
    benchmark:
        "results/{name}/benchmarks/derive/{search}/{seed}.tsv"
    threads: 1
    params:
        version=VERSIONS["derive"],
        derive=lookup("searches/{search}/derive", within=config),
        space=lookup("searches/{search}/space", within=config),
    message:
        "Deriving the genotype of {wildcards.search}, seed {wildcards.seed}"
    shell:
        "python -m arnas derive --search {wildcards.search} --seed {wildcards.seed}"
        " 2>&1 | tee {log}"
