"""Moments and order statistics of groups."""

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


class Sorted(NamedTuple):
    """Rows in order of their groups, within a group by value, rows of equal value in their own order."""

    order_B: Array  # the rows
    start_G: Array  # where in `order_B` each group begins
    count_G: Array  # rows of each group
    index_B: Array  # the row's group, counted from 0


def sorted_in_groups(values_B: Array, group_B: Array) -> Sorted:
    """Each group's rows from the smallest value to the largest.

    Args:
        values_B: a number for each row.
        group_B: the row's group; rows of a group need not stand together.
    """
    _, index_B, count_G = np.unique(group_B, return_inverse=True, return_counts=True)
    order_B = np.lexsort((values_B, index_B))
    return Sorted(order_B, np.cumsum(count_G) - count_G, count_G, index_B)
