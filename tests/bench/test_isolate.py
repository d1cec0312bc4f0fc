"""Isolated processes: what is measured there, in which order, and what a failure does."""

import os
import time
from collections import namedtuple
from types import SimpleNamespace

from minislm.bench.engines import ENGINES
from minislm.bench.isolate import IsolatedProcess, Measurement, measure_in_turn, text_table

Case = namedtuple("Case", "name dtype")


class Engine:
    """Sleeps; fails; or dies."""

    def __init__(self, megabytes: int):
        self.memory = b"1" * (megabytes << 20)

    def __call__(self, seconds: float) -> None:
        if seconds > 1:
            os._exit(1)
        if seconds < 0:
            raise ValueError("two\nlines")
        time.sleep(seconds)


def test_seconds_and_memory_are_those_of_the_engine_alone():
    small, large = IsolatedProcess(Engine, 0), IsolatedProcess(Engine, 200)
    assert small.failure is None and large.failure is None
    seconds, memory = small.measure(0.2)
    assert 0.2 <= seconds < 5
    assert 190 < large.measure(0.0)[1] - memory < 260
    for process in (small, large):
        process.close()
        assert not process.process.is_alive()


def test_a_failed_request_is_one_line_and_a_dead_process_is_noticed():
    process = IsolatedProcess(Engine, 0)
    row = Measurement(Case("a", "float32"), process)
    assert row.seconds(-1) == 0.0 and row.failure == "ValueError: two lines"
    assert Measurement(Case("b", "float32"), process).seconds(0.0) > 0  # it still answers others
    assert process.measure(2) == "its process died" == process.measure(0.0)
    process.close()


def test_an_engine_that_cannot_open_the_model_gives_the_reason(tmp_path):
    make = ENGINES["minislm"]
    process = IsolatedProcess(make, tmp_path / "nothing", "float32", 1, "cpu", False)
    assert "UserError" in process.failure
    row = Measurement(Case("a", "float32"), process)
    assert row.seconds([[1]], 1, 0) == 0.0 and "UserError" in row.failure
    process.close()


def test_rows_are_measured_in_turn_and_the_first_round_is_not_counted():
    calls = []

    def process(name, answers):
        def measure(count):
            calls.append((name, count))
            return next(answers)

        return SimpleNamespace(measure=measure)

    one = iter([(9.0, 1.0), (9.0, 1.0), (2.0, 5.0), (0.5, 6.0), (4.0, 6.0), (0.25, 7.0)])
    two = iter([(9.0, 1.0), (9.0, 1.0), (5.0, 1.0), "MemoryError"])
    rows = [
        Measurement(Case("one", "int8"), process("one", one), [(20,), (1,)], tokens=40),
        Measurement(Case("two", "int8"), process("two", two), [(20,), (1,)], tokens=40),
    ]
    measure_in_turn(rows, 2, "")
    assert calls[:4] == [("one", 20), ("one", 1), ("two", 20), ("two", 1)]
    assert calls[4:] == [*calls[:4], ("one", 20), ("one", 1)]  # a failed one is left alone
    assert rows[0].rates == [20.0, 10.0] and rows[0].first == [0.5, 0.25]
    assert rows[0].tokens_per_s == 15.0 and rows[0].memory_mb == 7.0
    assert rows[1].failure == "MemoryError" and not rows[1].rates
    columns = {"name": "<8", "dtype": "<8", "tokens/s": ">10"}
    assert text_table(columns, rows, lambda row: [f"{row.tokens_per_s:.0f}"]).splitlines() == [
        "name    dtype     tokens/s", "one     int8            15", "two     int8      MemoryError",
    ]  # fmt: skip
