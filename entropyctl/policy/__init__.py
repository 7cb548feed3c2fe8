"""Policies on disk: a checkpoint directory, or a directory of versions whose `latest` changes atomically."""

from entropyctl.policy.versions import Policy, find_policy

__all__ = ["Policy", "find_policy"]
