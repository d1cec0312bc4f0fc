"""What `interpret.py` found, as one page that needs no network, and as pictures.

The page is page.html with its style, its script and the data put in. Attention is packed: of each
row the largest weights, as positions and shares of 65,535, so that 8 blocks of 16 heads over 500
tokens are about 10 MB.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from minislm.interpret.activations import Head, Peak, Text
from minislm.reporting.plots import plotting
from minislm.runtime.files import atomic_write
from minislm.stories.lexicon import WORD_CLASSES

KEPT = 24  # weights of a row that a long text's page holds; a text of up to WHOLE tokens has all
WHOLE = 128
_HERE = Path(__file__).parent


def write_page(
    path: str | Path,
    about: dict[str, Any],
    text: Text,
    maps_LHTT: Tensor,
    heads: Sequence[Head],
    neurons: Sequence[Sequence[Sequence[Peak]]],
) -> None:
    """Write the page. `about`: what its head says (model, parameters, ...), as JSON can hold it."""
    data = about | {
        "classes": WORD_CLASSES,
        "tokens": [
            {"text": piece, "class": int(c), "loss": None if np.isnan(loss) else float(loss),
             "instead": [[w, round(p, 4)] for w, p in others]}
            for piece, c, loss, others in
            zip(text.pieces, text.classes, text.losses, text.alternatives)
        ],
        "attention": pack(maps_LHTT),
        "heads": [vars(head) for head in heads],
        "neurons": [
            [[[round(p.value, 2), p.before, p.token, p.after] for p in peaks] for peaks in layer]
            for layer in neurons
        ],
    }  # fmt: skip
    page = (_HERE / "page.html").read_text(encoding="utf-8")
    for mark, filling in (
        ("/*STYLE*/", (_HERE / "page.css").read_text(encoding="utf-8")),
        ("/*SCRIPT*/", (_HERE / "page.js").read_text(encoding="utf-8")),
        ("/*DATA*/", json.dumps(data).replace("<", "\\u003c")),  # no text can end the script
    ):
        page = page.replace(mark, filling)
    atomic_write(path, page)


def pack(maps_LHTT: Tensor) -> dict[str, Any]:
    """The `kept` largest weights of every row: places and weights, little-endian 16 bits, base64.

    Both have the shape [L, H, T, kept]; a place that is not filled has weight 0.
    """
    L, H, T, _ = maps_LHTT.shape
    kept = T if T <= WHOLE else KEPT
    weights, places = maps_LHTT.topk(kept, dim=-1)
    return {
        "shape": [L, H, T, kept],
        "places": _base64(places.numpy().astype("<u2")),
        "weights": _base64(np.rint(weights.numpy() * 65535).astype("<u2")),
    }


def _base64(values: np.ndarray) -> str:
    return base64.b64encode(values.tobytes()).decode("ascii")


def draw(
    folder: Path, stem: str, text: Text, maps_LHTT: Tensor, heads: Sequence[Head]
) -> list[Path]:
    """Pictures of every head's map and of the tokens' losses; none without matplotlib."""
    if (pyplot := plotting()) is None:
        return []
    L, H = maps_LHTT.shape[:2]
    figure, grid = pyplot.subplots(L, H, figsize=(1.7 * H, 1.9 * L), squeeze=False,
                                   layout="constrained")  # fmt: skip
    for head in heads:
        axes = grid[head.layer][head.number]
        axes.imshow(maps_LHTT[head.layer, head.number].sqrt().numpy(), cmap="magma", vmin=0, vmax=1)
        looks = f"-{head.distance}" if head.kind == "distance" else head.word_class
        axes.set_title(f"{head.layer}.{head.number} {looks}\n{head.cost:+.3f}", fontsize=7)
        axes.set_xticks([])
        axes.set_yticks([])
    maps = folder / f"{stem}-attention.png"
    figure.savefig(maps, dpi=130)
    pyplot.close(figure)
    shown = min(len(text.pieces), 120)
    figure, axes = pyplot.subplots(figsize=(max(5, 0.16 * shown), 2.6), layout="constrained")
    axes.bar(range(1, shown), text.losses[1:shown], color="#2f6f9f")
    labels = [piece.strip() or "·" for piece in text.pieces[1:shown]]
    axes.set_xticks(range(1, shown), labels, rotation=90, fontsize=6)
    axes.set_ylabel("loss (nats)")
    axes.spines[["top", "right"]].set_visible(False)
    losses = folder / f"{stem}-losses.png"
    figure.savefig(losses, dpi=130)
    pyplot.close(figure)
    return [maps, losses]
