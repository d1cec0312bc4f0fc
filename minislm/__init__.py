"""minislm: a complete small language model in plain PyTorch. See README.md for its use."""

from importlib import import_module
from typing import Any

_MODULES = {
    "FastSampler": "fast.sampler",
    "ModelConfig": "config",
    "Sampler": "sampler",
    "Tokenizer": "tokenizer",
    "Transformer": "model",
    "load": "pretrained.load",
}
__all__ = sorted(_MODULES)


def __getattr__(name: str) -> Any:
    """Import a module when its name is first used: `import minislm` alone does not import torch."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
