"""Looking into saved tokens: `entropyctl inspect` and `compare` against a mask over the same file, in one run.

python tests/bench/look.py [--tokens 20000000] [--step-tokens 1000000] [--rounds 3] [--directory DIR]

Each way is a process of its own; figures are medians of CPU seconds over interleaved rounds.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

from remask import ENTROPYCTL, make_file, mask_command, measured

CONDITION = "advantages > 0 and entropies > 2"


def commands(source: Path) -> dict[str, list[str]]:
    """What is measured; the mask comes first."""
    one, other = (source.with_name(f"{name}.parquet") for name in ("one", "other"))
    for method, out in (("clip-v --mu 1", one), ("clip-b", other)):
        measured(mask_command(method, source, out))
    inspect = [*ENTROPYCTL, "inspect", str(source)]
    return {
        "mask clip-v": mask_command("clip-v", source, source.with_name("out.parquet")),
        "--where, --rows 20": [*inspect, "--where", CONDITION, "--rows", "20"],
        "--where, overview of all columns": [*inspect, "--where", CONDITION],
        "--top 20": [*inspect, "--top", "20"],
        "--where, --top 20": [*inspect, "--where", CONDITION, "--top", "20"],
        "--histogram entropies": [*inspect, "--histogram", "entropies"],
        "the same, --by 'advantages > 0'": [*inspect, "--histogram", "entropies", "--by", "advantages > 0"],
        "overview of all columns": inspect,
        "compare": [*ENTROPYCTL, "compare", str(one), str(other), "--base", str(source)],
    }


def main() -> None:
    """Make the file, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tokens", type=int, default=20_000_000)
    parser.add_argument("--step-tokens", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--directory", help="where the files go; a temporary directory by default")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.directory) as directory:
        source = Path(directory) / "saved.parquet"
        make_file(source, options.tokens, options.step_tokens)
        ways = commands(source)
        figures: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
        for _ in range(options.rounds):
            for name, command in ways.items():
                figures[name].append(measured(command))
    cpu = {name: statistics.median(seconds for seconds, _ in values) for name, values in figures.items()}
    mask = next(iter(cpu.values()))
    print(f"{options.tokens / 1e6:.0f} M tokens, median CPU seconds of {options.rounds} rounds")
    print(f"{'':<34} {'CPU s':>7} {'of mask':>8} {'Mtok/s':>7} {'peak MB':>8}")
    for name, seconds in cpu.items():
        peak = max(megabytes for _, megabytes in figures[name])
        print(f"{name:<34} {seconds:7.2f} {seconds / mask:8.2f} {options.tokens / 1e6 / seconds:7.1f} {peak:8.0f}")


if __name__ == "__main__":
    main()
