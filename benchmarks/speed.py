"""Speed against named baselines: ratios from one run, with the results asserted equal in the same run.

Ours and the baseline run in turn, `--repeats` times; the table holds medians. On a shared machine trust the ratios.
What each measurement compares stands in `speed_resampling.py` and `speed_whitebox.py`.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence

from timing import Result, machine, measured_model

MEASUREMENTS = ("resampling", "whitebox")


def main() -> None:
    options = _options()
    print_table(list(_results(options)))


def _results(options: argparse.Namespace) -> Iterator[Result]:
    from speed_resampling import resampling
    from speed_whitebox import results

    model, about = measured_model(options.model)
    repeats = options.repeats or (3 if options.quick else 7)
    few = 1 if options.quick else min(repeats, 3)
    print(machine(), f"model: {about}", f"medians of {repeats} interleaved repetitions (resampling: {few})", sep="\n")
    if "resampling" in options.only:
        yield from resampling(model, n=4 if options.quick else options.n, repeats=few, quick=options.quick)
    if "whitebox" in options.only:
        yield from results(repeats=repeats, quick=options.quick)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure speed against named baselines.")
    parser.add_argument("-n", type=int, default=100, help="rollouts a boundary")
    parser.add_argument("--repeats", type=int, help="repetitions of each measurement (default 7, or 3 with --quick)")
    parser.add_argument(
        "--quick", action="store_true", help="a few minutes: 4 rollouts a boundary, short traces, 3 repetitions"
    )
    parser.add_argument("--model", help="a local directory or hub id (default: lab/reasoner, else random weights)")
    parser.add_argument("--only", nargs="+", choices=MEASUREMENTS, default=MEASUREMENTS, help="what to measure")
    return parser.parse_args()


def print_table(results: Sequence[Result]) -> None:
    head = ("measurement", "ours", "baseline", "baseline/ours", "equality, asserted in this run")
    rows = [head, *(result.row for result in results)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    for row in rows:
        cells = [
            row[0].ljust(widths[0]),
            *(cell.rjust(w) for cell, w in zip(row[1:4], widths[1:4], strict=True)),
            row[4],
        ]
        print("  ".join(cells))


if __name__ == "__main__":
    main()
