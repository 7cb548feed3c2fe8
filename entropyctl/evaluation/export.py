"""Evaluations in the formats of other tools."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pyarrow as pa

from entropyctl.errors import UsageError
from entropyctl.evaluation.evaluation import Evaluation
from entropyctl.table.atomic import write_text
from entropyctl.table.header import Record


def passk_jsonl(found: Evaluation, summary: dict[str, Any], record: Record) -> str:
    """A line `{"id", "c", "n"}` for each problem, as passk-inference reads."""
    rows = zip(
        *(_one_version(found.evals, found.path)[name].to_pylist() for name in ("prompt_id", "c", "n")), strict=True
    )
    return "".join(json.dumps({"id": name, "c": c, "n": n}) + "\n" for name, c, n in rows)


def lm_eval(found: Evaluation, summary: dict[str, Any], record: Record) -> str:
    """An object such as lm-evaluation-harness writes into results_*.json: a task for each data source, and pooled.

    Metrics are `NAME,none` with `NAME_stderr,none` beside them; the standard error is that over problems.
    """
    _one_version(found.evals, found.path)
    groups = {group["data_source"]: group for group in summary["by_data_source"]}
    if [group["problems"] for group in groups.values()] != [summary["pooled"]["problems"]]:
        groups["pooled"] = summary["pooled"]
    names = {task: _metrics(group) for task, group in groups.items()}
    sampling = {"do_sample": True, **found.context.get("sampling", {})}
    exported = {
        "results": {task: {"alias": task, **metrics} for task, metrics in names.items()},
        "configs": {
            task: {"task": task, "repeats": group["n"], "generation_kwargs": sampling} for task, group in groups.items()
        },
        "higher_is_better": {
            task: {name.partition(",")[0]: True for name in metrics if "_stderr" not in name}
            for task, metrics in names.items()
        },
        "n-samples": {
            task: {"original": group["problems"], "effective": group["problems"]} for task, group in groups.items()
        },
        "config": {"model": "entropyctl", "model_args": {"policy": record.get("policy"), **found.facts}},
        "date": datetime.fromisoformat(record["started"]).timestamp(),
    }
    return json.dumps(exported, indent=2) + "\n"


def _metrics(group: dict[str, Any]) -> dict[str, float | None]:
    entries = {f"pass@{k}": entry for k, entry in group["pass@k"].items()} | {f"avg@{group['n']}": group["avg@n"]}
    entries |= {f"cons@{k}": entry for k, entry in (group["cons@k"] or {}).items()}
    found: dict[str, float | None] = {}
    for name, entry in entries.items():
        found |= {f"{name},none": entry["mean"], f"{name}_stderr,none": entry["se"]}
    return found


def _one_version(evals: pa.Table, path: str) -> pa.Table:
    if len(versions := sorted(set(evals["policy_version"].to_pylist()))) > 1:
        listed = ", ".join(map(str, versions))
        raise UsageError(f"{path}: holds the policy versions {listed}; export files of one version each")
    return evals


FORMATS: dict[str, Callable[[Evaluation, dict[str, Any], Record], str]] = {
    "passk-jsonl": passk_jsonl,
    "lm-eval": lm_eval,
}


def parse_export(text: str) -> tuple[str, str | None]:
    """`passk-jsonl=curve.jsonl` as a format and a file; without a file it goes to standard output.

    Raises:
        UsageError: there is no such format.
    """
    name, _, path = text.partition("=")
    if name not in FORMATS:
        raise UsageError(f"--export {text}: there is no format '{name}'; known: {', '.join(FORMATS)}")
    return name, path or None


def export(name: str, path: str | None, found: Evaluation, summary: dict[str, Any], record: Record) -> None:
    """Write an evaluation in a format, whole or not at all.

    Raises:
        OutputError: the file cannot be written.
        UsageError: the format holds one version of a policy alone.
    """
    text = FORMATS[name](found, summary, record)
    if path is None:
        sys.stdout.write(text)
    else:
        write_text(path, text)
