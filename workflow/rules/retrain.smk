"""Training of the zoo's networks and of the searched ones.

REQUIRED INPUTS:
    results/{name}/data/{dataset}/splits.safetensors
    for a searched network, results/{name}/search/{network}/{seed}/genotype/genotype.json

OUTPUTS:
    results/{name}/retrain/{dataset}/{network}/{seed}/last.safetensors, selected.safetensors,
    history.jsonl
"""


# All trained networks of the run.
rule retrain:
    input:
        trained(
            "results/{name}/retrain/{dataset}/{network}/{seed}/selected.safetensors"
        ),


# A model of the zoo.
rule retrain_zoo:
    input:
        splits="results/{name}/data/{dataset}/splits.safetensors",
        token=token("retrain"),
    output:
        last="results/{name}/retrain/{dataset}/{network}/{seed}/last.safetensors",
        selected="results/{name}/retrain/{dataset}/{network}/{seed}/selected.safetensors",
        history="results/{name}/retrain/{dataset}/{network}/{seed}/history.jsonl",
        manifest="results/{name}/retrain/{dataset}/{network}/{seed}/manifest.json",
    log:
        "results/{name}/logs/retrain/{dataset}/{network}/{seed}.txt",
    benchmark:
        "results/{name}/benchmarks/retrain/{dataset}/{network}/{seed}.tsv"
    wildcard_constraints:
        network="|".join(config["networks"]) or "-",
    threads: 1
    resources:
        gpu=1,
    params:
        version=VERSIONS["retrain"],
        network=lookup("networks/{network}", within=config),
        retrain=lookup("retrain/{dataset}", within=config),
        threat=lookup("threat/{dataset}", within=config),
    message:
        "Training {wildcards.network} on {wildcards.dataset}, seed {wildcards.seed}"
    shell:
        "ARNAS_GPUS={resources.gpu}"
        " python -m arnas retrain --dataset {wildcards.dataset} --network {wildcards.network}"
        " --seed {wildcards.seed} 2>&1 | tee {log}"


# The network of a searched genotype.
use rule retrain_zoo as retrain_searched with:
    input:
        splits="results/{name}/data/{dataset}/splits.safetensors",
        genotype="results/{name}/search/{network}/{seed}/genotype/genotype.json",
        token=token("retrain"),
    wildcard_constraints:
        network="|".join(config["searches"]) or "-",
    params:
        version=VERSIONS["retrain"],
        network=lookup("searches/{network}/network", within=config),
        space=lookup("searches/{network}/space", within=config),
        retrain=lookup("retrain/{dataset}", within=config),
        threat=lookup("threat/{dataset}", within=config),
