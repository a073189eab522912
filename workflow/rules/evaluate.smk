"""Attacks on the trained networks.

REQUIRED INPUTS:
    results/{name}/data/{dataset}/splits.safetensors
    results/{name}/retrain/{dataset}/{network}/{seed}/last.safetensors, selected.safetensors

OUTPUTS:
    results/{name}/whitebox/{dataset}/{network}/{seed}/outcomes.safetensors
"""


# All outcomes of the run.
rule evaluate:
    input:
        trained(
            "results/{name}/whitebox/{dataset}/{network}/{seed}/outcomes.safetensors"
        ),


# Attacks with full knowledge of the network.
rule whitebox:
    input:
        splits="results/{name}/data/{dataset}/splits.safetensors",
        splits_description="results/{name}/data/{dataset}/splits.safetensors.json",
        last="results/{name}/retrain/{dataset}/{network}/{seed}/last.safetensors",
        last_description="results/{name}/retrain/{dataset}/{network}/{seed}/last.safetensors.json",
        selected="results/{name}/retrain/{dataset}/{network}/{seed}/selected.safetensors",
        selected_description="results/{name}/retrain/{dataset}/{network}/{seed}/selected.safetensors.json",
        token=token("whitebox"),
    output:
        outcomes="results/{name}/whitebox/{dataset}/{network}/{seed}/outcomes.safetensors",
        outcomes_description="results/{name}/whitebox/{dataset}/{network}/{seed}/outcomes.safetensors.json",
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
        "python -m arnas whitebox --dataset {wildcards.dataset} --network {wildcards.network}"
        " --seed {wildcards.seed} 2>&1 | tee {log}"
