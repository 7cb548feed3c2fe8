"""A table of a run's steps: entropy, reward, pass@k, predicted and realised change of entropy.

python examples/summary.py RUN        with RUN/metrics and RUN/evals
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from entropyctl.table.rows import read_rows


def evaluations(run: Path) -> dict[int, dict[str, Any]]:
    """The summary of each evaluated version, out of its file's record of provenance."""
    found = {}
    for path in sorted((run / "evals").glob("*.parquet")):
        record = read_rows(str(path)).header.chain[-1]
        for summary in record["summary"]["by_policy"]:
            found[summary["policy_version"]] = summary
    return found


def main() -> None:
    """Print the table."""
    run = Path(sys.argv[1])
    metrics = {row["policy_version"]: row for row in read_rows(str(run / "metrics")).rows.to_pylist()}
    evals = evaluations(run)
    ks = list(next(iter(evals.values()))["pass@k"])
    table = Table(title=f"{run.name}: version k-1 is trained into version k by step k")
    for name in ("version", *(f"pass@{k}" for k in ks), "eval entropy", "step", "reward", "entropy"):
        table.add_column(name, justify="right")
    for name in ("masked", "predicted dH at eta=lr", "realised dH"):
        table.add_column(name, justify="right")
    for version, summary in sorted(evals.items()):
        cells = [str(version), *(f"{summary['pass@k'][k]['mean']:.3f}" for k in ks), f"{summary['entropy']:.3f}"]
        if row := metrics.get(version):
            cells += [str(row["step"]), f"{row['reward']:.3f}", f"{row['entropy']:.3f}", f"{row['mask_fraction']:.1%}"]
            cells += [f"{row['predicted_change']:+.2e}", f"{row['realised_change']:+.4f}"]
        table.add_row(*cells)
    # Piped into a file, the table keeps the width that it needs.
    Console(width=None if sys.stdout.isatty() else 132).print(table)


if __name__ == "__main__":
    main()
