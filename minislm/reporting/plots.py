"""Pictures: matplotlib where it is installed, and the figures of a study.

Each function of a study draws a file and returns the Markdown that shows it, or says what it needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from minislm.reporting.metrics import read_metrics
from minislm.runtime.errors import UserError
from minislm.runtime.files import atomic_path

_COLORS = ("#2f6f9f", "#d1602b", "#4f9d69", "#8a5a9e", "#b8973a", "#7d7d7d")
_NONE = "(The picture needs matplotlib: pip install -e '.[plot]'.)\n"


def plotting() -> Any | None:
    """matplotlib.pyplot, drawing into files, or None where matplotlib is not installed."""
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot
    except ImportError:
        return None
    return pyplot


def _figure(width: float, height: float) -> tuple[Any, Any] | None:
    """A figure and its axes, or None without matplotlib."""
    if (pyplot := plotting()) is None:
        return None
    figure, axes = pyplot.subplots(figsize=(width, height), layout="constrained")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    axes.set_axisbelow(True)
    return figure, axes


def _save(figure: Any, path: Path) -> str:
    figure.savefig(path, dpi=140)
    plotting().close(figure)
    return f"![{path.stem}]({path.name})\n"


def plot_losses(run: Path) -> Path | None:
    """Plot metrics.jsonl as loss.png, where matplotlib is installed; the path, or None."""
    records = read_metrics(run)
    if not records or (made := _figure(7, 4)) is None:
        return None
    figure, axes = made
    tokens = [record["tokens"] / 1e6 for record in records]
    for key, label in (("train_loss", "training"), ("valid_loss", "validation")):
        axes.plot(tokens, [record[key] for record in records], marker="o", ms=3, label=label)
    axes.set(xlabel="million tokens", ylabel="loss (nats per token)", title=run.name)
    axes.legend(frameon=False)
    path = run / "loss.png"
    figure.savefig(path, dpi=150)
    plotting().close(figure)
    return path


def dots(
    points: Sequence[tuple[str, float, float, float]], label: str, path: Path,
    line: float | None = None,
) -> str:  # fmt: skip
    """Named values with their intervals (name, value, low, high), one below the other."""
    if (made := _figure(7, 0.8 + 0.26 * len(points))) is None:
        return _NONE
    figure, axes = made
    for y, (_, value, low, high) in enumerate(points):
        axes.plot([max(low, -1e9), min(high, 1e9)], [y, y], color=_COLORS[0], alpha=0.4, lw=3)
        axes.plot(value, y, "o", color=_COLORS[0], ms=5)
    if line is not None:
        axes.axvline(line, color=_COLORS[1], lw=1, ls="--")
    axes.set_yticks(range(len(points)), [name for name, *_ in points], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel(label)
    return _save(figure, path)


def bars(
    groups: Sequence[str], series: dict[str, Sequence[tuple[float, float, float] | None]],
    label: str, path: Path,
) -> str:  # fmt: skip
    """Grouped bars: for each series a (value, low, high) per group, None where there is none."""
    if (made := _figure(max(7, 1.15 * len(groups)), 4)) is None:
        return _NONE
    figure, axes = made
    width = 0.8 / len(series)
    for s, (name, values) in enumerate(series.items()):
        there = [(g, v) for g, v in enumerate(values) if v is not None]
        xs = [g + (s - (len(series) - 1) / 2) * width for g, _ in there]
        heights = [v[0] for _, v in there]
        spread = [[v[0] - v[1] for _, v in there], [v[2] - v[0] for _, v in there]]
        axes.bar(xs, heights, width * 0.92, color=_COLORS[s % len(_COLORS)], label=name)
        axes.errorbar(xs, heights, spread, fmt="none", ecolor="#333", elinewidth=0.8, capsize=2)
    axes.set_xticks(range(len(groups)), groups)
    axes.set_ylabel(label)
    figure.legend(loc="outside upper center", ncols=min(4, len(series)), frameon=False, fontsize=9)
    return _save(figure, path)


def lines(
    series: dict[str, Sequence[tuple[float, float, float, float]]], xlabel: str, ylabel: str,
    path: Path, log: bool = False,
) -> str:  # fmt: skip
    """Curves of (x, value, low, high)."""
    if (made := _figure(7, 4)) is None:
        return _NONE
    figure, axes = made
    for s, (name, points) in enumerate(series.items()):
        xs, values, lows, highs = zip(*points)
        color = _COLORS[s % len(_COLORS)]
        axes.plot(xs, values, marker="o", ms=4, color=color, label=name)
        axes.fill_between(xs, lows, highs, color=color, alpha=0.15, lw=0)
    if log:
        axes.set_xscale("log")
    axes.set(xlabel=xlabel, ylabel=ylabel)
    figure.legend(loc="outside upper center", ncols=min(4, len(series)), frameon=False, fontsize=9)
    return _save(figure, path)


_HUES = {"minislm": "Blues", "plain sampler": "Purples", "transformers": "Greys",
         "ctranslate2": "Oranges", "ct2, 1 thread": "Reds", "llama.cpp": "Greens"}  # fmt: skip


def throughput_chart(
    rates: Sequence[tuple[str, str, str, int, float]], where: str, path: Path
) -> None:
    """Bars of (engine, dtype, mode, batch size, tokens/s): one panel per batch size and mode.

    Raises:
        UserError: matplotlib is not installed.
    """
    if (pyplot := plotting()) is None:
        raise UserError("the plot needs matplotlib: pip install -e '.[plot]'")
    modes = list(dict.fromkeys(mode for _, _, mode, _, _ in rates))
    batches = sorted({batch for _, _, _, batch, _ in rates})
    figure, axes = pyplot.subplots(
        len(modes), len(batches), figsize=(1 + 2.6 * len(batches), 0.8 + 2.4 * len(modes)),
        layout="constrained", squeeze=False,
    )  # fmt: skip
    for m, mode in enumerate(modes):
        for b, batch in enumerate(batches):
            panel = axes[m][b]
            bars = [(e, d, rate) for e, d, *key, rate in rates if key == [mode, batch]]
            for place, (engine, dtype, rate) in enumerate(bars):
                depth = {"float32": 0.85, "int8": 0.4}.get(dtype, 0.6)  # darker: more bits
                color = pyplot.colormaps[_HUES[engine]](depth)
                panel.bar(place, rate, color=color, label=f"{engine} {dtype}")
            panel.set_title(f"batch {batch}, {mode}", fontsize=9)
            panel.set_xticks([])
            panel.tick_params(labelsize=8)
            panel.spines[["top", "right"]].set_visible(False)
            panel.yaxis.set_major_formatter(lambda value, _: f"{value / 1000:g}k")
    names = axes[0][0].get_legend_handles_labels()
    figure.legend(*names, loc="outside right upper", frameon=False, fontsize=8)
    figure.suptitle(f"new tokens per second on {where}", fontsize=10)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=150, format="png")
    pyplot.close(figure)
