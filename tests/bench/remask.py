"""Re-masking saved tokens: `entropyctl mask ... --only-new` against plain pyarrow, pandas and Python, in one run.

python tests/bench/remask.py [--tokens 20000000] [--step-tokens 1000000] [--rounds 5] [--directory DIR]

Every registered mask runs, with its defaults. Each way is a process of its own; figures are medians of CPU seconds over
interleaved rounds, start-up and all. The bound reads the same columns with plain pyarrow and writes the key with an
all-true list<bool>; "checked" is the ratio to one that has pyarrow prove the pages' checksums, as every stage does.
numpy's idle BLAS threads sleep in all of them, as in our commands: else 0.07 s of the bound would be spent waiting.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from entropyctl.inputs import needs
from entropyctl.registry import inputs_of, load_function, names
from entropyctl.table import new_record, write
from entropyctl.table.columns import list_column
from entropyctl.table.schema import KEY

ENTROPYCTL = [sys.executable, "-m", "entropyctl"]
IMPORTS = [sys.executable, "-c", "import numpy, pyarrow.parquet"]
BLAS = "OPENBLAS_THREAD_TIMEOUT"
# The prediction in a mask's summary reads these three, whatever the method needs.
SUMMARY = ("advantages", "s_star", "expected_s")
# A token's number follows from its own row, or from a deviation over the step. The others rank the step's tokens, or
# need its extrema, means or sums before they can say anything of a token.
ONE_PASS = ("clip-b", "clip-v", "erc", "importance", "none", "overlong", "quadrant", "random", "rejection", "sequence")
# What `encoding` writes: an integer and five floats for each token.
ENCODED = (*KEY, "tokens", "logprobs", "entropies", "s_star", "expected_s", "sum_p2")
GOAL_ONE_PASS, GOAL_OTHERS, GOAL_RATE, GOAL_MEGABYTES = 1.3, 2.0, 12, 300

BOUND = """
import sys, numpy as np, pyarrow as pa, pyarrow.parquet as pq
pa.set_cpu_count(1)
wanted = sys.argv[4:]
columns = ["step", "prompt_id", "sample", "loss_mask", *wanted]
source, writer = pq.ParquetFile(sys.argv[1], page_checksum_verification=sys.argv[3] == "checked"), None
for i in range(source.num_row_groups):
    rows = source.read_row_group(i, columns=columns, use_threads=False)
    lists = rows["loss_mask"].chunk(0)
    for name in wanted:
        if pa.types.is_list(rows[name].type):
            rows[name].chunk(0).flatten()
    bits = pa.py_buffer(np.full((len(lists.values) + 7) // 8, 255, np.uint8))
    items = pa.Array.from_buffers(pa.bool_(), len(lists.values), [None, bits])
    mask = pa.ListArray.from_arrays(lists.offsets, items)
    out = pa.table({"step": rows["step"], "prompt_id": rows["prompt_id"], "sample": rows["sample"], "mask": mask})
    writer = writer or pq.ParquetWriter(sys.argv[2], out.schema, compression="zstd", compression_level=1)
    writer.write_table(out)
writer.close()
"""

PANDAS = """
import sys, numpy as np, pandas as pd
rows = pd.read_parquet(sys.argv[1])
lengths = rows["s_star"].map(len).to_numpy()
flat = {n: np.concatenate(rows[n].to_numpy()) for n in ("s_star", "expected_s", "advantages")}
step = np.repeat(rows["step"].to_numpy(), lengths)
centred = flat["s_star"].astype(float) - flat["expected_s"]
keep = np.ones(len(step), bool)
for number in np.unique(step):
    at = step == number
    keep[at] = (flat["advantages"][at] > 0) | (centred[at] >= -8.5 * centred[at].std())
rows["loss_mask"] = np.split(keep, np.cumsum(lengths)[:-1])
rows.to_parquet(sys.argv[2])
"""

PYTHON = """
import sys, statistics, pyarrow as pa, pyarrow.parquet as pq
rows = pq.read_table(sys.argv[1]).to_pylist()
steps = {}
for row in rows:
    steps.setdefault(row["step"], []).append(row)
for group in steps.values():
    centred = [s - e for row in group for s, e in zip(row["s_star"], row["expected_s"])]
    sigma = statistics.pstdev(centred)
    for row in group:
        three = zip(row["s_star"], row["expected_s"], row["advantages"])
        row["loss_mask"] = [a > 0 or s - e >= -8.5 * sigma for s, e, a in three]
pq.write_table(pa.Table.from_pylist(rows), sys.argv[2])
"""


def one_step(number: int, tokens: int, longest: int = 2000) -> pa.Table:
    """A step of about `tokens` tokens in rows of ragged lengths, of 1000 tokens in the mean."""
    rng = np.random.default_rng(number)
    lengths = rng.integers(1, longest, 2 * tokens // longest)
    count, rows = int(lengths.sum()), len(lengths)
    entropies = rng.exponential(0.4, count)
    logprobs = -rng.exponential(0.3, count)
    floats = {
        "logprobs": logprobs,
        "entropies": entropies,
        "s_star": np.exp(logprobs) * (entropies + logprobs),
        "expected_s": entropies * rng.uniform(0, 0.3, count),
        "sum_p2": rng.uniform(0, 1, count),
        "advantages": np.repeat(rng.choice([-0.7, 0.0, 0.7], rows), lengths),
        "rollout_logprobs": logprobs + rng.normal(0, 0.02, count),
    }
    return pa.table(
        {
            "step": pa.array([number] * rows, pa.int64()),
            "prompt_id": [f"problem-{i // 8}" for i in range(rows)],
            "sample": pa.array([i % 8 for i in range(rows)], pa.int32()),
            "finish_reason": ["length" if i % 16 == 0 else "stop" for i in range(rows)],
            "tokens": list_column(rng.integers(50_000, size=count), lengths, pa.int32()),
            "loss_mask": list_column(np.ones(count, bool), lengths, pa.bool_()),
            **{name: list_column(values, lengths, pa.float32()) for name, values in floats.items()},
        }
    )


def make_file(path: Path, tokens: int, step_tokens: int) -> None:
    """`fill_file` in a process of its own: the kernel counts this one's peak memory as that of all it starts."""
    process = multiprocessing.Process(target=fill_file, args=(path, tokens, step_tokens))
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit(f"{path}: exit {process.exitcode}")


def fill_file(path: Path, tokens: int, step_tokens: int) -> None:
    """A table of saved tokens as `advantage` writes it."""
    context = {"sampling": {"temperature": 1.0}}
    with write(str(path), "advantaged", new_record("advantage grpo", {}), context=context) as sink:
        for number in range(1, max(tokens // step_tokens, 1) + 1):
            sink.put(number, one_step(number, min(step_tokens, tokens)))


def measured(command: list[str], *, asleep: bool = True) -> tuple[float, float]:
    """CPU seconds and peak megabytes of a process that finds its modules compiled, as an installed one does.

    Args:
        command: what is run.
        asleep: numpy's idle BLAS threads sleep at once, as in our commands, where they would spin for 0.07 s.
    """
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONDONTWRITEBYTECODE", BLAS)}
    environment |= {BLAS: "4"} if asleep else {}
    environment["PYTHONPYCACHEPREFIX"] = str(Path(tempfile.gettempdir()) / "entropyctl-bench-pycache")
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: exit {process.returncode}")
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def mask_command(method: str, source: Path, out: Path) -> list[str]:
    return [*ENTROPYCTL, "mask", *method.split(), str(source), "--only-new", "-q", "-o", str(out)]


def reads(method: str) -> list[str]:
    """The columns that a mask reads beside the key and the loss mask."""
    needed = [*SUMMARY, *needs(inputs_of(load_function("masks", method)))]
    return list(dict.fromkeys(name for name in needed if name not in (*KEY, "loss_mask")))


def remasking(source: Path, tokens: int, rounds: int) -> None:
    """CPU time of every mask against the bound of the columns that it reads."""
    out = source.with_name("out.parquet")
    columns = {method: reads(method) for method in names("masks")}
    commands = {f"mask {method}": mask_command(method, source, out) for method in columns}
    for wanted in columns.values():
        for kind in ("plain", "checked"):
            commands[f"{kind} {wanted}"] = [sys.executable, "-c", BOUND, str(source), str(out), kind, *wanted]
    commands["imports"] = IMPORTS
    figures: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
    for _ in range(rounds):
        for name, command in commands.items():
            figures[name].append(measured(command))
    cpu = {name: statistics.median(seconds for seconds, _ in values) for name, values in figures.items()}
    peak = {name: max(megabytes for _, megabytes in values) for name, values in figures.items()}
    imports = f"of which importing numpy and pyarrow is {cpu['imports']:.2f}"
    print(f"{tokens / 1e6:.0f} M tokens, median CPU seconds of {rounds} rounds, {imports}")
    heads = ("mask", "CPU s", "bound", "ratio", "goal", "checked", "Mtok/s", "goal", "MB", "goal")
    print("{:<12}{:>6}{:>7}{:>8}{:>5}{:>9}{:>9}{:>5}{:>7}{:>5}".format(*heads))
    for method, wanted in columns.items():
        seconds, bound, checked = cpu[f"mask {method}"], cpu[f"plain {wanted}"], cpu[f"checked {wanted}"]
        goal = GOAL_ONE_PASS if method in ONE_PASS else GOAL_OTHERS
        times = f"{method:<12}{seconds:6.2f}{bound:7.2f}{seconds / bound:8.2f}{goal:5}{seconds / checked:9.2f}"
        rate, megabytes = tokens / 1e6 / seconds, peak[f"mask {method}"]
        print(f"{times}{rate:9.1f}{GOAL_RATE:5}{megabytes:7.0f}{GOAL_MEGABYTES:5}")


def others(source: Path, tokens: int, step_tokens: int) -> None:
    """pandas on the same file, and row-wise Python on a step of it, against clip-v."""
    out = source.with_name("out.parquet")
    ours = measured(mask_command("clip-v", source, out))[0]
    pandas_seconds, pandas_peak = measured([sys.executable, "-c", PANDAS, str(source), str(out)])
    times = f"{pandas_seconds / ours:.1f}x clip-v, goal 4"
    print(f"pandas in and out: {pandas_seconds:.2f} s, {times}; peak {pandas_peak:.0f} MB")
    part = source.with_name("part.parquet")
    make_file(part, step_tokens, step_tokens)
    start = measured([sys.executable, "-c", "import pyarrow.parquet"])[0]
    scaled = (measured([sys.executable, "-c", PYTHON, str(part), str(out)])[0] - start) * tokens / step_tokens
    print(f"row-wise Python, scaled from a step: {scaled:.1f} s, {scaled / ours:.1f}x clip-v, goal 15")


def memory(source: Path, tokens: int, step_tokens: int) -> None:
    """Peak memory on a quarter of the file and on the whole."""
    quarter, out = source.with_name("quarter.parquet"), source.with_name("out.parquet")
    make_file(quarter, tokens // 4, step_tokens)
    for method in ("clip-v", "importance"):
        small, large = (measured(mask_command(method, path, out))[1] for path in (quarter, source))
        print(
            f"peak memory of {method}: {small:.0f} MB on a quarter, {large:.0f} MB on the whole, goal {GOAL_MEGABYTES}"
        )


def encoding(source: Path) -> None:
    """Size and writing time of our files against pyarrow's defaults, on a few steps.

    With row groups of 512 rows, about as many tokens as ours: a table in one row group cannot be read by step.
    """
    steps = [one_step(number, 1_000_000).select(ENCODED) for number in range(1, 4)]
    rows = pa.concat_tables(steps)
    ours, plain = source.with_name("ours.parquet"), source.with_name("plain.parquet")

    def by_us() -> None:
        with write(str(ours), "advantaged", new_record("advantage grpo", {})) as sink:
            for number, step in enumerate(steps, 1):
                sink.put(number, step)

    seconds = [(cpu_of(by_us), cpu_of(lambda: pq.write_table(rows, plain, row_group_size=512))) for _ in range(7)]
    us, default = (statistics.median(column) for column in zip(*seconds, strict=True))
    size = ours.stat().st_size / plain.stat().st_size
    times = f"writing with digests and fsync {us / default:.2f}x, goal 0.4"
    print(f"against pyarrow's defaults in row groups of 512 rows: size {size:.2f}x, goal 0.7; {times}")


def cpu_of(work: Callable[[], object]) -> float:
    """CPU seconds of a call in this process."""
    before = time.process_time()
    work()
    return time.process_time() - before


def startup(source: Path) -> None:
    """A tiny file, and what is imported for it."""
    tiny = source.with_name("tiny.parquet")
    make_file(tiny, 4000, 4000)
    command = mask_command("clip-v", tiny, source.with_name("out.parquet"))
    rounds = [(measured(command)[0], measured(IMPORTS)[0], measured(IMPORTS, asleep=False)[0]) for _ in range(15)]
    ours, asleep, spinning = (1000 * statistics.median(column) for column in zip(*rounds, strict=True))
    above = f"{ours - asleep:.0f} ms above importing numpy and pyarrow.parquet, goal 60"
    print(f"a tiny file: {ours:.0f} ms, {above}; {ours - spinning:.0f} ms above it where idle BLAS threads spin")
    light = "'no pandas, torch, sympy'"
    code = f"""
        import sys
        sys.argv[1:] = {command[3:]!r}
        from entropyctl.cli import main
        try:
            main()
        finally:
            print("imported:", [n for n in ("pandas", "torch", "sympy") if n in sys.modules] or {light})
    """
    print(subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True).stdout.strip())


def main() -> None:
    """Make the file, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tokens", type=int, default=20_000_000)
    parser.add_argument("--step-tokens", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--directory", help="where the files go; a temporary directory by default")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.directory) as directory:
        source = Path(directory) / "saved.parquet"
        make_file(source, options.tokens, options.step_tokens)
        remasking(source, options.tokens, options.rounds)
        memory(source, options.tokens, options.step_tokens)
        others(source, options.tokens, options.step_tokens)
        startup(source)
        encoding(source)


if __name__ == "__main__":
    main()
