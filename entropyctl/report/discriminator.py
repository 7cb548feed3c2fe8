"""S* against the probability of the token, with what the mask did."""

from __future__ import annotations

import numpy as np

from entropyctl.dynamics.discriminator import s_star_bounds
from entropyctl.report.sampling import Strata
from entropyctl.report.section import Figure, Section, absent, axis, listed, share
from entropyctl.report.view import MARKS, View

ID, NAME = "discriminator", "S* and the mask"
TITLE = "Which tokens move the entropy, and which does the mask hold back?"
# Points of each kind in each slice of the probability: most tokens are all but certain, and would bury the others.
SLICES, POINTS = 30, 40
STYLE = {
    "kept": ("@blue", "circle", 5, "pulls on the weights"),
    "masked": ("@orange", "x", 7, "left out by the mask"),
    "penalised": ("@purple", "diamond-open", 7, "held by a KL penalty"),
}


class Discriminator:
    """Tokens drawn from all steps, a few of each kind in each slice of the probability."""

    def __init__(self) -> None:
        self._strata = Strata(SLICES * len(MARKS), POINTS, width=3)
        self._tokens = np.zeros(len(MARKS), np.int64)
        self._marked = False

    def add(self, view: View) -> None:
        """Add a step; without statistics of the tokens it says nothing."""
        if not view.has("s_star", "logprobs", "entropies"):
            return
        s_star, logp, entropy = (view.values[name] for name in ("s_star", "logprobs", "entropies"))
        known_N = view.own & ~np.isnan(s_star) & ~np.isnan(logp) & ~np.isnan(entropy)
        mark_N = np.zeros(len(known_N), np.int64) if view.mark is None else view.mark
        self._marked |= view.mark is not None
        self._tokens += np.bincount(mark_N[known_N], minlength=len(MARKS))
        p_N = np.exp(np.where(known_N, logp, 0.0))
        slice_N = np.minimum((p_N * SLICES).astype(np.int64), SLICES - 1)
        self._strata.add(view.number, np.where(known_N, slice_N * len(MARKS) + mark_N, -1), (p_N, s_star, entropy))

    def section(self, vocabulary: int | None) -> Section:
        """The section.

        Args:
            vocabulary: how many tokens there are; None where it is not known.
        """
        if not self._tokens.sum():
            return absent(ID, NAME, TITLE, "scored tables (`entropyctl score --policy`), which have S* of each token")
        lead = (
            "S* = p (H + log p) of a sampled token against its probability p; reinforcing a token of S* > E[S] lowers "
            f"the entropy. Sampled: at most {POINTS} tokens of each kind in each of {SLICES} equal slices of p, out of "
            f"{self._tokens.sum():,}. No S* lies below the lower dotted line, p(1−p) log(p/(1−p))"
        )
        lead += f", or more than p(1−p) log(V−1) above it, V = {vocabulary:,}." if vocabulary else "."
        masked = self._tokens[1:] / self._tokens.sum()
        title = f"The mask takes the gradient from {share(float(masked[0]))} of the tokens"
        if masked[1]:
            title = f"The mask penalises {share(float(masked[1]))} of the tokens" + (
                f", and takes the gradient from {share(float(masked[0]))}" if masked[0] else ""
            )
        notes = []
        if not self._marked:
            title = "Which tokens move the entropy?"
            notes = ["Masked tokens are marked where masks are given too (`entropyctl mask NAME --only-new -o FILE`)."]
        return Section(ID, NAME, title, lead, self._figure(vocabulary), notes=notes)

    def _figure(self, vocabulary: int | None) -> Figure:
        p = np.concatenate([[1e-4], np.linspace(0.005, 0.995, 100), [1 - 1e-4]])
        highest = self._strata.values[:, 1].max()
        bounds = [bound for bound in s_star_bounds(p, vocabulary) if bound is not None]
        data: list[Figure] = [
            {
                "type": "scatter",
                "mode": "lines",
                "name": "bounds of S*",
                "legendgroup": "bounds",
                "showlegend": i == 0,
                "x": listed(p),
                "y": listed(bound),
                "line": {"color": "@muted", "width": 1.5, "dash": "dot"},
                "hoverinfo": "skip",
            }
            for i, bound in enumerate(bounds)
        ]
        for kind, (mark, (color, symbol, size, words)) in enumerate(STYLE.items()):
            chosen = self._strata.stratum % len(MARKS) == kind
            if chosen.any():
                p_M, s_M, h_M = self._strata.values[chosen].T
                data.append(
                    {
                        "type": "scatter",
                        "mode": "markers",
                        "name": words if self._marked else "a token",
                        "x": listed(p_M),
                        "y": listed(s_M),
                        "customdata": listed(h_M),
                        "marker": {"color": color, "symbol": symbol, "size": size, "opacity": 0.75},
                        "hovertemplate": f"{mark if self._marked else 'a token'}<br>p %{{x:.3g}}, S* %{{y:.3g}}, "
                        "H %{customdata:.3g} nats<extra></extra>",
                    }
                )
        layout = {
            "height": 460,
            "xaxis": axis("probability p of the sampled token", range=[-0.02, 1.02]),
            "yaxis": axis(
                "S*, nats", zeroline=True, range=[float(bounds[0].min()) - 0.05, float(highest) * 1.15 + 0.05]
            ),
        }
        return {"data": data, "layout": layout}
