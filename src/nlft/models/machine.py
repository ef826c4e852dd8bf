"""What this machine has: versions, devices, and which optional parts work here. Imports torch only when asked."""

import platform
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any

PACKAGES = (
    *("nlft", "torch", "transformers", "trl", "peft", "accelerate", "datasets", "safetensors", "tokenizers", "numpy"),
    *("bitsandbytes", "flash_attn", "kernels", "deepspeed", "liger_kernel", "triton"),
    *("trackio", "wandb", "tensorboard", "gguf", "xllamacpp", "openpyxl", "ray", "vllm"),
)
FLASH_CAPABILITY = (8, 0)  # the oldest cards for which FlashAttention 2 is built
COMPILERS = ("c++", "g++", "clang++", "cl")


@dataclass(frozen=True)
class Feature:
    """An optional part of nlft on this machine.

    Attributes:
        name: the setting or the command that needs it.
        works: whether it can be used here.
        why: what it uses here; or why it cannot be used, and what to do.
    """

    name: str
    works: bool
    why: str


def package_versions() -> dict[str, str | None]:
    """Return the version of each package in `PACKAGES`; None if it is not installed. Import none of them."""
    found: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def fast_dtype() -> str:
    """Return "bfloat16" if this machine computes in it, else "float32".

    Processors without bfloat16 instructions only imitate it. Training SmolLM2 in it took 27 times as long as in float32
    on such a processor (AMD EPYC with AVX2).
    """
    import torch

    if torch.cuda.is_available():
        computes = torch.cuda.is_bf16_supported(including_emulation=False)
    elif torch.accelerator.is_available():
        computes = True
    else:
        computes = torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return "bfloat16" if computes else "float32"


def devices() -> dict[str, Any]:
    """Return the CPU threads and the accelerators, as JSON. Memory is in bytes."""
    import torch

    cards = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    return {
        "threads": torch.get_num_threads(),
        "memory": _host_memory(),
        "cuda_of_torch": torch.version.cuda,
        "cuda": [
            {"name": card.name, "memory": card.total_memory, "compute_capability": f"{card.major}.{card.minor}"}
            for card in cards
        ],
        "mps": bool(torch.backends.mps.is_available()),
    }


def features(versions: Mapping[str, str | None], found: Mapping[str, Any]) -> list[Feature]:
    """Return what works here, and why something does not.

    Args:
        versions: see `package_versions`.
        found: see `devices`.
    """
    quantises = why_not_quantised()
    return [
        _bfloat16(found),
        Feature(
            "load_in_4bit, load_in_8bit",
            quantises is None,
            quantises or f"bitsandbytes {versions.get('bitsandbytes') or ''}",
        ),
        _flash_attention(versions, found),
        _compiles(found),
        *(_needs(versions, f"--report_to {name}", name, f"nlft[{name}]") for name in ("trackio", "wandb")),
        _needs(versions, "--report_to tensorboard", "tensorboard", "nlft[tensorboard]"),
        _needs(versions, "nlft export: write GGUF files", "gguf", "nlft[gguf]"),
        _needs(versions, "nlft export: check them with llama.cpp", "xllamacpp", "nlft[gguf]"),
        _needs(versions, "read .xlsx", "openpyxl", "nlft[excel]"),
        _needs(versions, "--executor ray", "ray", "ray"),
        _needs(versions, "a vLLM server (--base_url can name one elsewhere)", "vllm", "vllm"),
        _needs(versions, "DeepSpeed ZeRO", "deepspeed", "deepspeed"),
    ]


def why_not_quantised() -> str | None:
    """Return why this machine cannot load a model in 4 or 8 bits, and what to do; None if it can."""
    import torch

    if not torch.cuda.is_available():
        return "there is no CUDA card that torch can use, and nlft quantises with bitsandbytes on CUDA alone"
    if find_spec("bitsandbytes") is None:
        return "the package bitsandbytes is not installed: pip install 'nlft[quantised]'"
    return None


def _needs(versions: Mapping[str, str | None], name: str, package: str, install: str) -> Feature:
    if versions.get(package):
        return Feature(name, True, f"{package} {versions[package]}")
    return Feature(name, False, f"{package} is not installed: pip install '{install}'")


def _bfloat16(found: Mapping[str, Any]) -> Feature:
    where = "the GPU" if found["cuda"] else "MPS" if found["mps"] else "this processor"
    if fast_dtype() == "bfloat16":
        return Feature("--dtype bfloat16", True, f"fast: {where} computes in it")
    why = f"emulated, and so slow: {where} has no bfloat16 instructions. nlft uses float32 unless --dtype names another"
    return Feature("--dtype bfloat16", False, why)


def _flash_attention(versions: Mapping[str, str | None], found: Mapping[str, Any]) -> Feature:
    name = "--attn_implementation flash_attention_2"
    if not found["cuda"]:
        return Feature(name, False, "there is no CUDA card. torch's own attention (sdpa) is used")
    oldest = min(tuple(map(int, card["compute_capability"].split("."))) for card in found["cuda"])
    if oldest < FLASH_CAPABILITY:
        what = ".".join(map(str, oldest))
        return Feature(name, False, f"a card has compute capability {what}, and it needs 8.0. sdpa is used")
    package = next((one for one in ("flash_attn", "kernels") if versions.get(one)), None)
    if package is None:
        return Feature(name, False, "neither flash_attn nor kernels is installed: pip install kernels. sdpa is used")
    return Feature(name, True, f"{package} {versions[package]}")


def _compiles(found: Mapping[str, Any]) -> Feature:
    name = "torch.compile (--torch_compile, of the baselines)"
    if found["cuda"]:
        if find_spec("triton") is None:
            return Feature(name, False, "triton is not installed, and torch compiles for CUDA with it")
        return Feature(name, True, "triton is there")
    compiler = next((one for one in COMPILERS if shutil.which(one)), None)
    if compiler is None:
        return Feature(name, False, "there is no C++ compiler: install g++ or clang++")
    return Feature(name, True, f"{compiler} is there")


def _host_memory() -> int | None:
    try:
        import psutil  # type: ignore[import-untyped]  # accelerate needs it, so it is there
    except ImportError:
        return None
    return int(psutil.virtual_memory().total)


def about_python() -> dict[str, str]:
    """Return the version of Python and the operating system."""
    return {"python": platform.python_version(), "platform": platform.platform()}
