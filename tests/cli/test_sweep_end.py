"""A sweep of trainings ends in one table of its jobs."""

import sys

from hydra.core.global_hydra import GlobalHydra
from small_runs import MODEL, RUN

from qstar import train
from qstar.cli import sweep_end
from qstar.reports import tables


def test_a_sweep_of_trainings_ends_in_a_table_of_settings_and_results(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sweep_end, "jobs", [])
    GlobalHydra.instance().clear()
    short = ("steps=1", "eval=none", "control=false", "sample_every=0", "hydra.sweep.dir=sweep")
    monkeypatch.setattr(sys, "argv", ["qstar-train", "-m", "seed=3,4", "method=lm", *MODEL, *RUN[:1], *short])
    train.main()
    table = (tmp_path / "sweep" / sweep_end.TABLE).read_text()
    rows = tables.cells(table)
    assert table.startswith("| run | seed | step | loss |")
    assert [row[:3] for row in rows] == [["0", "3", "1"], ["1", "4", "1"]]
    assert float(rows[0][3]) != float(rows[1][3])
    out = capsys.readouterr().out
    assert "┃ run ┃ seed ┃" in out and "sweep/sweep.md" in out


def test_a_single_run_has_no_table(tmp_path, capsys):
    sweep_end.compare([tmp_path])
    assert capsys.readouterr().out == "" and list(tmp_path.iterdir()) == []
