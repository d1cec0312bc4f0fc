"""Selecting device and precision."""

import time

import pytest
import torch

from minislm.runtime import device
from minislm.runtime.errors import UserError


@pytest.fixture
def available(monkeypatch):
    """Pretend that these kinds of devices are there, and no others."""

    def pretend(*kinds):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: "cuda" in kinds)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: "mps" in kinds)

    return pretend


@pytest.mark.parametrize(
    "kinds, name, selected",
    [
        ((), "auto", "cpu"),
        (("mps",), "auto", "mps"),
        (("mps", "cuda"), "auto", "cuda"),
        (("cuda",), "cpu", "cpu"),
        (("cuda",), "cuda:1", "cuda:1"),
    ],
)
def test_auto_is_the_fastest_kind_and_a_name_is_itself(available, kinds, name, selected):
    available(*kinds)
    assert device.select_device(name) == torch.device(selected)


@pytest.mark.parametrize(
    "name, words",
    [
        ("abacus", "unknown device 'abacus'; use cpu, cuda, mps or auto"),
        ("cuda", "no cuda device on this machine; use --device cpu"),
        ("mps", "no mps device"),
        ("meta", "no meta device"),
    ],
)
def test_a_device_that_is_not_there_is_refused(available, name, words):
    available()
    with pytest.raises(UserError, match=words):
        device.select_device(name)


def test_bfloat16_is_selected_where_the_hardware_has_it(monkeypatch):
    cpu, cuda, mps = map(torch.device, ("cpu", "cuda", "mps"))
    for has, dtype in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda has=has: has)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda has=has: has)
        assert device.select_dtype("auto", cpu) == device.select_dtype("auto", cuda) == dtype
        assert device.select_dtype("auto", mps) == torch.float32
    assert device.select_dtype("bfloat16", cpu) == torch.bfloat16
    assert device.select_dtype("float32", cuda) == torch.float32
    monkeypatch.delattr(torch.cpu, "_is_avx512_bf16_supported")  # it is private
    assert device.select_dtype("auto", cpu) == torch.float32


def test_work_is_measured_by_its_shortest_time_after_one_call():
    naps = [0.2, 0.03, 0.001, 0.03]
    seconds = device.best_seconds(lambda: time.sleep(naps.pop(0)), 3)
    assert 0.001 <= seconds < 0.03 and not naps


def test_the_machine_has_a_name():
    assert device.device_name(torch.device("cpu")).strip()
