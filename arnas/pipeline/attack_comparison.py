"""`python -m arnas compare`: evaluations beside each other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from arnas.evaluation.compare import Paired, compare_records
from arnas.evaluation.record import mixed_units, read_record
from arnas.reporting.format import accuracy_text
from arnas.runtime.errors import UserError

if TYPE_CHECKING:
    from arnas.evaluation.result import EvalResult


def compare_files(
    paths: Sequence[Path], *, allow_flagged: bool, allow_suites: bool
) -> tuple[Table, list[str]]:
    """Return a table of evaluations, best first, and what is to be said of it.

    Rows with a failed check come last and are not ranked unless `allow_flagged`. Two evaluations
    on the same images are compared image by image.

    Raises
    ------
    UserError
        For a single file, a damaged one, or two evaluations that cannot be compared.
    """
    if len(paths) < 2:
        raise UserError("compare needs two evaluations at least: name the JSONs of both.")
    found = {str(path): read_record(path) for path in paths}
    if len(found) < len(paths):
        raise UserError("compare names a file twice: name each evaluation once.")
    lines = list(filter(None, [mixed_units(found.values())]))
    if len(found) == 2:
        (first, second), names = found.values(), tuple(found)
        compared = compare_records(
            first,
            second,
            names=(names[0], names[1]),
            allow_flagged=allow_flagged,
            allow_suites=allow_suites,
        )
        for what, paired in (("clean", compared.clean), ("robust", compared.robust)):
            lines.append(f"{what}: {_in_words(paired)}")
        lines += [compared.summary, *compared.notes]
    return _table(found, allow_flagged), lines


def _in_words(paired: Paired) -> str:
    """Return a comparison on the same images in one sentence."""
    return (
        f"{paired.difference:+.2f} points [{paired.low:+.2f}, {paired.high:+.2f}]; right in both "
        f"{paired.both}, in the first only {paired.only_first}, in the second only "
        f"{paired.only_second}; exact McNemar p = {paired.p_value:.3g}"
    )


def _table(found: dict[str, EvalResult], allow_flagged: bool) -> Table:
    """Return evaluations as a table, those that may be ranked first."""
    table = Table(
        "rank", "evaluation", "model", "threat", "suite", "n", "clean", "robust", "checks"
    )

    def order(item: tuple[str, EvalResult]) -> tuple[bool, float]:
        ranked = item[1].reliable or allow_flagged
        return not ranked, -item[1].robust

    rank = 0
    for name, one in sorted(found.items(), key=order):
        failed = one.failed
        ranked = not failed or allow_flagged
        rank += ranked
        cells = (
            str(rank) if ranked else "-",
            name,
            str(one.provenance.get("model", "")),
            str(one.threat),
            one.suite,
            str(one.n),
            accuracy_text(one.clean_accuracy),
            accuracy_text(one.robust_accuracy),
            f"unreliable: {', '.join(failed)}" if failed else "no failure",
        )
        table.add_row(*map(Text, cells))
    return table
