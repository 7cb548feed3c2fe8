"""The entropy of the answers to a prompt: how a group's probability is spread over different answers."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


class SemanticEntropy(NamedTuple):
    """One number for each group, groups in ascending order; `index_B` leads from a row to its group."""

    entropy_G: Array  # nats
    clusters_G: Array  # K, how many different answers
    size_G: Array  # G, how many responses
    index_B: Array


def semantic_entropy(
    group: Array,
    cluster: Array,
    logprob: Array,
    *,
    estimator: Literal["rao", "mean-log", "counts"] = "rao",
    mass: Literal["normalised", "raw"] = "normalised",
) -> SemanticEntropy:
    """Semantic entropy of each group of responses, from the probabilities of its clusters of equal answers.

    p_k = sum over the responses of cluster k of exp(logprob), divided by its sum over the group where mass is
    normalised; with K clusters and G responses, n_k of them in cluster k:
    rao       SE = - sum_k p_k log p_k
    mean-log  SE = - (1/K) sum_k log p_k
    counts    SE = - sum_k (n_k / G) log(n_k / G), without regard to `logprob` and `mass`

    Sources: arXiv 2302.09664 (rao, and the mean over clusters); 2505.12346 (mean-log). rao with normalised mass and
    counts lie in [0, log K]; mean-log has no upper bound, and raw masses depend on length and may exceed 1. Masses
    are added as logarithms, so that none underflows.

    Args:
        group: `[B]` number of the row's group.
        cluster: `[B]` number of the row's answer; equal within a group = the same answer.
        logprob: `[B]` log-probability of the response, nats, summed over its tokens or their mean.
        estimator: rao, mean-log or counts.
        mass: normalised within the group, or raw.

    Returns:
        The entropies of the groups in nats, with counts.
    """
    _, index_B = np.unique(group, return_inverse=True)
    size_G = np.bincount(index_B)
    _, number_B = np.unique(cluster, return_inverse=True)
    key_B = index_B * (int(number_B.max(initial=0)) + 1) + number_B
    _, first_K, cluster_B = np.unique(key_B, return_index=True, return_inverse=True)
    group_K = index_B[first_K]
    clusters_G = np.bincount(group_K, minlength=len(size_G))
    logmass_B = np.zeros(len(index_B)) if estimator == "counts" else np.asarray(logprob, np.float64)
    logp_K = log_sums(logmass_B, cluster_B, len(first_K))
    if mass == "normalised" or estimator == "counts":
        logp_K = logp_K - log_sums(logmass_B, index_B, len(size_G))[group_K]
    term_K = logp_K / clusters_G[group_K] if estimator == "mean-log" else np.exp(logp_K) * logp_K
    entropy_G = 0.0 - np.bincount(group_K, term_K, len(size_G))
    return SemanticEntropy(entropy_G, clusters_G, size_G, index_B)


def log_sums(log_B: Array, part_B: Array, parts: int) -> Array:
    """log of the sum of exp(log_B) within each part."""
    top_P = np.full(parts, -np.inf)
    np.maximum.at(top_P, part_B, log_B)
    return top_P + np.log(np.bincount(part_B, np.exp(log_B - top_P[part_B]), parts))
