"""Committed figures show what the committed records say: the digest in each is that of one drawn now (not rendered)."""

from pathlib import Path

import experiment_scripts
import pictures
import pytest

from qstar.reports import ablations, figures, frames

FOLDER = experiment_scripts.FOLDER
SCREENS = {f"quiet_star/figures/{name}.png" for name in ("report", "terminal", "thoughts")}
OF_RUNS = {"quiet_star/smollm2_math/benefit.png", "quiet_star/smollm2_math/curve.png", "star/arithmetic/arms.png",
           "star/arithmetic/digits.png"}  # fmt: skip
"""Drawn from runs, of which the pages keep the tables alone."""


def of_ablations(folder: Path) -> None:
    script = experiment_scripts.load("quiet_star/ablations/tables")
    read = script.on_page(script.PAGE.read_text(encoding="utf-8"))
    script.draw(read, script.of_base_0(ablations.load(script.RESULTS)), folder)


def of_faithfulness(folder: Path) -> None:
    script = experiment_scripts.load("quiet_star/faithfulness/faithfulness")
    script.draw(frames.lines(script.HERE / script.RESULTS), folder / "faithfulness.png")


def of_frontier(folder: Path) -> None:
    script = experiment_scripts.load("search/frontier/frontier")
    for records in sorted((FOLDER / "search/frontier").glob("*.jsonl")):
        script.draw(script.grouped(frames.lines(records)), folder / records.with_suffix(".png").name)


def of_rewards(folder: Path) -> None:
    experiment_scripts.load("rl/study").draw(FOLDER / "rl/results.jsonl", folder / "prm.png")


def of_bases(folder: Path) -> None:
    script = experiment_scripts.load("star/arithmetic/bases")
    script.draw(frames.lines(script.HERE / script.RECORDS), folder / script.FIGURE)


def of_contour(folder: Path) -> None:
    script = experiment_scripts.load("search/contour/contour")
    script.draw(frames.lines(FOLDER / "search/contour" / script.RESULTS), folder / "contour.png")


def of_lengths(folder: Path) -> None:
    script = experiment_scripts.load("search/lengths/lengths")
    shapes = {name: script.shape(name, "bfloat16") for name in script.SIZES}
    script.draw(shapes, script.arguments([]), folder / "lengths.png")


def of_truth(folder: Path) -> None:
    script = experiment_scripts.load("verifiers/truth/truth")
    for task, of in script.measured(FOLDER / "verifiers/truth").items():
        script.draw_reliability(of["reliability"], folder / f"{task}_{script.RELIABILITY}")
        script.draw_choices(of["models"], folder / f"{task}_{script.BEST}")


def of_vstar(folder: Path) -> None:
    script = experiment_scripts.load("verifiers/vstar/vstar")
    jobs = frames.lines(FOLDER / "verifiers/vstar" / script.RESULTS)
    script.draw(script.flat(jobs, "lines"), folder / script.FIGURE)


DRAWING = {
    "quiet_star/figures": of_ablations,
    "quiet_star/faithfulness": of_faithfulness,
    "search/contour": of_contour,
    "search/frontier": of_frontier,
    "search/lengths": of_lengths,
    "rl": of_rewards,
    "star/arithmetic": of_bases,
    "verifiers/truth": of_truth,
    "verifiers/vstar": of_vstar,
}


@pytest.mark.parametrize("name", DRAWING)
def test_the_figures_of_a_folder_are_those_of_its_records(name, monkeypatch):
    pytest.importorskip("matplotlib")
    drawn = {}
    monkeypatch.setattr(
        figures, "save", lambda figure, file: drawn.update({file.relative_to(FOLDER).as_posix(): figures.drawn(figure)})
    )
    DRAWING[name](FOLDER / name)
    assert drawn == {file: pictures.drawn(FOLDER / file) for file in drawn}
    there = {file.relative_to(FOLDER).as_posix() for file in (FOLDER / name).glob("*.png")}
    assert set(drawn) == there - SCREENS - OF_RUNS


def test_every_picture_is_drawn_from_records_or_known_not_to_be():
    there = {file.relative_to(FOLDER).as_posix() for file in FOLDER.rglob("*.png")}
    drawn = {file for file in there if file.rpartition("/")[0] in DRAWING}
    assert there == drawn | SCREENS | OF_RUNS
