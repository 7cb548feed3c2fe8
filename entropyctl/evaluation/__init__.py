"""Evaluations of a policy: sampled and scored in one process, resumed, recorded, watched and handed on.

The numbers themselves are those of `laws`.
"""
