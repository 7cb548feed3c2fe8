"""Moments of each group, given back to its rows."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


class GroupMoments(NamedTuple):
    """For each row the moments of its group, each `[B]`."""

    count_B: Array
    mean_B: Array
    std_B: Array  # unbiased; 0 for a group of one
    equal_B: Array  # True where all values of the group are the same number


def group_moments(values_B: Array, group_B: Array) -> GroupMoments:
    """Count, mean and unbiased deviation within groups, in float64.

    Args:
        values_B: a number for each row.
        group_B: the row's group; rows of a group need not stand together.
    """
    if len(values_B) == 0:
        empty = np.zeros(0)
        return GroupMoments(empty, empty, empty, empty.astype(bool))
    _, index_B = np.unique(group_B, return_inverse=True)
    count_G = np.bincount(index_B)
    mean_G = np.bincount(index_B, values_B) / count_G
    square_G = np.bincount(index_B, (values_B - mean_G[index_B]) ** 2)
    std_G = np.sqrt(square_G / np.maximum(count_G - 1, 1))
    low_G = np.full(len(count_G), np.inf)
    high_G = np.full(len(count_G), -np.inf)
    np.minimum.at(low_G, index_B, values_B)
    np.maximum.at(high_G, index_B, values_B)
    return GroupMoments(count_G[index_B], mean_G[index_B], std_G[index_B], (low_G == high_G)[index_B])
