"""Re-masking saved tokens: `entropyctl mask ... --only-new` against plain pyarrow, pandas and Python, in one run.

python tests/bench/remask.py [--tokens 20000000] [--step-tokens 1000000] [--rounds 5] [--directory DIR]

Each way is a process of its own; figures are medians of CPU seconds over interleaved rounds. The bound reads the same
columns with plain pyarrow and writes the key with an all-true list<bool>.
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
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from entropyctl.table import new_record, write
from entropyctl.table.columns import list_column

ENTROPYCTL = [sys.executable, "-m", "entropyctl"]

BOUND = """
import sys, numpy as np, pyarrow as pa, pyarrow.parquet as pq
pa.set_cpu_count(1)
columns = ["step", "prompt_id", "sample", "loss_mask", *sys.argv[3:]]
source, writer = pq.ParquetFile(sys.argv[1]), None
for i in range(source.num_row_groups):
    rows = source.read_row_group(i, columns=columns, use_threads=False)
    lists = rows["loss_mask"].chunk(0)
    for name in sys.argv[3:]:
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
    }
    return pa.table(
        {
            "step": pa.array([number] * rows, pa.int64()),
            "prompt_id": [f"problem-{i // 8}" for i in range(rows)],
            "sample": pa.array([i % 8 for i in range(rows)], pa.int32()),
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


def measured(command: list[str]) -> tuple[float, float]:
    """CPU seconds and peak megabytes of a process that finds its modules compiled, as an installed one does."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPYCACHEPREFIX"] = str(Path(tempfile.gettempdir()) / "entropyctl-bench-pycache")
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: exit {process.returncode}")
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def mask_command(method: str, source: Path, out: Path) -> list[str]:
    return [*ENTROPYCTL, "mask", *method.split(), str(source), "--only-new", "-q", "-o", str(out)]


def remasking(source: Path, tokens: int, rounds: int) -> None:
    """CPU time of masks against the bound of the columns that each reads."""
    out = source.with_name("out.parquet")
    reads = {
        "clip-v": [],
        "clip-b": [],
        "top-entropy": ["entropies"],
        "steer": ["logprobs", "entropies"],
        "kl-cov": ["logprobs"],
        "clip-cov": ["logprobs"],
        "archer": ["logprobs", "entropies"],
        "sent": ["logprobs", "entropies"],
        "entropic": ["logprobs", "entropies"],
        "probability": ["logprobs"],
        "budget": ["logprobs", "entropies"],
    }
    startup = [sys.executable, "-c", "import numpy, pyarrow.parquet"]
    # The prediction in a mask's summary reads these three, whatever the method needs.
    reads = {name: ["advantages", "s_star", "expected_s", *names] for name, names in reads.items()}
    commands = {f"mask {name}": mask_command(name, source, out) for name in reads}
    for names in reads.values():
        commands[f"bound {' '.join(names)}"] = [sys.executable, "-c", BOUND, str(source), str(out), *names]
    commands |= {"startup": startup}
    figures: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
    for _ in range(rounds):
        for name, command in commands.items():
            figures[name].append(measured(command))
    cpu = {name: statistics.median(seconds for seconds, _ in values) for name, values in figures.items()}
    peak = {name: max(megabytes for _, megabytes in values) for name, values in figures.items()}
    print(
        f"{tokens / 1e6:.0f} M tokens, median CPU seconds of {rounds} rounds; start-up {cpu['startup']:.2f} s is in all"
    )
    print(f"{'mask':<12} {'CPU s':>7} {'bound':>7} {'ratio':>6} {'Mtok/s':>7} {'peak MB':>8}")
    for name, names in reads.items():
        seconds, bound = cpu[f"mask {name}"], cpu[f"bound {' '.join(names)}"]
        rate = tokens / 1e6 / seconds
        print(f"{name:<12} {seconds:7.2f} {bound:7.2f} {seconds / bound:6.2f} {rate:7.1f} {peak[f'mask {name}']:8.0f}")


def others(source: Path, tokens: int, step_tokens: int) -> None:
    """pandas on the same file, and row-wise Python on a step of it, against clip-v."""
    out = source.with_name("out.parquet")
    ours = measured(mask_command("clip-v", source, out))[0]
    pandas_seconds, pandas_peak = measured([sys.executable, "-c", PANDAS, str(source), str(out)])
    print(f"pandas in and out: {pandas_seconds:.2f} s, {pandas_seconds / ours:.1f}x clip-v, peak {pandas_peak:.0f} MB")
    part = source.with_name("part.parquet")
    make_file(part, step_tokens, step_tokens)
    start = measured([sys.executable, "-c", "import pyarrow.parquet"])[0]
    scaled = (measured([sys.executable, "-c", PYTHON, str(part), str(out)])[0] - start) * tokens / step_tokens
    print(f"row-wise Python, scaled from a step: {scaled:.1f} s, {scaled / ours:.1f}x clip-v")


def memory(source: Path, tokens: int, step_tokens: int) -> None:
    """Peak memory on a quarter of the file and on the whole."""
    quarter, out = source.with_name("quarter.parquet"), source.with_name("out.parquet")
    make_file(quarter, tokens // 4, step_tokens)
    small, large = (measured(mask_command("clip-v", path, out))[1] for path in (quarter, source))
    print(f"peak memory of clip-v: {small:.0f} MB on a quarter, {large:.0f} MB on the whole ({large / small:.2f}x)")


def encoding(source: Path) -> None:
    """Size and writing time of our files against pyarrow's defaults, on a few steps.

    With row groups of 512 rows, about as many tokens as ours: a table in one row group cannot be read by step.
    """
    steps = [one_step(number, 1_000_000).drop_columns(["advantages", "loss_mask"]) for number in range(1, 4)]
    rows = pa.concat_tables(steps)
    ours, plain = source.with_name("ours.parquet"), source.with_name("plain.parquet")

    def by_us() -> None:
        with write(str(ours), "advantaged", new_record("advantage grpo", {})) as sink:
            for number, step in enumerate(steps, 1):
                sink.put(number, step)

    seconds = [[cpu_of(by_us), cpu_of(lambda: pq.write_table(rows, plain, row_group_size=512))] for _ in range(3)]
    us, default = (statistics.median(column) for column in zip(*seconds, strict=True))
    size = ours.stat().st_size / plain.stat().st_size
    times = f"writing with digests and fsync {us / default:.2f}x"
    print(f"against pyarrow's defaults in row groups of 512 rows: size {size:.2f}x, {times}")


def cpu_of(work: object) -> float:
    """CPU seconds of a call in this process."""
    assert callable(work)
    before = os.times()
    work()
    after = os.times()
    return (after.user + after.system) - (before.user + before.system)


def startup(source: Path) -> None:
    """A tiny file, and what is imported for it."""
    tiny = source.with_name("tiny.parquet")
    make_file(tiny, 4000, 4000)
    command = mask_command("clip-v", tiny, source.with_name("out.parquet"))
    base = [sys.executable, "-c", "import numpy, pyarrow.parquet"]
    pairs = [(measured(command)[0], measured(base)[0]) for _ in range(9)]
    ours, plain = (statistics.median(column) for column in zip(*pairs, strict=True))
    print(
        f"a tiny file: {1000 * ours:.0f} ms, {1000 * (ours - plain):.0f} ms above importing numpy and pyarrow.parquet"
    )
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
