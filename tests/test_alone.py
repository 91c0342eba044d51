"""What commands do without arguments, and the models that ship for it."""

import shlex
import sys

import jax
import numpy as np
import pytest
from hydra.core.global_hydra import GlobalHydra

from qstar import config as configs
from qstar import improve, overrides, solve
from qstar.runs import answering, load, scoring
from qstar.tasks.cups import Cups


@pytest.mark.parametrize(("command", "arguments"), [(improve, list(improve.ALONE)), (solve, list(solve.ALONE))])
def test_a_command_without_arguments_says_what_it_is_the_same_as(command, arguments, monkeypatch, capsys):
    ran = []
    monkeypatch.setattr(sys, "argv", ["qstar"])
    monkeypatch.setattr(overrides, "run", lambda name, main: ran.append(sys.argv[1:]))
    command.main()
    assert ran == [arguments]
    assert shlex.join(arguments) in capsys.readouterr().err


def test_the_default_job_of_improve_starts_from_the_bundled_sums():
    cfg = configs.composed("improve", list(improve.ALONE))
    assert (cfg.model.source, cfg.improve.iterations) == ("bundled:sums", 3)


def test_a_sweep_of_strategies_ends_in_one_table(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", jax.config.jax_compilation_cache_dir)
    GlobalHydra.instance().clear()
    strategies = ["-m", "search=majority,best_of_n", "search.n=2", "scorer=bundled:cups_prm", "questions=2"]
    monkeypatch.setattr(sys, "argv", ["qstar-solve", *strategies])
    solve.main()
    out = capsys.readouterr().out
    table = out.rpartition("strategy")[2]
    assert table.count("majority") == table.count("best_of_n") == 2  # one and two solutions
    tree = next(line for line in out.splitlines() if "tree=" in line).partition("qstar-solve ")[2]
    monkeypatch.setattr(sys, "argv", ["qstar-solve", *shlex.split(tree)])
    solve.main()
    assert "cups_prm" in capsys.readouterr().out


def test_the_bundled_sums_model_adds_two_digits():
    cfg = configs.composed("improve", [*improve.ALONE, "task.digits=[2]", "task.dev=20", "sample_batch=20"])
    policy = load.load_model("bundled:sums")
    line = answering.evaluated(cfg, policy, cfg.task.problems("dev"), "dev", 0)
    assert line["accuracy"]["share"] >= 0.9


def test_the_bundled_reward_model_tells_wrong_places_from_right_ones():
    rng, prompts, solutions, right = np.random.default_rng(0), [], [], []
    for problem in Cups(dev=50).problems("dev"):
        places = problem.rationale.strip("-")
        wrong = rng.integers(1, len(places))
        # The wrong place is one before the true one in 1, 2, 3, 4, 5, 1; what follows is right again from the true one.
        told = [str((int(place) - 2) % 5 + 1) if i == wrong else place for i, place in enumerate(places)]
        prompts.append(problem.question)
        solutions.append(["-" + told[0], *told[1:], "-" + told[-1] + ";"])
        right.append(Cups().truth(problem, solutions[-1]).right)
    scorer = scoring.opened("bundled:cups_prm", load.load_model("bundled:cups").tokenizer)
    judged = np.concatenate(scorer.score(prompts, solutions).steps) > 0.5
    assert np.mean(judged == np.concatenate(right)) > 0.85  # as many as 0.7 are right
