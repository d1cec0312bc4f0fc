"""Files of torch.save read as data: no code in them is run, and memory is bounded by their size."""

import pickle
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch

from minislm.runtime.errors import CheckpointError


def read_pickle(file: Path, *, mapped: bool = False) -> Any:
    """The contents of a file of torch.save: tensors, on the CPU, in plain containers. mapped: leave
    a zip file's numbers on the disk until used. CheckpointError: damage, or anything else in it."""
    try:
        zipped = _is_whole_zip(file)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # advice to whoever made the file
            return torch.load(file, map_location="cpu", weights_only=True, mmap=mapped and zipped)
    except CheckpointError:
        raise
    except pickle.UnpicklingError as error:  # PyTorch's own message suggests to run it anyway
        unsafe = "something else than tensors, perhaps code; nothing of it was run"
        raise CheckpointError(f"{file} holds {unsafe}: get the model as safetensors") from error
    except Exception as error:  # a damaged zip file or pickle can raise anything
        reason = type(error).__name__
        raise CheckpointError(f"{file} is damaged ({reason}); get it again") from error


def _is_whole_zip(file: Path) -> bool:
    """Whether it is a zip file; raises CheckpointError for one that torch.save has not written."""
    with open(file, "rb") as opened:
        if opened.read(4) != b"PK\x03\x04":
            return False
        opened.seek(-min(22, file.stat().st_size), 2)
        if opened.read(4) != b"PK\x05\x06":  # the end of the zip is the end of the file
            raise CheckpointError(f"{file} is cut short, or has bytes after its end; get it again")
    with zipfile.ZipFile(file) as parts:
        if any(part.compress_type != zipfile.ZIP_STORED for part in parts.infolist()):
            raise CheckpointError(f"{file} is compressed, which torch.save never does")
        damaged = parts.testzip()
    if damaged is not None:
        raise CheckpointError(f"{file} is damaged: {damaged!r} has changed; get it again")
    return True
