"""What vLLM's workers can do beside their own: take the weights of another version of the policy."""

from __future__ import annotations

from typing import Any


class ReloadingWorker:
    """Mixed into vLLM's worker class by its argument `worker_extension_cls`, and called by name."""

    model_runner: Any

    def entropyctl_load(self, directory: str) -> None:
        """Take the weights of a checkpoint directory.

        On a CPU vLLM packs matrices for oneDNN when they are loaded. After its own `reload_weights` an output matrix
        that is tied to the embedding has new values and the old packing, which is what it computes with; so it is
        packed again.
        """
        self.reload_weights(weights_path=directory)  # type: ignore[attr-defined]
        head = getattr(self.model_runner.model, "lm_head", None)
        if hasattr(head, "cpu_linear"):
            from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm

            dispatch_cpu_unquantized_gemm(head, remove_weight=False)
