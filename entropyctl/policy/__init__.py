"""Policies on disk: a checkpoint directory, or a directory of versions whose `latest` changes atomically."""

import os

# Stages of a pipe share the cores. An OpenMP thread that spins while it waits takes them from its neighbours:
# generation beside one busy process was measured at 6 tokens/s spinning and 21 sleeping. Must precede `import torch`.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "0")

from entropyctl.policy.versions import Policy, find_policy

__all__ = ["Policy", "find_policy"]
