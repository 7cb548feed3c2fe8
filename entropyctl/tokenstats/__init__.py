"""From hidden states to log p, H, S*, E[S] and sum p^2 of each token, without holding the logits of all tokens."""

from entropyctl.tokenstats.batches import token_batches
from entropyctl.tokenstats.blocks import block_statistics, token_logprobs, token_logprobs_and_entropies
from entropyctl.tokenstats.forward import (
    forward_batches,
    response_hidden,
    score_sequences,
    token_values,
    value_sequences,
)
from entropyctl.tokenstats.split import Head, SplitModel, split_critic, split_model

__all__ = [
    "Head",
    "SplitModel",
    "block_statistics",
    "forward_batches",
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
