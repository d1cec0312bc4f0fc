"""Options of `eval.py --inspect` and `--off`."""

from __future__ import annotations

from dataclasses import dataclass

from minislm.config import check, option


@dataclass(frozen=True)
class InspectConfig:
    """Attention, neurons and ablation (--inspect, --off)."""

    inspect: str = option("", "write a page that shows how a model reads this text: attention, "
                          "losses, neurons")  # fmt: skip
    out: str = option("inspect.html", "file of the page; its pictures are written beside it")
    off: str | None = option(None, "ablate heads and neurons, such as head:0.3,neuron:0.117 "
                             "(block, then number), and compare loss and text; with --inspect, "
                             "the page of the model without them")  # fmt: skip

    def __post_init__(self) -> None:
        check(self)
