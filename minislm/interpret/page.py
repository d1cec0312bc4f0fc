"""The page of `eval.py --inspect`: page.html with its style, script and data, in one file."""

import base64
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from minislm.interpret.activations import Analysis, Head, Peak
from minislm.reporting.plots import new_figure, save
from minislm.runtime.files import atomic_write
from minislm.stories.lexicon import WORD_CLASSES

ALL_WEIGHTS = 128  # a text of up to so many tokens has all attention weights
TOP_WEIGHTS = 24  # of a longer one, each token has so many


def write_page(
    path: Path, about: dict[str, Any], text: Analysis, heads: Sequence[Head],
    neurons: Sequence[Sequence[Sequence[Peak]]],
) -> None:  # fmt: skip
    """Write the page; `about` has the model's name, parameters, ablated components and stories."""
    tokens = zip(text.tokens, text.classes.tolist(), text.losses.tolist(), text.alternatives)
    data = about | {
        "classes": WORD_CLASSES,
        "tokens": [
            {"text": token, "class": c, "loss": loss if t else None, "alternatives": alternatives}
            for t, (token, c, loss, alternatives) in enumerate(tokens)
        ],
        "attention": top_weights(text.attention_LHTT),
        "heads": [vars(head) for head in heads],
        "neurons": neurons,
    }
    page, style, script = (
        Path(__file__).with_suffix(suffix).read_text(encoding="utf-8")
        for suffix in (".html", ".css", ".js")
    )
    page = page.replace("/*STYLE*/", style).replace("/*SCRIPT*/", script)
    json_text = json.dumps(data).replace("<", "\\u003c")  # no text can end the script element
    atomic_write(path, page.replace("/*DATA*/", json_text))


def top_weights(maps_LHTT: Tensor) -> dict[str, Any]:
    """The n largest weights of every row (1 is 65,535) and their positions: uint16 [L, H, T, n]."""
    L, H, T, _ = maps_LHTT.shape
    n = T if T <= ALL_WEIGHTS else TOP_WEIGHTS
    weights, positions = maps_LHTT.topk(n, dim=-1)
    encoded = [
        base64.b64encode(values.numpy().astype("<u2").tobytes()).decode("ascii")
        for values in (positions, (weights * 65535).round())
    ]
    return {"shape": [L, H, T, n], "positions": encoded[0], "weights": encoded[1]}


def plot(stem: Path, text: Analysis, heads: Sequence[Head]) -> list[Path]:
    """Plot attention weights and token losses; the paths of the plots, none without matplotlib."""
    L, H, T, _ = text.attention_LHTT.shape
    if (figure := new_figure(1.7 * H, 1.9 * L, L, H)) is None:
        return []
    for axes, head in zip(figure.axes, heads):
        weights_TT = text.attention_LHTT[head.layer, head.index].numpy()
        axes.imshow(weights_TT**0.5, cmap="magma", vmin=0, vmax=1)  # the root shows small weights
        name = f"{head.layer}.{head.index} {head.target}"
        axes.set_title(f"{name}\n{head.loss_increase:+.3f}", fontsize=7)
        axes.set(xticks=[], yticks=[])
    attention, losses = (Path(f"{stem}-{name}.png") for name in ("attention", "losses"))
    save(figure, attention)
    shown = range(1, min(T, 120))
    figure = new_figure(max(5, 0.16 * len(shown)), 2.6)
    axes = figure.axes[0]
    axes.bar(shown, text.losses[shown])
    axes.set_xticks(shown, [text.tokens[t].strip() or "·" for t in shown], rotation=90, fontsize=6)
    axes.set_ylabel("loss (nats)")
    save(figure, losses)
    return [attention, losses]
