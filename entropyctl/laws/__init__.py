"""What a run teaches: pass@k of its evaluations, and the law between entropy and performance."""

from entropyctl.laws.entropy_law import LawFit, fit_law
from entropyctl.laws.majority import consensus_at_k, majority_correct
from entropyctl.laws.pass_at_k import pass_at_k, pass_curve

__all__ = ["LawFit", "consensus_at_k", "fit_law", "majority_correct", "pass_at_k", "pass_curve"]
