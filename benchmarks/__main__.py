"""`python -m benchmarks`: measure, print, and with `--out` save."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks import growth, overview, regression, start
from benchmarks.cases import CASES
from benchmarks.goals import Case, run
from benchmarks.machine import processor
from benchmarks.output import README, fill, save
from benchmarks.quiet import Quiet
from benchmarks.regression import last_run
from benchmarks.report import Results, starting, tables
from benchmarks.sampling import Plan, Timings, compare
from benchmarks.tables import show
from benchmarks.workloads import DTYPES, Workload, make

QUICK_CUT = 32


def main(arguments: list[str] | None = None) -> int:
    """Measure what was asked for."""
    options = _parser().parse_args(arguments)
    quiet = Quiet(8 << 20, patience=0.0) if options.quick else Quiet()
    plan = Plan(quiet, enough=1, least=1) if options.quick else Plan(quiet)
    cut = QUICK_CUT if options.quick else 1
    chosen = [case for case in CASES if _matches(options.only, case.name)]
    seconds = 0.0 if options.quick else options.seconds
    curves = growth.grow(plan, seconds / 4, cut) if _matches(options.only, "growth") else []
    starts = start.measure(1 if options.quick else 9) if _matches(options.only, "start") else []

    def timings(case: Case, workload: Workload, share: float) -> Timings:
        return compare(case.candidates(workload), plan, share, case.in_cache)

    found = list(run(chosen, lambda name, dtype: make(name, DTYPES[dtype], cut), timings, seconds))
    results = Results(found, curves, starts)
    last = {} if options.quick else last_run(processor())
    every = [*tables(results), regression.table(found, last)] if options.all else starting(results)
    show(table for table in [overview.table(found, last), *every] if table.lines)
    for path in save(results, options.out, options.quick, last) if options.out else []:
        print(f"wrote {path}")
    if options.readme:
        README.write_text(fill(README.read_text(encoding="utf-8"), results), encoding="utf-8")
    return 0


def _matches(pattern: str, name: str) -> bool:
    return pattern.lower() in name.lower()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", metavar="TEXT", default="", help="what has TEXT in its name; also: growth, start")
    parser.add_argument("--seconds", type=float, default=240.0, help="to sample the cases; a quarter more for growth")
    parser.add_argument("--all", action="store_true", help="print the goals, every time and every change, too")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="save pages, figures and pictures there")
    parser.add_argument("--readme", action="store_true", help="fill the table of speed in README.md")
    parser.add_argument("--quick", action="store_true", help="a trial run: matrices cut short, one sample each")
    return parser


if __name__ == "__main__":
    sys.exit(main())
