"""Datasets into splits.

REQUIRED INPUTS:
    for a dataset with source npz, the user's file

OUTPUTS:
    results/{name}/data/{dataset}/splits.safetensors and its description
"""


# Read a dataset and divide it into train, search_validation, selection and test.
rule data:
    input:
        user_files,
        token=token("data"),
    output:
        splits="results/{name}/data/{dataset}/splits.safetensors",
        manifest="results/{name}/data/{dataset}/manifest.json",
    log:
        "results/{name}/logs/data/{dataset}.txt",
    benchmark:
        "results/{name}/benchmarks/data/{dataset}.tsv"
    threads: 1
    params:
        version=VERSIONS["data"],
        data=lookup("data/{dataset}", within=config),
    message:
        "Preparing {wildcards.dataset}"
    shell:
        "python -m arnas data --dataset {wildcards.dataset} 2>&1 | tee {log}"
