"""From hidden states to log p, H, S*, E[S] and sum p^2 of each token, without holding the logits of all tokens."""

from entropyctl.tokenstats.batches import token_batches
from entropyctl.tokenstats.blocks import block_statistics, token_logprobs
from entropyctl.tokenstats.forward import response_hidden, score_sequences
from entropyctl.tokenstats.head import Head, find_head

__all__ = [
    "Head",
    "block_statistics",
    "find_head",
    "response_hidden",
    "score_sequences",
    "token_batches",
    "token_logprobs",
]
