"""The distribution of token entropies, and the forking tokens in its upper tail."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from entropyctl.report.section import Figure, Section, Table, absent, axis, listed, share
from entropyctl.report.view import View
from entropyctl.show.text import number, shorten
from entropyctl.table.columns import flat_values, null_rows, row_lengths

Array = npt.NDArray[np.int64]
ID, NAME = "forking", "Forking tokens"
TITLE = "Where does the model hesitate?"
TAIL = 0.2  # the share of tokens of 2506.01939, and of `mask top-entropy`
WIDTH, BINS = 0.1, 150  # nats; the last bin holds all above 14.9
LISTED = 24
LARGEST_ID = 1 << 21  # no vocabulary is as large; what lies above it is no token


class Forking:
    """Running counts by entropy and by token."""

    def __init__(self) -> None:
        self._all = np.zeros(BINS, np.int64)
        self._tail = np.zeros(BINS, np.int64)
        self._nats = np.zeros(2)  # of all, of the tail
        self._thresholds: list[float] = []
        self._counts: npt.NDArray[np.float64] = np.empty((0, 3))  # by id: tokens, tokens in the tail, nats in the tail

    def add(self, view: View) -> None:
        """Add a step; its tail are the fifth of its tokens with the largest entropy."""
        if not view.has("entropies"):
            return
        known_N = view.own & ~np.isnan(view.values["entropies"])
        entropy_N = view.values["entropies"][known_N].astype(np.float64)
        if not len(entropy_N):
            return
        threshold = float(np.quantile(entropy_N, 1 - TAIL))
        tail_N = entropy_N > threshold
        bin_N = np.minimum((entropy_N / WIDTH).astype(np.int64), BINS - 1)
        self._all += np.bincount(bin_N, minlength=BINS)
        self._tail += np.bincount(bin_N[tail_N], minlength=BINS)
        self._nats += (entropy_N.sum(), entropy_N[tail_N].sum())
        self._thresholds.append(threshold)
        has_ids = "tokens" in view.rows.column_names and not null_rows(view.rows["tokens"]).any()
        if has_ids and np.array_equal(row_lengths(view.rows["tokens"]), view.lengths):
            self._count(flat_values(view.rows["tokens"])[known_N].astype(np.int64), tail_N, entropy_N)

    def _count(self, id_N: Array, tail_N: npt.NDArray[np.bool_], entropy_N: npt.NDArray[np.float64]) -> None:
        known_N = (id_N >= 0) & (id_N < LARGEST_ID)
        id_N, tail_N, entropy_N = id_N[known_N], tail_N[known_N], entropy_N[known_N]
        size = max(len(self._counts), int(id_N.max(initial=-1)) + 1)
        counts = [np.bincount(id_N, minlength=size), np.bincount(id_N[tail_N], minlength=size)]
        counts.append(np.bincount(id_N[tail_N], entropy_N[tail_N], size))
        grown = np.stack(counts, axis=1).astype(np.float64)
        grown[: len(self._counts)] += self._counts
        self._counts = grown

    def section(self, text_of: Callable[[int], str] | None) -> Section:
        """The section.

        Args:
            text_of: the text of a token; None where no tokenizer is at hand.
        """
        if not self._all.any():
            return absent(ID, NAME, TITLE, "scored tables (`entropyctl score --policy`), which have H of each token")
        low, high = min(self._thresholds), max(self._thresholds)
        ends = f"{number(low, 3)}" if low == high else f"{number(low, 3)} to {number(high, 3)}, by step,"
        part = float(self._tail.sum() / self._all.sum())
        carried = float(self._nats[1] / max(self._nats[0], 1e-300))
        title = f"{share(part)} of the tokens carry {share(carried)} of the entropy"
        lead = (
            f"Tokens by the entropy H of the distribution that they were drawn from, counted on a logarithmic scale. "
            f"Forking tokens are those above their step's 80th percentile ({ends} nats): the fifth in which the model "
            "decides what to say (arXiv 2506.01939), and which `mask top-entropy` trains alone."
        )
        notes = [
            "The table: how often a token was a fork, which share of its uses that is, and the mean H there, in nats."
        ]
        notes += (
            [] if text_of or not len(self._counts) else ["Tokens are numbers here; --tokenizer DIR gives their texts."]
        )
        return Section(ID, NAME, title, lead, self._figure(), self._table(text_of), notes)

    def _figure(self) -> Figure:
        last = int(np.flatnonzero(self._all)[-1]) + 1
        middle = (np.arange(last) + 0.5) * WIDTH
        total = self._all.sum()

        def bars(name: str, counts: Array, color: str) -> Figure:
            return {
                "type": "bar",
                "name": name,
                "x": listed(middle),
                "y": listed(np.where(counts[:last] > 0, 100 * counts[:last] / total, np.nan)),
                "customdata": counts[:last].tolist(),
                "width": WIDTH,
                "marker": {"color": color, "line": {"color": "@surface", "width": 0.5}},
                "hovertemplate": f"H about %{{x:.2f}} nats<br>{name}: %{{customdata:,}}, %{{y:.3g}} % of all"
                "<extra></extra>",
            }

        floor = int(np.floor(np.log10(100 / total)))
        ticks = [10.0**power for power in range(floor, 3)]
        layout = {
            "height": 400,
            "barmode": "overlay",
            "bargap": 0,
            "xaxis": axis("entropy H of a token, nats", rangemode="tozero"),
            "yaxis": axis(
                "share of the tokens, % (logarithmic)",
                type="log",
                range=[floor, 2],
                tickvals=ticks,
                ticktext=[f"{t:g}" if t >= 1e-3 else f"10<sup>{np.log10(t):.0f}</sup>" for t in ticks],
            ),
        }
        data = [bars("all tokens", self._all, "@blue"), bars("forking tokens", self._tail, "@orange")]
        return {"data": data, "layout": layout}

    def _table(self, text_of: Callable[[int], str] | None) -> Table | None:
        """The tokens that are most often in the tail."""
        order = np.argsort(-self._counts[:, 1], kind="stable")[:LISTED]
        order = order[self._counts[order, 1] > 0]
        if not len(order):
            return None
        titles = ["token", "id", "forks", "of its uses", "mean H"]
        rows = [
            [
                "" if text_of is None else shorten(text_of(int(i)), 30),
                str(i),
                f"{self._counts[i, 1]:,.0f}",
                share(float(self._counts[i, 1] / self._counts[i, 0])),
                number(float(self._counts[i, 2] / self._counts[i, 1]), 3),
            ]
            for i in order
        ]
        if text_of is None:
            return Table(titles[1:], [row[1:] for row in rows])
        return Table(titles, rows, text=titles[:1])
