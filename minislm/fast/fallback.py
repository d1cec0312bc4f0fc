"""Parts of PyTorch that are private or deprecated: another version may lack them."""

import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import torch

from minislm.runtime.errors import UserError, log

_log_once = cache(log)


def tried(what: str, instead: str, make: Callable[[], Any]) -> Any:
    """What `make` returns; None, and one line on stderr, where it fails."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of PyTorch about itself
            return make()
    except Exception as error:  # none are documented
        line = f"PyTorch {torch.__version__} cannot run {what}; {instead} instead: {error}"
        _log_once(str(UserError(line)))  # in one line, whatever the message
        return None
