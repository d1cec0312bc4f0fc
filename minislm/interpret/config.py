"""Options of `eval.py --inspect` and `--off`."""

from dataclasses import dataclass

from minislm.config import option


@dataclass(frozen=True)
class InspectConfig:
    """Attention, neurons and ablation (--inspect, --off)."""

    inspect: str = option("", "write a page with the losses, attention weights and neuron "
                          "activations of the model on this text")  # fmt: skip
    out: str = option("inspect.html", "file of the page; its pictures are written beside it")
    off: str | None = option(None, "ablate heads and neurons, such as head:0.3,neuron:0.117 "
                             "(block, then number), and compare loss and text; with --inspect, "
                             "the page is about the ablated model")  # fmt: skip
