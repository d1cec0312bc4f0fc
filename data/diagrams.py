"""Makes data/model.svg and data/batch.svg: `python data/diagrams.py`.

Nothing in them is written by hand: the shapes come from a forward pass of the default model, and
the batch from a run of the sampler.
"""

from __future__ import annotations

from collections import deque
from pathlib import Path

import torch

from minislm.config import ModelConfig, SampleConfig
from minislm.kv_cache import KVCache
from minislm.model import Transformer
from minislm.runtime.files import atomic_write
from minislm.sampler import Continuation, PlainEngine, Sampler

FOLDER = Path(__file__).parent
FONT = 'font-family="Helvetica, Arial, sans-serif"'
COLORS = ("#4c78a8", "#f58518", "#54a24b", "#b279a2", "#e45756", "#72b7b2", "#9d755d", "#eeca3b")


def svg(width: int, height: int, parts: list[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" {FONT}>\n'
        f'<rect width="{width}" height="{height}" fill="white"/>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def text(x: float, y: float, words: str, size: int = 13, color: str = "#222", **more: str) -> str:
    options = "".join(f' {name.replace("_", "-")}="{value}"' for name, value in more.items())
    words = words.replace("&", "&amp;").replace("<", "&lt;")
    return f'<text x="{x}" y="{y}" font-size="{size}" fill="{color}"{options}>{words}</text>'


def box(x: float, y: float, width: float, height: float, fill: str, stroke: str = "#555") -> str:
    return (
        f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="4" fill="{fill}" '
        f'stroke="{stroke}"/>'
    )


def line(points: list[tuple[float, float]], color: str = "#555", arrow: bool = False) -> str:
    path = " ".join(f"{x},{y}" for x, y in points)
    found = f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="1.5"/>'
    if arrow:  # downwards
        x, y = points[-1]
        found += f'<polygon points="{x - 4},{y - 7} {x + 4},{y - 7} {x},{y}" fill="{color}"/>'
    return found


# --- the model ------------------------------------------------------------------------------------


def shapes_of(model: Transformer, B: int, T: int) -> dict[str, tuple[int, ...]]:
    """The output shape of every module, and of queries, keys and values, in one forward pass."""
    found: dict[str, tuple[int, ...]] = {}
    for name, module in model.named_modules():
        module.register_forward_hook(
            lambda module, inputs, output, name=name: found.update({name: tuple(output.shape)})
        )
    attention, mlp = model.blocks[0].attention, model.blocks[0].mlp
    project, activate, attend = attention.project, mlp.activate, attention.attend

    def record(name: str, output: torch.Tensor) -> torch.Tensor:
        found[name] = tuple(output.shape)
        return output

    def projected(*inputs):
        q, k, v = project(*inputs)
        return record("q", q), record("k", k), record("v", v)

    attention.project = projected
    attention.attend = lambda *inputs: record("attend", attend(*inputs))
    mlp.activate = lambda *inputs: record("activate", activate(*inputs))
    cache = KVCache.empty(model.config, B, T, like=model.embedding.weight)
    positions = torch.arange(T).expand(B, T)
    model(torch.zeros(B, T, dtype=torch.int64), cache, positions)
    found["cache"] = tuple(cache.k_LBKSD.shape)
    return found


def model_diagram() -> str:
    config = ModelConfig(vocab_size=2048)  # as `python train.py` has it
    model, B, T = Transformer(config).eval(), 3, 7
    shapes = shapes_of(model, B, T)

    def shape(name: str) -> str:
        return "[" + ", ".join({B: "B", T: "T"}.get(n, str(n)) for n in shapes[name]) + "]"

    def count(module: torch.nn.Module) -> str:
        return f"{sum(weight.numel() for weight in module.parameters()):,}"

    block = model.blocks[0]
    attention, mlp = block.attention, block.mlp
    rows = [  # name, what it does, shape of its output, number of parameters
        ("tokens", "ids of the text so far", "[B, T]", ""),
        ("embedding", "one vector per token", shape("embedding"), count(model.embedding)),
        ("attention_norm", "RMSNorm", shape("blocks.0.attention_norm"),
         count(block.attention_norm)),
        ("qkv", "queries; keys and values", f"{shape('q')}; {shape('k')}", count(attention.qkv)),
        ("rotate", "rotary positions, of q and k", f"{shape('q')}; {shape('k')}", ""),
        ("attend", "softmax(q k / sqrt(D)) v, causal mask", shape("attend"), ""),
        ("out", "added to the residual stream", shape("blocks.0.attention"), count(attention.out)),
        ("mlp_norm", "RMSNorm", shape("blocks.0.mlp_norm"), count(block.mlp_norm)),
        ("up", "up-projection: gate and value", shape("blocks.0.mlp.up"), count(mlp.up)),
        ("activate", "silu(gate) * value", shape("activate"), ""),
        ("down", "down-projection, added to the stream", shape("blocks.0.mlp"), count(mlp.down)),
        ("norm", "RMSNorm", shape("norm"), count(model.norm)),
        ("head", "logits of the next token", shape("head"), "tied to embedding"),
    ]  # fmt: skip
    top, step, left, parts = 46, 40, 90, []
    y_of = {name: top + step * number for number, (name, *_) in enumerate(rows)}
    parts.append(text(20, 24, f"Transformer: {model.n_parameters():,} parameters, B texts of T "
                      "tokens", 15, font_weight="bold"))  # fmt: skip
    parts.append(text(left + 430, 24, "output shape", 12, "#666"))
    parts.append(text(left + 610, 24, "parameters", 12, "#666"))
    frame = y_of["attention_norm"] - 6, y_of["down"] + 34
    parts.append(box(left - 72, frame[0], 472, frame[1] - frame[0], "#f6f6f6", "#bbb"))
    parts.append(text(left - 66, y_of["rotate"] + 19, "Block", 12, "#666"))
    fills = {"qkv": 0, "rotate": 0, "attend": 0, "out": 0, "up": 1, "activate": 1, "down": 1}
    for number, (name, words, of_shape, parameters) in enumerate(rows):
        y = y_of[name]
        fill = ("#dbe7f3", "#fde6cf")[fills[name]] if name in fills else "#ececec"
        parts.append(box(left, y, 390, 28, fill))
        parts.append(text(left + 10, y + 19, name, font_weight="bold"))
        parts.append(text(left + 136, y + 19, words))
        parts.append(text(left + 430, y + 19, of_shape))
        parts.append(text(left + 610, y + 19, parameters))
        if number:
            parts.append(line([(left + 60, y - 12), (left + 60, y)], arrow=True))
    for begin, end in (("attention_norm", "out"), ("mlp_norm", "down")):  # the residual stream
        parts.append(
            line(
                [
                    (left + 60, y_of[begin] - 6),
                    (left - 26, y_of[begin] - 6),
                    (left - 26, y_of[end] + 14),
                    (left, y_of[end] + 14),
                ],
                "#c0392b",
            )
        )
        parts.append(text(left - 46, y_of[end] + 19, "+", 18, "#c0392b", font_weight="bold"))
    y = y_of["attend"]
    parts.append(text(left + 610, y + 6, "KV cache: keys and", 12, "#666"))
    parts.append(text(left + 610, y + 22, f"values {shape('cache')} each", 12, "#666"))
    return svg(870, y_of["head"] + 46, parts)


# --- the batch ------------------------------------------------------------------------------------


class RecordingEngine(PlainEngine):
    """An engine that keeps, for each call, which sequence has which row."""

    def __init__(self, model: Transformer, rows: int, length: int):
        super().__init__(model, rows, length)
        self.owner: list[int | None] = [None] * rows  # the first token of a prompt is its number
        # the kind of call, the sequence of each row in it, and of each row that waits meanwhile
        self.columns: list[tuple[str, list[int | None], list[int | None]]] = []
        self.moves: list[tuple[int, int, int]] = []  # column, from row, to row

    def prefill(self, rows, prompts):
        new: list[int | None] = [None] * len(self.owner)
        for row, prompt in zip(rows, prompts):
            new[row] = self.owner[row] = prompt[0]
        self.owner[max(rows) + 1 :] = [None] * (len(self.owner) - max(rows) - 1)
        waiting = [None if n is not None else owner for n, owner in zip(new, self.owner)]
        self.columns.append(("prefill", new, waiting))
        return super().prefill(rows, prompts)

    def decode(self, tokens_B, pos_B, u_Bn, pick):
        B = len(tokens_B)
        self.owner[B:] = [None] * (len(self.owner) - B)
        self.columns.append(("decode", list(self.owner), []))
        return super().decode(tokens_B, pos_B, u_Bn, pick)

    def move(self, source, target):
        self.moves.append((len(self.columns), source, target))
        self.owner[target] = self.owner[source]
        super().move(source, target)


def batch_diagram(rows: int = 4, new_tokens: tuple[int, ...] = (6, 3, 9, 5, 7, 2, 4)) -> str:
    """Prompts that take different numbers of tokens, in a batch of a few rows."""
    model = Transformer(ModelConfig(width=32, n_head=2, n_kv_head=2, vocab_size=50)).eval()
    engine = RecordingEngine(model, rows, 32)
    waiting = deque(
        Continuation([number, 9, 9], seed=number, remaining=n)
        for number, n in enumerate(new_tokens)
    )
    settings = SampleConfig(max_new_tokens=max(new_tokens), stop=False)
    with torch.inference_mode():
        for _ in Sampler(model)._steps(engine, waiting, settings, rows):
            pass
    left, top, cell, parts = 70, 78, 46, []
    parts.append(text(20, 24, f"A batch of {rows} rows: {len(new_tokens)} prompts join and leave",
                      15, font_weight="bold"))  # fmt: skip
    parts.append(text(20, 44, "striped: prefill of a prompt, and its first token; filled: one "
                      "decode step, one token; letter alone: waits", 12, "#666"))  # fmt: skip
    parts.append('<defs><pattern id="stripes" width="6" height="6" patternUnits="userSpaceOnUse" '
                 'patternTransform="rotate(45)"><rect width="3" height="6" fill="white" '
                 'fill-opacity="0.55"/></pattern></defs>')  # fmt: skip
    for row in range(rows):
        parts.append(text(20, top + row * cell + 27, f"row {row}", 12, "#666"))
    for column, (kind, owners, others) in enumerate(engine.columns):
        x = left + column * cell
        parts.append(text(x + 3, top - 8, kind, 10, "#666"))
        for row, number in enumerate(others):
            if number is not None:
                y = top + row * cell
                parts.append(text(x + 16, y + 27, "ABCDEFGH"[number], 14, COLORS[number]))
        for row, number in enumerate(owners):
            if number is None:
                continue
            y = top + row * cell
            parts.append(box(x, y, cell - 4, cell - 4, COLORS[number], "white"))
            if kind == "prefill":
                parts.append(f'<rect x="{x}" y="{y}" width="{cell - 4}" height="{cell - 4}" '
                             'rx="4" fill="url(#stripes)"/>')  # fmt: skip
            parts.append(text(x + 16, y + 27, "ABCDEFGH"[number], 14, "white", font_weight="bold"))
    for column, source, target in engine.moves:
        x = left + column * cell - 2
        begin, end = top + source * cell + cell / 2 - 2, top + target * cell + cell / 2 - 2
        parts.append(line([(x, begin), (x, end)], "#222"))
        parts.append(f'<polygon points="{x - 4},{end + 8} {x + 4},{end + 8} {x},{end}" '
                     'fill="#222"/>')  # fmt: skip
    bottom = top + rows * cell + 14
    parts.append(text(20, bottom, "arrow: the last row takes the place of a sequence that has "
                      "ended; a new prompt gets the free row", 12, "#666"))  # fmt: skip
    return svg(left + len(engine.columns) * cell + 20, bottom + 16, parts)


if __name__ == "__main__":
    torch.manual_seed(0)
    for name, picture in (("model", model_diagram()), ("batch", batch_diagram())):
        atomic_write(FOLDER / f"{name}.svg", picture)
        print(FOLDER / f"{name}.svg")
