"""Attacks on the trained networks.

REQUIRED INPUTS:
    results/{name}/data/{dataset}/splits.safetensors
    results/{name}/retrain/{dataset}/{network}/{seed}/last.safetensors, selected.safetensors

OUTPUTS:
    results/{name}/whitebox/{dataset}/{network}/{seed}/outcomes.safetensors
    results/{name}/blackbox_examples/{dataset}/{network}/{seed}/examples.safetensors
    results/{name}/blackbox/{dataset}/outcomes.safetensors
"""


# All outcomes of the run.
rule evaluate:
    input:
        trained(
            "results/{name}/whitebox/{dataset}/{network}/{seed}/outcomes.safetensors"
        ),
        expand(
            "results/{name}/blackbox/{dataset}/outcomes.safetensors",
            name=config["name"],
            dataset=RUN["datasets"],
        ),


# Attacks with full knowledge of the network.
rule whitebox:
    input:
        splits="results/{name}/data/{dataset}/splits.safetensors",
        last="results/{name}/retrain/{dataset}/{network}/{seed}/last.safetensors",
        selected="results/{name}/retrain/{dataset}/{network}/{seed}/selected.safetensors",
        token=token("whitebox"),
    output:
        outcomes="results/{name}/whitebox/{dataset}/{network}/{seed}/outcomes.safetensors",
        manifest="results/{name}/whitebox/{dataset}/{network}/{seed}/manifest.json",
    log:
        "results/{name}/logs/whitebox/{dataset}/{network}/{seed}.txt",
    benchmark:
        "results/{name}/benchmarks/whitebox/{dataset}/{network}/{seed}.tsv"
    threads: 1
    resources:
        gpu=1,
    params:
        version=VERSIONS["whitebox"],
        whitebox=lookup("whitebox", within=config),
        threat=lookup("threat/{dataset}", within=config),
    message:
        "Attacking {wildcards.network} on {wildcards.dataset}, seed {wildcards.seed}"
    shell:
        "ARNAS_GPUS={resources.gpu}"
        " python -m arnas whitebox --dataset {wildcards.dataset} --network {wildcards.network}"
        " --seed {wildcards.seed} 2>&1 | tee {log}"


# Examples made on one network for the others, and Square against it.
rule blackbox_examples:
    input:
        splits="results/{name}/data/{dataset}/splits.safetensors",
        selected="results/{name}/retrain/{dataset}/{network}/{seed}/selected.safetensors",
        token=token("blackbox_examples"),
    output:
        examples="results/{name}/blackbox_examples/{dataset}/{network}/{seed}/examples.safetensors",
        manifest="results/{name}/blackbox_examples/{dataset}/{network}/{seed}/manifest.json",
    log:
        "results/{name}/logs/blackbox_examples/{dataset}/{network}/{seed}.txt",
    benchmark:
        "results/{name}/benchmarks/blackbox_examples/{dataset}/{network}/{seed}.tsv"
    threads: 1
    resources:
        gpu=1,
    params:
        version=VERSIONS["blackbox_examples"],
        blackbox=lookup("blackbox", within=config),
        threat=lookup("threat/{dataset}", within=config),
    message:
        "Making examples on {wildcards.network} on {wildcards.dataset}, seed {wildcards.seed}"
    shell:
        "ARNAS_GPUS={resources.gpu}"
        " python -m arnas blackbox_examples --dataset {wildcards.dataset}"
        " --network {wildcards.network} --seed {wildcards.seed} 2>&1 | tee {log}"


# Every source's examples shown to every target: forward passes only.
rule blackbox:
    input:
        of_dataset(
            "results/{name}/retrain/{dataset}/{network}/{seed}/selected.safetensors"
        ),
        of_dataset(
            "results/{name}/blackbox_examples/{dataset}/{network}/{seed}/examples.safetensors"
        ),
        splits="results/{name}/data/{dataset}/splits.safetensors",
        token=token("blackbox"),
    output:
        outcomes="results/{name}/blackbox/{dataset}/outcomes.safetensors",
        manifest="results/{name}/blackbox/{dataset}/manifest.json",
    log:
        "results/{name}/logs/blackbox/{dataset}.txt",
    benchmark:
        "results/{name}/benchmarks/blackbox/{dataset}.tsv"
    threads: 1
    resources:
        gpu=1,
    params:
        version=VERSIONS["blackbox"],
        run=RUN,
        blackbox=lookup("blackbox", within=config),
    message:
        "Showing the examples to the networks on {wildcards.dataset}"
    shell:
        "ARNAS_GPUS={resources.gpu}"
        " python -m arnas blackbox --dataset {wildcards.dataset} 2>&1 | tee {log}"
