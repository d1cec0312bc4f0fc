"""What is reported about a file of torch.save. (tests/pretrained damages thousands of them.)"""

import os
import zipfile

import pytest
import torch

from minislm.runtime.errors import CheckpointError
from minislm.runtime.pickles import read_pickle


class MakesFolder:
    """Unpickling it makes a folder."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


@pytest.fixture
def file(tmp_path):
    torch.save({"weight": torch.arange(1000.0), "step": 3}, tmp_path / "a.pt")
    return tmp_path / "a.pt"


@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize("zipped", [False, True])
def test_a_file_is_read_as_it_was_written(file, mapped, zipped):
    value = {"weight": torch.arange(1000.0), "step": 3}
    torch.save(value, file, _use_new_zipfile_serialization=zipped)
    found = read_pickle(file, mapped=mapped)
    assert found["step"] == 3 and torch.equal(found["weight"], value["weight"])


def test_code_is_reported_and_not_run(file, tmp_path):
    torch.save({"code": MakesFolder(tmp_path / "made")}, file)
    with pytest.raises(CheckpointError, match="a.pt holds something else .*nothing of it was run"):
        read_pickle(file)
    assert not (tmp_path / "made").exists()


def flip_a_bit(data: bytes) -> bytes:
    at = data.index(torch.tensor(500.0).numpy().tobytes())
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


@pytest.mark.parametrize(
    "damage, words",
    [
        (lambda data: data[:-100], "is cut short"),
        (lambda data: data + b"more", "has bytes after its end"),
        (flip_a_bit, "data/0' has changed"),
        (lambda data: data[:30], "is cut short"),
        (lambda data: b"", "is damaged [(]EOFError"),
    ],
)
def test_a_damaged_file_is_reported(file, damage, words):
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(CheckpointError, match=f"a.pt.*{words}"):
        read_pickle(file)


def test_a_compressed_file_is_refused(file, tmp_path):
    with zipfile.ZipFile(file) as old:
        with zipfile.ZipFile(tmp_path / "b.pt", "w", zipfile.ZIP_DEFLATED) as new:
            for name in old.namelist():
                new.writestr(name, old.read(name))
    with pytest.raises(CheckpointError, match="b.pt is compressed"):
        read_pickle(tmp_path / "b.pt")
