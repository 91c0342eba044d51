import pictures
import pytest

from qstar.reports import figures
from qstar.reports.figures import Curve, Point


def test_a_mean_is_of_the_runs_that_come_so_far():
    assert figures.mean_of_runs([[1.0, 2.0, 6.0], [3.0, 4.0]]) == [2.0, 3.0, 6.0]


def test_panels_carry_what_was_drawn_and_the_file_is_a_png(tmp_path):
    pytest.importorskip("matplotlib")
    figure, (left, middle, right) = figures.grid(3, 2, 3, 2)
    figures.curves(left, [Curve("a", [0, 1], [0.25, 0.5], "#0072b2", [0, 0.25], [0.5, 1], [[0.25]])], "step", "share")
    mean = next(line for line in left.lines if line.get_label() == "a")
    assert (list(mean.get_xdata()), list(mean.get_ydata())) == ([0, 1], [0.25, 0.5])
    assert (left.get_xlabel(), len(left.lines), len(left.collections)) == ("step", 2, 1)  # a run, the mean; its band
    figures.points(middle, ["first", "second"], [Point(0, 0.5, 0.25, 1.0, "#0072b2")], "second", (0, 1))
    assert [(label.get_text(), label.get_fontweight()) for label in middle.get_yticklabels()] == [
        ("second", "bold"), ("first", "normal")
    ]  # fmt: skip
    assert middle.lines[0].get_ydata()[0] == 1  # rows are counted from above
    figures.level(right, 0.2)
    figures.save(figure, tmp_path / "new" / "figure.png")
    assert (tmp_path / "new" / "figure.png").read_bytes().startswith(b"\x89PNG")


def test_a_level_is_named_within_the_axes_on_a_logarithmic_scale_too(tmp_path):
    pytest.importorskip("matplotlib")
    figure, (left, right) = figures.grid(2, 1, 3, 2)
    right.set_xscale("log", base=2)
    for panel in (left, right):
        figures.curves(panel, [Curve("a", [1, 64], [0.25, 0.5], "#0072b2")], "k", "share", (0, 1))
        figures.level(panel, 0.5, "greedy")
    figure.canvas.draw()
    for panel in (left, right):
        (text,) = panel.texts
        assert panel.get_window_extent().contains(*text.get_window_extent().min)


def test_a_picture_says_what_it_shows_and_names_and_numbers_change_that(tmp_path):
    pytest.importorskip("matplotlib")

    def said(name: str, share: float, row: str = "first") -> str:
        figure, (left, right) = figures.grid(2, 2, 3, 2)
        figures.curves(left, [Curve(name, [0, 1], [0.25, share], "#0072b2", [0, 0.25], [0.5, 1])], "step", "share")
        left.legend()
        figures.points(right, [row, "second"], [Point(0, 0.5, 0.25, 1.0, "#0072b2")], "second", (0, 1))
        figures.save(figure, tmp_path / "figure.png")
        return pictures.drawn(tmp_path / "figure.png")

    digests = [said("a", 0.5), said("b", 0.5), said("a", 0.75), said("a", 0.5, "third")]
    assert len(set(digests)) == 4 and said("a", 0.5 + 1e-9) == digests[0]
