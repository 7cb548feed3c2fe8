"""From hidden states to log p, H, S*, E[S] and sum p^2 of each token, without holding the logits of all tokens."""

from entropyctl.tokenstats.batches import Sharing, forward_batches, token_batches
from entropyctl.tokenstats.forward import (
    response_hidden,
    score_sequences,
    token_values,
    value_sequences,
)
from entropyctl.tokenstats.head import Head
from entropyctl.tokenstats.split import SplitModel, split_critic, split_model
from entropyctl.tokenstats.statistics import (
    block_statistics,
    head_statistics,
    head_statistics_and_top,
    token_logprobs,
    token_logprobs_and_entropies,
)

__all__ = [
    "Head",
    "Sharing",
    "SplitModel",
    "block_statistics",
    "forward_batches",
    "head_statistics",
    "head_statistics_and_top",
    "response_hidden",
    "score_sequences",
    "split_critic",
    "split_model",
    "token_batches",
    "token_logprobs",
    "token_logprobs_and_entropies",
    "token_values",
    "value_sequences",
]
