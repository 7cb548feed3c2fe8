"""Model FLOPs of a training step, and what devices can do at most, for the model FLOPs utilisation (MFU)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from entropyctl.tokenstats import SplitModel
from entropyctl.tokenstats.layout import Sequences, by_prompt


class Peak(NamedTuple):
    """Dense TFLOP/s: bfloat16 by matrix units with float32 sums, float32 without them (torch's default)."""

    bfloat16: float
    float32: float


# By the name that the driver gives the device; the first that begins it counts. From the makers' data sheets, of which
# figures "with sparsity" are halved: NVIDIA H100, H200, B200 (HGX),
# A100 and L40S, AMD Instinct MI300X.
PEAKS = {
    "NVIDIA B200": Peak(2250, 75),
    "NVIDIA H200 NVL": Peak(835, 60),
    "NVIDIA H200": Peak(989, 67),
    "NVIDIA H100 NVL": Peak(835, 60),
    "NVIDIA H100 PCIe": Peak(756, 51),
    "NVIDIA H100": Peak(989, 67),
    "NVIDIA A100": Peak(312, 19.5),
    "NVIDIA L40S": Peak(362, 91.6),
    "AMD Instinct MI300X": Peak(1307, 163.4),
}


def peak_of(name: str, dtype: str) -> float | None:
    """The most FLOP/s of a device in a number type; None for a device that the table does not have."""
    for known, peak in PEAKS.items():
        if name == known or name.startswith((f"{known} ", f"{known}-")):
            return float(getattr(peak, dtype)) * 1e12
    return None


def utilisation(flops: float, seconds: float, device: torch.device, dtype: str, processes: int) -> float | None:
    """Share of the devices' peak that passes forward and backward came to; None where the peak is not known.

    Args:
        flops: of the model, over all processes.
        seconds: that the passes took.
        device: of each process.
        dtype: of the passes.
        processes: how many.
    """
    if device.type != "cuda" or not flops or not seconds:
        return None
    peak = peak_of(torch.cuda.get_device_name(device), dtype)
    return None if peak is None else flops / (seconds * peak * processes)


def work_of(split: SplitModel, sequences: Sequences, predicted: int) -> tuple[float, float, float]:
    """What `model_flops` is told of a forward pass; a prompt that several share counts once."""
    groups = by_prompt(sequences) if split.sharing.packs else [[i] for i in range(len(sequences))]
    again = np.array([len(sequences[rows[0]][0]) for rows in groups for _ in rows[1:]], np.float64)
    lengths = np.array([len(prompt) + len(response) for prompt, response in sequences], np.float64)
    return lengths.sum() - again.sum(), (lengths**2).sum() - (again**2).sum(), predicted


def model_flops(split: SplitModel, tokens: float, squares: float, predicted: float) -> float:
    """FLOPs of passes forward and backward; 0 for a mixture of experts, whose tokens take ways of their own.

    (4 P + 2 P_trained) sum_i T_i + 6 L d sum_i T_i^2 + (4 or 6) D V N

    P are the weights of the body's matrices, L d the widths of attention summed over layers, T_i the length of a
    sequence, N the tokens whose log p is taken; 6 where the head is trained. Attention is causal, so half of T^2
    counts. As in PaLM's appendix B (2204.02311) nothing counts twice that is computed twice: neither recomputed
    activations nor padding. What is computed once counts once: a prompt that several share in a pass.

    Args:
        split: the model.
        tokens: sum of T_i.
        squares: sum of T_i^2.
        predicted: N.
    """
    config, model = split.model.config.get_text_config(), split.model
    if any(getattr(config, name, None) for name in ("num_experts", "num_local_experts", "n_routed_experts")):
        return 0.0
    tables = {id(p) for m in split.body.modules() if isinstance(m, torch.nn.Embedding) for p in m.parameters()}
    matrices = [p for p in split.body.parameters() if p.ndim == 2 and id(p) not in tables]
    trained = sum(p.numel() for p in matrices if p.requires_grad)
    dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    width = config.num_hidden_layers * config.num_attention_heads * dim
    head = model.get_output_embeddings().weight
    per_head = (6.0 if head.requires_grad else 4.0) * head.numel()
    return (
        (4.0 * sum(p.numel() for p in matrices) + 2.0 * trained) * tokens + 6.0 * width * squares + per_head * predicted
    )
