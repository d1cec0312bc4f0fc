"""Plots, written as PNG files by matplotlib where it is installed: pip install -e '.[plot]'."""

import json
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from minislm.runtime.errors import UserError
from minislm.runtime.files import atomic_path, read_text

_COLORS = ("#2f6f9f", "#d1602b", "#4f9d69", "#8a5a9e", "#b8973a", "#7d7d7d")
_NONE = "(The plot needs matplotlib: pip install -e '.[plot]'.)\n"


def new_figure(width: float, height: float, rows: int = 1, columns: int = 1) -> Any | None:
    """A figure of width x height inches with a grid of axes; None without matplotlib."""
    try:
        from matplotlib.figure import Figure  # not pyplot: no display, no global state to close
    except ImportError:
        return None
    figure = Figure((width, height), layout="constrained")
    for axes in figure.subplots(rows, columns, squeeze=False).flat:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
        axes.set_axisbelow(True)
        axes.set_prop_cycle(color=_COLORS)
    return figure


def save(figure: Any, path: Path) -> str:
    """Write a figure; the Markdown that shows it."""
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=140, format="png")
    return f"![{path.stem}]({path.name})\n"


def plot_losses(run: Path) -> Path | None:
    """Plot the losses of a run; the path of the plot, or None without losses or matplotlib."""
    path, metrics = run / "loss.png", run / "metrics.jsonl"
    text = read_text(metrics) if metrics.is_file() else ""
    records = [json.loads(line) for line in text.splitlines()]
    if not records or (figure := new_figure(7, 4)) is None:
        return None
    axes = figure.axes[0]
    for key, label in (("train_loss", "training"), ("valid_loss", "validation")):
        points = [(r["tokens"] / 1e6, r[key]) for r in records if key in r]
        axes.plot(*zip(*points), marker="o", ms=4, label=label)
    axes.set(xlabel="million tokens", ylabel="loss (nats per token)")
    figure.legend(loc="outside upper center", ncols=2, frameon=False, fontsize=9)
    save(figure, path)
    return path


def dots(series: Mapping[str, Sequence[float]], label: str, path: Path) -> str:
    """Plot each value of each series as a dot, and its median as a line; its Markdown, or what to
    install."""
    if (figure := new_figure(7.5, 0.8 + 0.32 * len(series))) is None:
        return _NONE
    axes = figure.axes[0]
    for y, values in enumerate(series.values()):
        spread = np.linspace(-0.3, 0.3, len(values)) if len(values) > 1 else [0.0]
        axes.plot(values, y + np.array(spread), "o", ms=4, alpha=0.7)
        axes.plot([np.median(values)] * 2, [y - 0.4, y + 0.4], color="#333", lw=1)
    axes.set_yticks(range(len(series)), series)
    axes.invert_yaxis()
    axes.set_xlabel(label)
    return save(figure, path)


def throughput_chart(
    rates: Sequence[tuple[str, str, str, int, float]], where: str, path: Path
) -> None:
    """Plot bars of (engine, dtype, mode, batch size, tokens/s): a panel per mode and batch size.
    UserError: matplotlib is not installed."""
    engines, modes = (list(dict.fromkeys(rate[column] for rate in rates)) for column in (0, 2))
    batches = sorted({batch for _, _, _, batch, _ in rates})
    size = 1 + 2.6 * len(batches), 0.8 + 2.4 * len(modes)
    if (figure := new_figure(*size, len(modes), len(batches))) is None:
        raise UserError("the plot needs matplotlib: pip install -e '.[plot]'")
    for axes, (mode, batch) in zip(figure.axes, product(modes, batches)):
        panel = [rate for rate in rates if rate[2:4] == (mode, batch)]
        for x, (engine, dtype, _, _, tokens_per_s) in enumerate(panel):
            color = _COLORS[engines.index(engine) % len(_COLORS)]
            opacity = {"float32": 1.0, "int8": 0.4}.get(dtype, 0.7)  # fewer bits are paler
            axes.bar(x, tokens_per_s, color=color, alpha=opacity, label=f"{engine} {dtype}")
        axes.set_title(f"batch {batch}, {mode}", fontsize=9)
        axes.set_xticks([])
        axes.yaxis.set_major_formatter(lambda value, _: f"{value / 1000:g}k")
    names = figure.axes[0].get_legend_handles_labels()
    figure.legend(*names, loc="outside right upper", frameon=False, fontsize=8)
    figure.suptitle(f"new tokens per second on {where}", fontsize=10)
    save(figure, path)
