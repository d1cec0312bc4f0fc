"""Every plot is a PNG file with the given values; without matplotlib, what to install."""

import json
import sys

import pytest

from minislm.reporting import plots
from minislm.runtime.errors import UserError

PNG = b"\x89PNG\r\n\x1a\n"
SERIES = {"ours": [30, 30, 29, 0], "one seed": [7]}
RATES = [(engine, dtype, mode, batch, 1000.0 * batch)
         for engine, dtype in (("minislm", "float32"), ("minislm", "int8"), ("unknown", "bfloat16"))
         for mode in ("greedy", "top-k 50") for batch in (1, 8)]  # fmt: skip
METRICS = [{"tokens": 1e6 * n, "train_loss": 3.0 / n, "valid_loss": 3.1 / n} for n in (1, 2, 3)]


def dots(path):
    return plots.dots(SERIES, "right", path)


@pytest.fixture
def without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)


def test_a_plot_of_a_study_is_a_file_and_its_markdown(tmp_path):
    assert dots(tmp_path / "plot.png") == "![plot](plot.png)\n"
    assert (tmp_path / "plot.png").read_bytes().startswith(PNG)
    assert [path.name for path in tmp_path.iterdir()] == ["plot.png"]  # no temporary file is left


def test_without_matplotlib_a_study_names_what_to_install(tmp_path, without_matplotlib):
    text = dots(tmp_path / "plot.png")
    assert "pip install -e '.[plot]'" in text and "![" not in text
    assert not any(tmp_path.iterdir())


def axes_of(plot, monkeypatch, tmp_path):
    """The axes that a plot function saves."""
    figures, save = [], plots.save
    monkeypatch.setattr(plots, "save", lambda fig, path: (figures.append(fig), save(fig, path))[1])
    plot(tmp_path / "plot.png")
    return figures[0].axes


def test_every_seed_is_a_dot_and_every_median_a_line(monkeypatch, tmp_path):
    (axes,) = axes_of(dots, monkeypatch, tmp_path)
    ours, median, other, same = (list(line.get_xdata()) for line in axes.lines)
    assert ours == [30, 30, 29, 0] and median == [29.5, 29.5] and other == [7] and same == [7, 7]
    heights = list(axes.lines[0].get_ydata())
    assert len(set(heights)) == 4 and max(map(abs, heights)) < 0.5  # none hides another
    assert [label.get_text() for label in axes.get_yticklabels()] == ["ours", "one seed"]


def write_metrics(run):
    text = "".join(json.dumps(record) + "\n" for record in METRICS)
    (run / "metrics.jsonl").write_text(text)


def test_the_losses_of_a_run(tmp_path, monkeypatch):
    assert plots.plot_losses(tmp_path) is None  # not evaluated yet
    write_metrics(tmp_path)
    (axes,) = axes_of(lambda _: plots.plot_losses(tmp_path), monkeypatch, tmp_path)
    assert list(axes.lines[1].get_xdata()) == [1, 2, 3]
    assert list(axes.lines[1].get_ydata()) == [3.1 / n for n in (1, 2, 3)]
    assert plots.plot_losses(tmp_path) == tmp_path / "loss.png"
    assert (tmp_path / "loss.png").read_bytes().startswith(PNG)


def test_no_losses_are_plotted_without_matplotlib(tmp_path, without_matplotlib):
    write_metrics(tmp_path)
    assert plots.plot_losses(tmp_path) is None and not (tmp_path / "loss.png").exists()


def test_the_throughput_chart_has_a_panel_per_mode_and_batch_size(monkeypatch, tmp_path):
    chart = lambda path: plots.throughput_chart(RATES, "a CPU", path)  # noqa: E731
    panels = axes_of(chart, monkeypatch, tmp_path)
    titles = [axes.get_title() for axes in panels]
    assert titles == [f"batch {b}, {m}" for m in ("greedy", "top-k 50") for b in (1, 8)]
    assert [[bar.get_height() for bar in axes.patches] for axes in panels] == [
        [1000] * 3, [8000] * 3, [1000] * 3, [8000] * 3
    ]  # fmt: skip
    assert (tmp_path / "plot.png").read_bytes().startswith(PNG)


def test_the_throughput_chart_needs_matplotlib(tmp_path, without_matplotlib):
    with pytest.raises(UserError, match="needs matplotlib: pip install"):
        plots.throughput_chart(RATES, "a CPU", tmp_path / "plot.png")


def test_a_plot_that_cannot_be_written_is_one_clear_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        dots(tmp_path / "file" / "plot.png")
