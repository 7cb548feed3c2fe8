"""fold.c, compiled by the machine's own C compiler at first use and kept in the user's cache."""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import torch
import xxhash
from torch import Tensor

from entropyctl.tokenstats import sums as eager
from entropyctl.tokenstats.sums import Pull, Sums

# The first set that the compiler takes. Not -ffast-math: it drops NaN, which must be seen.
_COMMON = ["-O3", "-fopenmp-simd", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast", "-shared", "-fPIC"]
FLAGS = (
    [*_COMMON, "-march=native", "-mprefer-vector-width=512"],
    [*_COMMON, "-march=native"],
    [*_COMMON, "-mcpu=native"],
    _COMMON,
)
COMPILE_SECONDS = 60


class Kernels(NamedTuple):
    """The passes over a tile of float32 logits; arguments as in `sums`."""

    fold: Callable[[Tensor, Tensor, float, Sums], None]
    pull: Callable[[Tensor, Tensor, float, Pull], None]
    rank: Callable[[Tensor, int, Tensor], None] = eager.rank


EAGER = Kernels(eager.fold, eager.pull)


@lru_cache(maxsize=1)
def kernels() -> Kernels:
    """The compiled passes, or those of torch where there is no compiler, or one whose code computes something else."""
    try:
        library = _load(_build())
    except (OSError, subprocess.SubprocessError, AttributeError):
        return EAGER
    return library if agree(library, torch.device("cpu")) else EAGER


def _build() -> Path:
    """The shared library, made unless it is there.

    Raises:
        OSError: there is no compiler, none of its flags is good, or nowhere to write.
    """
    compiler = next((found for name in ("cc", "gcc", "clang") if (found := shutil.which(name))), None)
    if compiler is None:
        raise FileNotFoundError("no C compiler")
    source = files("entropyctl.tokenstats").joinpath("fold.c").read_text(encoding="utf-8")
    # A home directory may be shared by machines of several kinds.
    key = xxhash.xxh3_64_hexdigest("\n".join([source, compiler, repr(FLAGS), _processor()]).encode())
    library = _cache() / f"fold-{key}.so"
    if library.is_file():
        return library
    with tempfile.TemporaryDirectory(dir=library.parent) as place:
        text, made = Path(place) / "fold.c", Path(place) / "fold.so"
        text.write_text(source, encoding="utf-8")
        for flags in FLAGS:
            command = [compiler, *flags, "-o", str(made), str(text), "-lm"]
            ran = subprocess.run(command, capture_output=True, timeout=COMPILE_SECONDS, check=False)
            if ran.returncode == 0:
                made.replace(library)
                return library
    raise OSError(f"{compiler} does not compile fold.c")


def _cache() -> Path:
    place = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "entropyctl"
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    return place


def _processor() -> str:
    """What the code is compiled for."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine() + platform.processor()
    return platform.machine() + next((line for line in lines if line.startswith(("flags", "Features"))), "")


def _load(path: Path) -> Kernels:
    library = ctypes.CDLL(str(path))
    pointer: Any = ctypes.c_void_p
    count, number = ctypes.c_int64, ctypes.c_double
    tile = [pointer, count, count, count, pointer, number]
    library.fold.argtypes = [*tile, *[pointer] * 3]
    library.pull.argtypes = [*tile, *[pointer] * 5]
    library.rank.argtypes = [pointer, *[count] * 4, pointer, count]
    library.fold.restype = library.pull.restype = library.rank.restype = None

    def call(
        function: Callable[..., None], x_NV: Tensor, token_N: Tensor, beta: float, more: tuple[Tensor, ...]
    ) -> None:
        assert x_NV.stride(1) == 1 and token_N.is_contiguous() and all(one.is_contiguous() for one in more)
        rows, width = x_NV.shape
        function(
            x_NV.data_ptr(), rows, width, x_NV.stride(0), token_N.data_ptr(), beta, *(one.data_ptr() for one in more)
        )

    def fold(x_NV: Tensor, token_N: Tensor, beta: float, sums: Sums) -> None:
        call(library.fold, x_NV, token_N, beta, sums)

    def pull(x_NV: Tensor, token_N: Tensor, beta: float, given: Pull) -> None:
        call(library.pull, x_NV, token_N, beta, given)

    def rank(x_NV: Tensor, left: int, keys_NK: Tensor) -> None:
        assert x_NV.stride(1) == 1 and keys_NK.is_contiguous()
        rows, width = x_NV.shape
        library.rank(x_NV.data_ptr(), rows, width, x_NV.stride(0), left, keys_NK.data_ptr(), keys_NK.shape[1])

    return Kernels(fold, pull, rank)


def agree(found: Kernels, device: torch.device) -> bool:
    """Whether compiled passes compute what torch's do on that device, on tiles with every kind of number."""
    x_NV = torch.linspace(-60, 60, 4 * 1001, device=device).reshape(1001, 4).T.contiguous()
    x_NV[1, ::3] = -torch.inf
    x_NV[2, 5] = torch.nan
    token_N = torch.tensor([1000, 2, 7, -1], device=device)
    results = []
    for kernel in (EAGER, found):
        sums, keys_NK = eager.new_sums(4, device), eager.no_keys(4, 3, device)
        for part, start in ((x_NV[:, :500], 0), (x_NV[:, 500:], 500)):
            kernel.rank(part, start, keys_NK)
            kernel.fold(part.clone(), token_N - start, 0.8, sums)
        found_N = eager.statistics(sums, 0.8)
        weights_N = torch.linspace(-1, 2, 4, device=device)
        given = Pull(sums.top, sums.sums[:, 0].log().float(), found_N.entropies, weights_N, weights_N.flip(0))
        pulled = x_NV.clone()
        kernel.pull(pulled, token_N, 0.8, given)
        results.append((*found_N, pulled, keys_NK))
    return all(torch.allclose(a, b, rtol=1e-4, atol=1e-6, equal_nan=True) for a, b in zip(*results, strict=True))
