"""What a person sees while a run works: never nothing, and in a pipe nothing but text."""

import io
import re
import time

import pytest
import rich.progress
from rich.console import Console

from qstar.config import SCHEMAS
from qstar.reports import tables
from qstar.training import console

VALUES = {"loss": 812345.0, "nll": 1.6141, "nll_mixed": 0.2244, "reward": 0.0312, "weight": 0.61}
SHOWN = ("nll", "nll_mixed", "reward")


@pytest.fixture
def screen(monkeypatch):
    """Puts a terminal, or a pipe, in the place of standard output; gives its text."""

    def put(terminal: bool, width: int = 120) -> io.StringIO:
        text = io.StringIO()
        made = Console(file=text, force_terminal=terminal, highlight=False, width=width, soft_wrap=not terminal)
        monkeypatch.setattr(console, "console", lambda: made)
        return text

    return put


def test_a_phase_in_a_pipe_is_a_line_when_it_begins_and_another_while_it_lasts(screen, monkeypatch):
    text = screen(terminal=False)
    monkeypatch.setattr(console, "COUNTED_S", 0.05)
    with console.phase("loading [the model]"):
        assert text.getvalue() == "loading [the model] ...\n"
        time.sleep(0.2)
    lines = text.getvalue().splitlines()
    assert 2 <= len(lines) <= 5 and lines[1] == "loading [the model]: 0 s so far"
    time.sleep(0.1)
    assert text.getvalue().splitlines() == lines


def test_a_pipe_is_no_terminal_whatever_the_environment_asks_for(monkeypatch, capfd):
    monkeypatch.setenv("FORCE_COLOR", "1")
    console.console.cache_clear()
    try:
        assert not console.console().is_terminal and not console.console().is_interactive
        with console.phase("waiting"):
            pass
        console.console().print("done", style="red")
    finally:
        console.console.cache_clear()
    assert capfd.readouterr().out == "waiting ...\ndone\n"


@pytest.fixture
def real(monkeypatch):
    """The console as commands have it, in a pipe."""
    monkeypatch.setenv("COLUMNS", "200")
    console.console.cache_clear()
    yield console.console
    console.console.cache_clear()


def test_names_with_brackets_and_colons_are_shown_as_they_are(real, capfd):
    name = "runs/a[red]b[/c] :smile:"
    table = tables.screen(("run", name), [(name, "[1]")], title=name)
    real().print(name)
    real().print(table)
    real().print(tables.Fitted(table))
    with console.counting(name):
        pass
    text = capfd.readouterr().out
    assert text.count(name) == 8


def test_a_bar_of_counted_work_shows_names_as_they_are(screen):
    text = screen(True)
    with console.counting("evaluating runs/a[red]b[/c]") as progress:
        progress(1, 2)
    assert "evaluating runs/a[red]b[/c]" in text.getvalue()


def test_of_several_processes_the_first_alone_says_what_it_does(screen, monkeypatch):
    text = screen(terminal=False)
    monkeypatch.setenv("SLURM_PROCID", "3")
    with console.phase("loading"):
        assert text.getvalue() == ""
    monkeypatch.setenv("QSTAR_DISTRIBUTED", "0")  # it stays alone
    with console.phase("loading"):
        assert text.getvalue() == "loading ...\n"


def test_counting_in_a_pipe_says_what_begins(screen):
    text = screen(terminal=False)
    with console.counting("questions") as progress:
        progress(1, 2)
    assert text.getvalue() == "questions ...\n"


def test_a_phase_in_a_terminal_is_a_spinner_and_leaves_nothing(screen):
    text = screen(terminal=True)
    with console.phase("loading [the model]"), console.phase("reading thoughts"):
        time.sleep(0.2)
    assert "loading [the model]" in text.getvalue() and "reading thoughts" in text.getvalue()
    assert text.getvalue().endswith("\x1b[2K")  # its line is erased
    assert console._LIVE == []


def test_a_phase_beside_a_bar_takes_the_place_of_its_description(screen):
    text = screen(terminal=True)
    with console.progress("QuietStar", 0, 3, SHOWN) as bar:
        bar.step(1, VALUES)
        with console.phase("asking questions"):
            time.sleep(0.2)
            assert "asking questions" in text.getvalue()
        bar.step(2, VALUES)
    last = text.getvalue().split("QuietStar")[-1]
    assert "nll 1.614  nll_mixed 0.2244  reward 0.0312" in last


@pytest.mark.parametrize("width", [40, 60, 80, 120, 200])
@pytest.mark.parametrize("speed", [None, 3.25])
def test_a_bar_shows_steps_and_the_time_left_in_any_width(width, speed, screen, monkeypatch):
    monkeypatch.setattr(rich.progress.Task, "speed", speed)
    monkeypatch.setattr(rich.progress.Task, "time_remaining", 4567)
    text = screen(True, width)
    with console.progress("Quiet-STaR", 0, 75, SHOWN) as bar:
        bar.interval(60, {"machine/tokens_per_s": 3390.0, "machine/mfu": 0.11})
        for step in (66, 67):
            bar.step(step, VALUES)
    last = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text.getvalue()).split("Quiet-STaR")[-1]
    assert " 67/75 1:16:07 " in last and "nll 1.614" in last
    assert ("nll 1.614  nll_mixed 0.2244  reward 0.0312" in last) == (width >= 80)
    assert ("11% of peak" in last) == (width > (120 if speed else 100)) and ("3.25 steps/s" in last) == (
        bool(speed) and width > 100
    )


@pytest.mark.parametrize("width", [40, 80])
def test_counted_work_shows_its_share_and_the_time_left_in_any_width(width, screen, monkeypatch):
    monkeypatch.setattr(rich.progress.Task, "time_remaining", 4567)
    text = screen(True, width)
    with console.counting("evaluating runs/2026-01-01_12-00-00_quiet_star, step 100") as progress:
        progress(3, 10)
    last = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text.getvalue()).split("evaluating")[-1]
    assert re.search(r" +30% 1:16:07", last)


def test_a_line_of_a_pipe_shows_what_a_method_names_and_no_escape_codes(screen):
    text = screen(terminal=False)
    with console.progress("QuietStar", 0, 3, SHOWN) as lines:
        lines.step(1, VALUES)
        lines.interval(1, VALUES)
    assert text.getvalue().startswith("QuietStar 1/3  nll 1.614  nll_mixed 0.2244  reward 0.0312  ")
    assert "\x1b" not in text.getvalue()


@pytest.mark.parametrize("name", SCHEMAS["method"])
def test_a_method_names_its_likelihood_first_and_no_loss_with_reinforce_in_it(name):
    if name in ("policy_gradient", "ppo"):  # rollouts are steered by what they earn
        assert SCHEMAS["method"][name]().headline[0] == "reward"
        return
    headline = SCHEMAS["method"][name].headline
    if name in ("orm", "prm", "dpo"):  # no likelihood, and no policy gradient in the loss
        assert headline[:2] == ("loss", "accuracy")
        return
    assert headline[0] == ("loss" if name == "lm" else "nll")  # of plain language modelling the loss is the likelihood
    assert name == "lm" or "loss" not in headline
    assert name in ("lm", "sft") or "reward" in headline
