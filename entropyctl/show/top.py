"""The picture of a running loop: who is at work, who waits for whom, and where entropy and reward go."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from entropyctl.show.curve import curve
from entropyctl.show.text import number, shorten, visible
from entropyctl.table.activity import AT_WORK

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table
    from rich.text import Text

State = dict[str, Any]
Stage = dict[str, Any]

VERBS = {"rollout": "samples", "score": "scores", "update": "trains"}
TITLES = {
    "entropy": "entropy, nats",
    "reward": "reward",
    "predicted_change": "dH predicted",
    "realised_change": "dH realised",
}
STYLES = {"died": "bold red", "failed": "bold red", "silent": "yellow", "stopped": "yellow", "ended": "dim"}
BAR = 10
WIDE = 100  # columns from which the table has more to say


def picture(state: State, width: int, height: int, unicode: bool = True) -> RenderableType:
    """A screen of the state of a run.

    Args:
        state: what `look` returns.
        width: of the screen, in characters.
        height: of the screen, in lines; curves take what is left.
        unicode: the terminal has more than ASCII.
    """
    from rich.console import Group
    from rich.text import Text

    above: list[RenderableType] = [_title(state), _headline(state)]
    lines = 2
    if state["stages"]:
        above += ["", _table(state["stages"], width, unicode)]
        lines += 2 + len(state["stages"])
    messages = [_message(stage) for stage in state["stages"] if stage["message"]]
    above += messages
    if len(state["curves"]["step"]) == 0:
        return Group(*above, "", Text("no step has metrics yet (`update --metrics`)", style="dim"))
    left = height - lines - len(messages) - 2
    return Group(*above, "", _charts(state, width, min(max(left // 2 - 2, 2), 8), unicode))


def _title(state: State) -> Text:
    from rich.text import Text

    policy, text = state["policy"], Text(no_wrap=True, overflow="ellipsis")
    path = visible(state["run"])
    text.append(path if len(path) <= 40 else f"...{path[-37:]}", style="bold")
    if policy["version"] is not None:
        text.append(f"  version {policy['version']}", style="bold")
        text.append(f", step {policy['step']}" + (f" of {state['until']}" if state["until"] is not None else ""))
    lag = (state["last"] or {}).get("lag")
    text.append(f", lag {lag:.0f}" if lag is not None else "")
    if state["seconds_per_step"] is not None:
        text.append(f"   {duration(state['seconds_per_step'])} a step, {amount(state['tokens_per_second'])} tokens/s")
    if state["seconds_to_go"]:
        text.append(f"   {duration(state['seconds_to_go'])} to go")
    return text


def _headline(state: State) -> Text:
    """What one wants to know first: has somebody died, who is at work, who holds the others up."""
    from rich.text import Text

    stages = state["stages"]
    if lost := [stage for stage in stages if stage["standing"] in ("died", "failed", "silent", "stopped")]:
        first = lost[0]
        others = not any(stage["standing"] in ("runs", "stopped") for stage in stages)
        remedy = "; the same command goes on with the run" if others else ""
        return Text(f"{_name(first)} {_lost(first)}{remedy}", style=STYLES[first["standing"]])
    if not any(stage["standing"] == "runs" for stage in stages):
        step = (state["last"] or {}).get("step")
        until = f"; metrics up to step {step:.0f}" if step is not None else ""
        return Text(f"no process of this run is at work in a pipe{until}", style="yellow")
    at_work = [_name(stage) for stage in stages if stage["standing"] == "runs" and stage["doing"] in AT_WORK]
    waiting = sum(stage["waits_for"] is not None for stage in stages)
    text = Text(no_wrap=True, overflow="ellipsis")
    text.append(", ".join(at_work) or "nobody", style="bold green")
    text.append(f" {'are' if len(at_work) > 1 else 'is'} at work")
    text.append(f"; {waiting} wait{'s' if waiting == 1 else ''}" if waiting else "")
    busiest = next((stage for stage in stages if stage["stage"] == state["busiest"]), None)
    if busiest is not None and len(stages) > 1:
        text.append("   bottleneck: ")
        text.append(f"{_name(busiest)}, {busiest['share']:.0%} at work", style="bold")
    if [stage["place"] for stage in stages] == [0]:
        text.append("   the stages behind it appear with its first step", style="dim")
    return text


def _table(stages: list[Stage], width: int, unicode: bool) -> Table:
    from rich.table import Table

    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, expand=False, header_style="dim")
    table.add_column("", no_wrap=True, width=1)
    names = min(max(len(_name(stage)) for stage in stages), 24 if width >= WIDE else 16)
    others = 56 if width >= WIDE else 42
    table.add_column("stage", no_wrap=True, overflow="ellipsis", width=max(names, 5))
    # Of one width whatever is done, so that nothing jumps.
    table.add_column("does", no_wrap=True, overflow="ellipsis", width=min(max(width - max(names, 5) - others, 12), 44))
    table.add_column("for", justify="right", no_wrap=True, width=7)
    table.add_column("version", justify="right", no_wrap=True, width=7)
    table.add_column("at work", no_wrap=True, width=BAR + 5)
    table.add_column("tok/s", justify="right", no_wrap=True, width=6)
    if width >= WIDE:
        table.add_column("steps", justify="right", no_wrap=True, width=6)
        table.add_column("pid", justify="right", no_wrap=True, width=7)
    for stage in stages:
        cells = [_mark(stage, unicode), _name(stage), _does(stage), duration(stage["seconds"]), _version(stage)]
        cells += [_bar(stage["share"], unicode), amount(stage["tokens_per_second"])]
        cells += [str(stage["steps"]), str(stage["pid"])] if width >= WIDE else []
        table.add_row(*cells, style=_style(stage))
    return table


def _mark(stage: Stage, unicode: bool) -> str:
    if stage["standing"] in ("died", "failed"):
        return "✗" if unicode else "x"
    if stage["standing"] != "runs" or stage["waits_for"] is not None:
        return ""
    return "▶" if unicode else ">"


def _style(stage: Stage) -> str:
    if stage["standing"] != "runs":
        return STYLES[stage["standing"]]
    return "" if stage["waits_for"] is not None else "bold green"


def _name(stage: Stage) -> str:
    return shorten(stage["stage"], 24)


def _version(stage: Stage) -> str:
    if stage["version"] is None:
        return ""
    return f"{stage['version']} (-{stage['lag']})" if stage["lag"] else str(stage["version"])


def _does(stage: Stage) -> str:
    if stage["standing"] != "runs":
        return _lost(stage)
    if stage["waits_for"] is not None:
        return f"waits for {visible(stage['waits_for'])}{' to read' if stage['doing'] == 'writes' else ''}"
    return _work(stage)


def _work(stage: Stage) -> str:
    doing, step, about = visible(stage["doing"]), stage["step"], stage["about"]
    if doing == "computes":
        verb = VERBS.get(stage["stage"].partition(" ")[0], "computes")
        return verb if step is None else f"{verb} step {step}"
    if doing in ("loads", "publishes", "waits"):
        return f"{'waits for' if doing == 'waits' else doing} version {about}"
    return f"{doing} step {step}" if doing == "writes" else doing


def _lost(stage: Stage) -> str:
    standing, step = stage["standing"], stage["step"]
    at = "" if step is None else f" in step {step}"
    if standing == "silent":
        return f"has been silent{at}, on {shorten(stage['host'], 30)}"
    if standing in ("died", "stopped"):
        return f"{'died' if standing == 'died' else 'is stopped'}{at} (pid {stage['pid']})"
    return f"{'has ended' if standing == 'ended' else 'failed'}{at}"


def _message(stage: Stage) -> Text:
    from rich.text import Text

    return Text(f"{_name(stage)}: {shorten(str(stage['message']), 300)}", style="red")


def _bar(share: float | None, unicode: bool) -> str:
    if share is None:
        return ""
    full = round(share * BAR)
    return ("█" * full + "░" * (BAR - full) if unicode else "#" * full + "." * (BAR - full)) + f" {share:4.0%}"


def _charts(state: State, width: int, height: int, unicode: bool) -> Table:
    from rich.table import Table

    grid = Table.grid(padding=(0, 2, 0, 0))
    each = (width - 2) // 2
    charts = [_chart(state, name, each, height, unicode) for name in TITLES]
    grid.add_column(width=each)
    grid.add_column(width=each)
    grid.add_row(*charts[:2])
    grid.add_row(*charts[2:])
    return grid


def _chart(state: State, name: str, width: int, height: int, unicode: bool) -> Text:
    """A curve with its extremes at the left and, in the title, where it stands."""
    from rich.text import Text

    values = state["curves"][name]
    known = [value for value in values if value is not None]
    text = Text(no_wrap=True, overflow="crop")
    text.append(TITLES[name], style="bold")
    if not known:
        return text.append("  none", style="dim")
    text.append(f"  {number(float(known[-1]))}")
    if name == "realised_change":
        text.append(_agreement(state["curves"]), style="dim")
    elif name != "predicted_change" and known[1:]:
        text.append(f", at first {number(float(known[0]))}", style="dim")
    labels = [number(float(max(known))), *[""] * (height - 2), number(float(min(known)))]
    room = max(len(label) for label in labels)
    for label, line in zip(labels, curve(values, width - room - 1, height, braille=unicode), strict=True):
        text.append(f"\n{label:>{room}} ", style="dim")
        text.append(line, style="cyan")
    return text


def _agreement(curves: State) -> str:
    """How often the theory had the sign right: the size is that of free logits, which a network has not."""
    pairs = zip(curves["predicted_change"], curves["realised_change"], strict=True)
    signs = [(a > 0) == (b > 0) for a, b in pairs if a and b]
    return f", sign right {sum(signs)}/{len(signs)}" if signs else ""


def duration(seconds: float) -> str:
    """`0.4 s`, `12 s`, `3:05`, `1:02:03`, `3 d 04 h`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, hours, days = whole // 60, whole // 3600, whole // 86400
    if days:
        return f"{days} d {hours % 24:02d} h"
    return f"{hours}:{minutes % 60:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"


def amount(value: float | None) -> str:
    """`950`, `12.3 k`, `1.2 M`."""
    if value is None:
        return "-"
    for unit in ("", " k", " M"):
        if value < 999.5 or unit == " M":
            return f"{value:.0f}{unit}" if value >= 99.5 or not unit else f"{value:.1f}{unit}"
        value /= 1000
    return ""
