"""Attention over a packed row: several texts behind one another, none of which sees another.

transformers calls it by the name under which it is registered here. Without a packing it is the library's own `sdpa`,
except that it caps the scores of a model that has such a cap (Gemma 2), which `sdpa` leaves out without a word.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "entropyctl"

# Of a block of so many queries, only keys up to its end are multiplied; torch's kernel multiplies 512 at a time.
QUERIES = 128

# Stands for the mask, which the packing is: transformers leaves alone what has four dimensions.
NO_MASK = torch.ones(1, 1, 1, 1, dtype=torch.bool)


class Segment(NamedTuple):
    """Tokens `start` to `end` of a row, which follow one another in a text.

    The text may begin with a prompt that stands elsewhere in the row, at `prompt_start` to `prompt_end`.
    """

    start: int
    end: int
    prompt_start: int = 0
    prompt_end: int = 0


class Block(NamedTuple):
    """Queries of one segment, and the keys that they may see: as many pieces of the row as they stand in."""

    queries: slice
    keys: tuple[slice, ...]


class Varlen(NamedTuple):
    """A packing as kernels for texts of various lengths want it; int32, but for `keys`."""

    query_starts: Tensor
    key_starts: Tensor
    longest_query: int
    longest_key: int
    keys: Tensor


class Packing:
    """What attention must know of a row that holds several texts.

    Attributes:
        segments: they cover the row in its order.
        windows: how far back each call of the attention so far was to see; None for everything.
    """

    def __init__(self, segments: Sequence[Segment]) -> None:
        self.segments = segments
        self.windows: list[int | None] = []
        self._blocks: dict[int | None, list[Block]] = {}
        self._masks: dict[tuple[int | None, torch.dtype], Tensor] = {}
        self._varlen: Varlen | None = None

    def blocks(self, window: int | None) -> list[Block]:
        """The row in blocks of queries."""
        if window not in self._blocks:
            self._blocks[window] = [block for one in self.segments for block in _blocks(one, window)]
        return self._blocks[window]

    def mask(self, block: Block, window: int | None, like: Tensor) -> Tensor:
        """Whom the queries of a block see, `[queries, keys]`: 0 or -inf; a view of one mask for all blocks.

        Queries and keys of a block end at the same token, so that their distance is the same counted from the end.
        """
        key = (window, like.dtype)
        if key not in self._masks:
            longest = max(one.end - one.start + one.prompt_end - one.prompt_start for one in self.segments)
            back = torch.arange(QUERIES, device=like.device).flip(0)[:, None]
            distance = torch.arange(longest, device=like.device).flip(0)[None, :] - back
            seen = distance >= 0 if window is None else (distance >= 0) & (distance < window)
            self._masks[key] = torch.zeros_like(seen, dtype=like.dtype).masked_fill_(~seen, -torch.inf)
        width = sum(part.stop - part.start for part in block.keys)
        mask = self._masks[key]
        return mask[QUERIES - (block.queries.stop - block.queries.start) :, mask.shape[1] - width :]

    def varlen(self, device: torch.device) -> Varlen:
        """The same for a kernel that takes all texts at once; the keys of a shared prompt are repeated for it."""
        if self._varlen is None:
            queries = [one.end - one.start for one in self.segments]
            parts = [[(one.prompt_start, one.prompt_end), (one.start, one.end)] for one in self.segments]
            keys = [torch.cat([torch.arange(*part) for part in pair]) for pair in parts]
            self._varlen = Varlen(
                _starts(queries).to(device),
                _starts([len(one) for one in keys]).to(device),
                max(queries),
                max(len(one) for one in keys),
                torch.cat(keys).to(device),
            )
        return self._varlen


def _blocks(one: Segment, window: int | None) -> list[Block]:
    found = []
    before = one.prompt_end - one.prompt_start
    for begin in range(0, one.end - one.start, QUERIES):
        end = min(begin + QUERIES, one.end - one.start)
        first = 0 if window is None else max(0, before + begin - window + 1)
        keys = [slice(one.start + max(first - before, 0), one.start + end)]
        if first < before:
            keys.insert(0, slice(one.prompt_start + first, one.prompt_end))
        found.append(Block(slice(one.start + begin, one.start + end), tuple(keys)))
    return found


def _starts(lengths: Sequence[int]) -> Tensor:
    return torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)


def install(model: Any) -> bool:
    """Make a model use this attention.

    Args:
        model: of transformers; stays as it is where its attention cannot be exchanged, or is more than `sdpa` knows:
            the sinks of gpt-oss, for example, would be left out without a word.

    Returns:
        Whether it does.
    """
    kind = type(model)
    if not getattr(kind, "_supports_sdpa", False) or not getattr(kind, "_can_set_attn_implementation", bool)():
        return False
    model.set_attn_implementation(NAME)
    return bool(model.config._attn_implementation == NAME)


def attention(
    module: Any,
    query_BHTD: Tensor,
    key_BHTD: Tensor,
    value_BHTD: Tensor,
    attention_mask: Tensor | None,
    *,
    packing: Packing | None = None,
    scaling: float | None = None,
    softcap: float | None = None,
    sliding_window: int | None = None,
    dropout: float = 0.0,
    **more: Any,
) -> tuple[Tensor, None]:
    """Attention as transformers asks for it.

    Args:
        module: the layer.
        query_BHTD: `[B, heads, T, D]`; B is 1 with a packing.
        key_BHTD: the same, perhaps of fewer heads, each for several of the queries'.
        value_BHTD: as the keys.
        attention_mask: as `sdpa` has it; means nothing with a packing.
        packing: the texts of the row.
        scaling: of the scores; 1 / sqrt(D) without it.
        softcap: scores s become softcap tanh(s / softcap).
        sliding_window: how many tokens, itself among them, a token sees.
        dropout: of the weights.
        more: what only the library's own attention knows.

    Returns:
        `[B, T, heads, D]`, and no weights.
    """
    given: dict[str, Any] = {"dropout": dropout, "scaling": scaling}
    if packing is None and softcap is None:
        return sdpa_attention_forward(module, query_BHTD, key_BHTD, value_BHTD, attention_mask, **given, **more)
    if packing is None:
        return _attend(query_BHTD, key_BHTD, value_BHTD, attention_mask, softcap, **given).transpose(1, 2), None
    packing.windows.append(sliding_window)
    if _one_kernel_serves(query_BHTD, value_BHTD) and softcap is None and not dropout:
        # Under autocast rotations leave queries and keys in float32.
        query_BHTD, key_BHTD = query_BHTD.to(value_BHTD.dtype), key_BHTD.to(value_BHTD.dtype)
        return _in_one_kernel(query_BHTD, key_BHTD, value_BHTD, packing, scaling, sliding_window), None
    out = []
    for block in packing.blocks(sliding_window):
        key, value = (_pick(one, block.keys) for one in (key_BHTD, value_BHTD))
        mask = packing.mask(block, sliding_window, query_BHTD)
        out.append(_attend(query_BHTD[:, :, block.queries], key, value, mask, softcap, **given))
    return torch.cat(out, dim=2).transpose(1, 2), None


def _pick(x_BHTD: Tensor, parts: Sequence[slice]) -> Tensor:
    pieces = [x_BHTD[:, :, part] for part in parts]
    return torch.cat(pieces, dim=2) if len(pieces) > 1 else pieces[0]


def _one_kernel_serves(query: Tensor, value: Tensor) -> bool:
    """Whether torch's kernel for texts of various lengths, which is FlashAttention's, takes them."""
    width = query.shape[-1]
    return value.is_cuda and value.dtype.itemsize == 2 and width == value.shape[-1] <= 256 and width % 8 == 0


def _in_one_kernel(
    query: Tensor, key: Tensor, value: Tensor, packing: Packing, scaling: float | None, window: int | None
) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    rows = packing.varlen(query.device)
    query, key, value = (one[0].transpose(0, 1) for one in (query, key, value))
    if len(rows.keys) > len(query):
        key, value = key[rows.keys], value[rows.keys]
    found = varlen_attn(
        query,
        key,
        value,
        rows.query_starts,
        rows.key_starts,
        rows.longest_query,
        rows.longest_key,
        scale=scaling,
        window_size=(-1 if window is None else window - 1, 0),
        enable_gqa=query.shape[1] != key.shape[1],
    )
    assert isinstance(found, Tensor)
    return found[None]


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    softcap: float | None,
    *,
    dropout: float,
    scaling: float | None,
) -> Tensor:
    """softmax(cap(scaling q k^T) + mask) v; without a mask, each query sees what stands up to it, the last one all."""
    if softcap is None:
        return scaled_dot_product_attention(
            query, key, value, mask, dropout, scale=scaling, enable_gqa=query.shape[1] != key.shape[1]
        )
    key, value = (one.repeat_interleave(query.shape[1] // one.shape[1], dim=1) for one in (key, value))
    scores = query @ key.transpose(2, 3) * (query.shape[3] ** -0.5 if scaling is None else scaling)
    scores = softcap * torch.tanh(scores / softcap)
    if mask is None:
        mask = torch.ones(scores.shape[2:], dtype=torch.bool, device=scores.device).tril(
            scores.shape[3] - scores.shape[2]
        )
    scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    weights = scores.softmax(dim=-1, dtype=torch.float32).to(query.dtype)
    return torch.dropout(weights, dropout, train=dropout > 0) @ value


AttentionInterface.register(NAME, attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
