#!/usr/bin/env bash
# Rerun the committed tables in copies of the checkout: the digits default under Snakemake, the smoke
# preset under DVC. Fails when a table drifts by the rule of arnas/reporting/run/reproduction.py.
set -euo pipefail
root=$(git rev-parse --show-toplevel)
cd "$root"
copies=$(mktemp -d)
trap 'rm -rf "$copies"' EXIT

# A copy has the files of the working tree, edits included, but none of its results.
copy() {
    git clone --quiet --no-hardlinks . "$copies/$1"
    git ls-files -z --cached --others --exclude-standard |
        xargs -0 -I{} sh -c '[ ! -e "$1" ] || cp --parents "$1" "$2"' _ {} "$copies/$1"
    rm -rf "$copies/$1"/results/tables/*
}

echo "== digits under Snakemake"
copy snakemake
(cd "$copies/snakemake" && snakemake --cores all --quiet rules)
python -m arnas reproduces results/tables/digits "$copies/snakemake/results/tables/digits"
(cd "$copies/snakemake" && PYTHONPATH=. python tests/workflow/table_against_command.py)

echo "== smoke under DVC"
copy dvc
(cd "$copies/dvc" && python -m arnas params use smoke && dvc repro --quiet)
python -m arnas reproduces results/tables/smoke "$copies/dvc/results/tables/smoke" \
    --params workflow/presets/smoke.yaml
