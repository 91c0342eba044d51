"""Every script under experiments/ runs: in its cheapest form, in this process, with the arguments given here.

Scripts that need weights or packages which a plain checkout lacks parse their arguments alone (`--help`).
"""

import dataclasses
import io
import json
import re
import runpy
import shlex
import shutil
import string
import subprocess
import sys

import experiment_scripts
import jax
import numpy as np
import pytest
import small_runs
import tiny
import tolerances
import yaml

import qstar
from qstar import runs
from qstar.data import tokenizer
from qstar.models import lm as language_model
from qstar.paths import ROOT
from qstar.policy import Policy
from qstar.runs import ablation, solve, train
from qstar.tasks import cups

HELP = ["--help"]
SMALL_STEP = ("batch_size=2", "eval.items=4", "eval.batch_size=4")
IMPROVED = ("task.train=4", "task.dev=2", "task.test=2", "task.digits=[1]", "improve.problems=2", "improve.steps=1",
            "improve.iterations=1", "optim.warmup_steps=0", "sample_batch=4", "wrong_hints=0", "batch_size=2",
            )  # fmt: skip
TINY_WARMUP = ("steps=1", "batch_size=2", "model.width=16", "model.layers=1", "model.heads=2", "model.kv_heads=2",
               "model.head_size=8", "model.ff=16", "optim.warmup_steps=0")  # fmt: skip


@pytest.fixture
def script(monkeypatch, capsys):
    """Run a script with these arguments; what it printed. Nothing is trained longer or read more than is told."""
    monkeypatch.setattr(train, "BEST_OF", 1)
    cache = jax.config.jax_compilation_cache_dir

    def run(name, *arguments):
        file = experiment_scripts.FOLDER / name
        monkeypatch.setattr(sys, "argv", [str(file), *map(str, arguments)])
        # Scripts import what lies beside them; other folders have modules of the same names.
        monkeypatch.setattr(sys, "path", [str(file.parent), *sys.path])
        kept = {one: sys.modules.pop(one, None) for one in experiment_scripts.NEIGHBOURS}
        try:
            runpy.run_path(str(file), run_name="__main__")
        except SystemExit as stop:
            assert stop.code in (0, None), (name, stop.code, capsys.readouterr())
        finally:
            sys.modules.update({one: module for one, module in kept.items() if module is not None})
            jax.config.update("jax_compilation_cache_dir", cache)
        return capsys.readouterr().out

    return run


RUNS = {
    "accelerator/all.py": ["--plan", "--size", "tiny"],
    "benchmarks/breakdown.py": ["--hidden", 16, "--length", 8, "--vocab", 20, "--side", "plain LM"],
    "benchmarks/decoding.py": ["--model", "bundled:cups", "--batch", 1, "--prompt", 4, "--new", 2, "--repeats", 1],
    "benchmarks/memory.py": ["--size", "tiny", "--out", "OUT"],
    "benchmarks/scaling.py": ["--devices", 8],
    "benchmarks/sessions.py": ["--model", "bundled:cups", "--rows", 8, "--steps", 2, "--tokens", 2, "--repeats", 1],
    "benchmarks/verifiers.py": ["--texts", 4, "--questions", 1, "--completions", 1, "--repeats", 1],
    "checks/adversarial.py": ["numeric"],
    "checks/export_logits.py": HELP,
    "checks/family_logits.py": ["llama_linear"],
    "checks/fuzz_graders.py": ["--pairs", 40],
    "checks/official_parity.py": ["--golden", "GOLDEN"],
    "checks/real_golds.py": HELP,
    "checks/right_spellings.py": ["numeric"],
    "checks/smollm2_logits.py": HELP,
    "checks/splits.py": [],
    "checks/store_kills.py": ["--kills", 1],
    "quiet_star/ablations/tables.py": ["--results", "RESULTS", "--page", "PAGE"],
    "search/frontier/countdown.py": ["OUT", "--problems", 3],
    "search/frontier/frontier.py": [
        "prm=bundled:cups_prm", "logprob", "oracle", "--questions", 4, "--stepwise", 2, "--samples", 4, "--sizes", 4,
        "--strategies", "MCTS", "--cot", 2, "--seeds", 0, "--batch", 4, "--out", "OUT",
    ],
    "search/contour/contour.py": [
        "--sizes", "small", "medium", "--digits", 1, "--examples", 8, "--questions", 2, "--steps", 1, "--samples", 2,
        "--batch", 2, "--seeds", 0, "--out", "OUT",
    ],
    "search/found/found.py": [
        "--bases", "bundled:cups", "--arms", "sampled", "--questions", 4, "--dev", 2, "--test", 2, "--steps", 1,
        "--rates", 1e-3, "--out", "OUT",
    ],
    "search/lengths/lengths.py": ["bundled:cups", "--tokens", 8, 64],
    "star/smollm2/sums.py": ["OUT", "--train", 3, "--dev", 2, "--test", 2],
    "star/arithmetic/warmup.py": ["OUT", "--digits", "1:3", "2:3"],
    "verifiers/slips/slips.py": ["cups", "--problems", 8, "--held-out", 4, "--steps", 1, "--seeds", 0, "--out", "OUT"],
    "verifiers/truth/truth.py": [
        "cups", "--problems", 4, "--samples", 2, "--ks", 1, 2, "--omega", 2, "--subset", 3, "--rollouts", 4,
        "--held-out", 3, "--solutions", 2, "--models", "soft_2", "consensus_2", "--steps", 1, "--seeds", 0,
        "--out", "OUT",
    ],
    "verifiers/vstar/vstar.py": [
        "--train", 6, "--dev", 2, "--test", 2, "--iterations", 1, "--samples", 4, "--candidates", 4, "--steps", 1,
        "--verifier-steps", 1, "--lrs", 1e-3, "--betas", 1, "--orm-lrs", 1e-3, "--rows", 16, "--seeds", 0,
        "--out", "OUT",
    ],
}  # fmt: skip
"""Those that need no run before them."""
SLOW = {"search/contour/contour.py", "verifiers/vstar/vstar.py"}
"""Of these, those that compile for a quarter of a minute; by default they are asked for help."""
AFTER_RUNS = {
    "benchmarks/grpo.py",
    "benchmarks/startup.py",
    "benchmarks/step.py",
    "quiet_star/ablations/sweep.py",
    "quiet_star/faithfulness/faithfulness.py",
    "quiet_star/faithfulness/invention.py",
    "quiet_star/followups/compare.py",
    "quiet_star/followups/fast_quiet_star.py",
    "quiet_star/many_thoughts/many_thoughts.py",
    "quiet_star/smollm2_math/curve.py",
    "quiet_star/tiny/headroom.py",
    "quiet_star/token_benefit.py",
    "rl/self_correction.py",
    "rl/study.py",
    "search/router/router.py",
    "star/arithmetic/bases.py",
    "star/arithmetic/tables.py",
    "star/arithmetic/study.py",
    "star/smollm2/ask.py",
    "star/smollm2/tables.py",
    "verifiers/mistakes/mistakes.py",
}
"""Those of the tests below, and of tests of their own."""


ELSEWHERE = {"accelerator/jobs.py"}
"""Those that a file of tests of their own runs: test_accelerator.py."""


def test_every_script_has_a_tiny_run():
    assert set(experiment_scripts.SCRIPTS) == set(RUNS) | AFTER_RUNS | ELSEWHERE


@pytest.mark.parametrize("name", sorted(AFTER_RUNS | SLOW))
def test_a_script_says_what_it_takes(name, script):
    """All that runs by default of those below that are slow: that they are loaded, and their flags."""
    assert "usage: " in script(name, "--help")


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in RUNS])
def test_a_script_runs(name, script, tmp_path):
    if name == "quiet_star/ablations/tables.py":
        pytest.importorskip("matplotlib")
    (tmp_path / "golden").mkdir()
    golden = ROOT / "tests" / "golden" / "official" / "gqa_3_2_padded.npz"
    (tmp_path / "golden" / golden.name).write_bytes(golden.read_bytes())
    ablations = experiment_scripts.FOLDER / "quiet_star"
    for source in ("ablations/results.jsonl", "README.md"):
        (tmp_path / source.rpartition("/")[2]).write_bytes((ablations / source).read_bytes())
    places = {"GOLDEN": "golden", "OUT": "out", "RESULTS": "results.jsonl", "PAGE": "README.md"}
    arguments = [tmp_path / places[one] if one in places else one for one in RUNS[name]]
    found = script(name, *arguments)
    assert found or name in ("quiet_star/ablations/tables.py", "star/smollm2/sums.py", "star/arithmetic/warmup.py")


def test_headroom_tells_what_the_base_can_do(script):
    rows = [
        line.split("│") for line in script("quiet_star/tiny/headroom.py", "--items", 12).splitlines() if "│" in line
    ]
    found = {cells[1].strip(): cells[2].strip() for cells in rows}
    assert found["chance"] == "0.200"
    assert float(found["true workings in the thought slot"]) == 1.0
    assert float(found["writes its workings, likeliest tokens"]) > 0.8 > 0.5 > float(found["without workings"])


@pytest.mark.slow
def test_the_scripts_of_quiet_star_that_train_run(script, tmp_path):
    """The comparison, the stages of Fast Quiet-STaR, and what thoughts did in one of these runs."""
    pytest.importorskip("matplotlib")
    out = tmp_path / "out"
    answers = ("--answers", "--methods", "RLP", "--lr", "1e-3", "--seeds", 0, "--steps", 1, "--out", out)
    script("quiet_star/followups/compare.py", *answers, "--set", *SMALL_STEP, "method.thought_len=2")
    assert (out / "answers.md").read_text().count("| RLP, lr 0.001 | 1 | 1 |") == 2
    (run,) = (file.parent for file in out.glob("answers/*/*/0/config.yaml"))
    (tmp_path / "t.jsonl").write_text('{"text": "3aeg=4;"}\n')
    found = ["--field", "text", "--texts", 1, "--out", tmp_path / "benefit"]
    assert "6 tokens of 1 texts" in script("quiet_star/token_benefit.py", run, tmp_path / "t.jsonl", *found)
    stages = ("--stages", "1-1", "--steps", 1, "--student-steps", 1, "--out", out / "fast")
    script("quiet_star/followups/fast_quiet_star.py", *stages, "eval=none", "batch_size=2")
    assert (out / "fast" / "student" / "0" / "summary.md").is_file() or (out / "fast" / "student" / "0").is_dir()


@pytest.mark.slow
def test_what_thoughts_hold_is_measured_of_runs_of_a_sweep_and_of_written_workings(script, tmp_path):
    pytest.importorskip("matplotlib")
    arm = "nothing trained, prediction after the thought"
    arms = yaml.safe_load((experiment_scripts.FOLDER / "quiet_star/faithfulness/faithfulness.yaml").read_text())
    arms |= {"reference": arm, "arms": {arm: arms["arms"][arm]}}
    (tmp_path / "faithfulness.yaml").write_text(yaml.safe_dump(arms))
    out, sizes = tmp_path / "runs", ("--set", *SMALL_STEP)
    sweep = (tmp_path / "faithfulness.yaml", "--seeds", 0, "--out", out, *sizes, "model.source=bundled:cups")
    script("quiet_star/ablations/sweep.py", *sweep)
    assert len(list(out.glob("*/*/0/answers.jsonl"))) == 1
    name, places = "quiet_star/faithfulness/faithfulness.py", ("--out", tmp_path, "--items", 24)
    script(name, "--runs", f"0=bundled:cups={out}", *places, *sizes)
    script(name, "--written", "0=base=bundled:cups", *places)
    lines = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    for part in ("edits", "written"):
        found = {(line["rest"], line.get("left")): line for line in lines if line["part"] == part}
        assert found["kept", 3]["followed"] < 0.3 < 0.9 < found["kept", 3]["stayed"]  # the last place is read alone
        assert found["continued", 3]["followed"] > 0.7  # and an edit is carried on to it
    assert "## interchange" in script(name, "--show", tmp_path) and (tmp_path / "faithfulness.png").is_file()
    (run,) = (file.parent for file in out.glob("*/*/0/config.yaml"))
    script(name, run, "--items", 24)
    measured = {(line["part"], line["rest"]): line for line in qstar.open(run).faithfulness().lines if "rest" in line}
    assert measured["edits", "unedited"]["right"] == lines[0]["right"] and measured["edits", "unedited"]["step"] == 1
    example = measured["examples", "continued"]
    assert example["edited"][: example["at"]] == example["thought"][: example["at"]] and example["became"] in "12345"
    assert example["edited"][example["at"]] != example["thought"][example["at"]]
    assert "readability" in {line["part"] for line in qstar.open(run).faithfulness().lines}


@pytest.mark.slow
def test_many_thoughts_are_chosen_among_and_held_against_longer_ones_and_none(script, tmp_path):
    name, out = "quiet_star/many_thoughts/many_thoughts.py", tmp_path / "runs"
    start = ("model.source=bundled:cups", "eval=none", "control=false", "sample_every=0", "batch_size=2", "steps=1")
    recipe = "experiments=quiet_star/many_thoughts/thinker"
    for arm, said in {
        "of_8": (recipe, "method.thought_len=8"),
        "longer": (recipe, "method=quiet_star_cups"),
        "plain": ("experiments=quiet_star/tiny", "method=lm"),
    }.items():
        train.run(small_runs.composed(*said, *start, f"run_dir={out / arm}"), out / arm)
    sizes = ("--items", 24, "--most", 2, "--moves", 6, 8)
    named = (f"0={out / 'of_8'}", "--longer", f"0={out / 'longer'}", "--plain", f"0={out / 'plain'}")
    script(name, *named, *sizes, "--out", tmp_path)
    script(name, "--label", f"0={out / 'of_8'}", "--train", 4, "--draws", 2, *sizes, "--out", tmp_path)
    labels = [json.loads(line) for line in (tmp_path / "labelled_0.jsonl").read_text().splitlines()]
    assert len(labels) == 8 and {row["label"] for row in labels} <= {0, 1} and len(labels[0]["completion"]) == 8
    script(name, "--scored", f"0={out / 'of_8'}=bundled:cups_prm", *sizes, "--out", tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    by = {(line["thoughts"], line["by"]): line for line in lines}
    assert by[2, "any of them right (oracle)"]["right"] >= by[1, "one sampled"]["right"]
    assert by[0, "none"]["flops"] < by[1, "one sampled"]["flops"] < by[2, "blend"]["flops"] == by[2, "helpful"]["flops"]
    assert by[2, "a reward model"]["flops"] > by[2, "helpful"]["flops"]
    assert (1, "thoughts of 12 tokens, the likeliest") in by and len(lines) == 3 + 6 + 2 + 2 + 1
    assert "| thoughts | by | trained | of each base |" in script(name, "--show", tmp_path)


@pytest.mark.slow
def test_the_scripts_of_reinforcement_learning_run(script, tmp_path):
    sizes = ("--bases", 0, "--examples", 8, "--test", 4)
    base = ("--arms", "base", "--base-steps", 1, "--out", tmp_path / "rl")
    assert "base base 0" in script("rl/study.py", "ladder", *sizes, *base)
    rest = ("--rl", tmp_path / "rl", "--workings", "noticing", "--steps", 1, "--out", tmp_path)
    table = script("rl/self_correction.py", *sizes, *rest).partition("## Self-correction")[2]
    assert [row.split("|")[2:4] for row in table.splitlines() if row.startswith("| noticing")] == [
        [" 1e-4 ", " sft "], [" 1e-4 ", " grpo "],
    ]  # fmt: skip
    (line,) = [line for line in (tmp_path / "self_correction.jsonl").read_text().splitlines() if "grpo" in line]
    assert json.loads(line)["sampled_tokens"] > 128 and script("rl/self_correction.py", *sizes, *rest) != ""


@pytest.mark.slow
def test_a_curriculum_from_a_base_measures_what_there_is_to_invent(script, tmp_path):
    sizes = ("--stages", 2, "--steps", 1, "--items", 8, "--arms", "LaTRO", "--set", *SMALL_STEP)
    script("quiet_star/faithfulness/invention.py", "bundled:cups", "--out", tmp_path, *sizes)
    lines = [json.loads(line) for line in (tmp_path / "invention.jsonl").read_text().splitlines()]
    assert [(line["arm"], line["moves"], line.get("at")) for line in lines] == [
        ("base", 1, None), ("base", 2, None), ("LaTRO", 2, "start"), ("LaTRO", 2, "end"), ("answers alone", 2, "end"),
    ]  # fmt: skip
    thinker, plain = lines[3], lines[4]
    assert plain["steps"] > thinker["steps"] == 1 and {"likeliest", "sampled", "seen"} <= thinker.keys()
    assert "## Signal" in script("quiet_star/faithfulness/invention.py", "--show", tmp_path)
    invention = experiment_scripts.load("quiet_star/faithfulness/invention")
    for arm, control in invention.CONTROLS.items():
        thinks, not_ = (invention.staged(one, 2, "bundled:cups", 50, tmp_path, ()) for one in (arm, control))
        assert ablation.cost(not_) == pytest.approx(ablation.cost(thinks), rel=0.01), arm


def test_the_page_of_the_truth_bench_has_the_tables_of_its_records(script, tmp_path):
    pytest.importorskip("matplotlib")
    folder = experiment_scripts.FOLDER / "verifiers" / "truth"
    (tmp_path / "results.jsonl").write_bytes((folder / "results.jsonl").read_bytes())
    page = tmp_path / "README.md"
    page.write_bytes((folder / "README.md").read_bytes())
    assert script("verifiers/truth/truth.py", "--show", tmp_path, "--page", page).count("\n| ") > 60
    assert page.read_text() == (folder / "README.md").read_text()
    assert {file.name for file in tmp_path.glob("*.png")} == {file.name for file in folder.glob("*.png")}


def test_a_reward_model_is_trained_on_other_models_mistakes_and_judged(script, tmp_path):
    characters = tokenizer.characters(string.printable[:95] + "\n", (" Yes", " No", " A", " B"))
    shape = dataclasses.replace(tiny.LM, vocab=characters.size, max_len=512)
    base = Policy.of_language_model(shape, tiny.weights_of(language_model.definition(shape)), characters, "tiny")
    runs.save_model(tmp_path / "tiny", base)
    for name in ("multistep_arithmetic", "tracking_shuffled_objects"):
        lines = [
            {"input": f"{number} + 1 =", "steps": ["A = 1.", f"So it is {number}."], "target": f"{number + 1}",
             "answer": f"{number + (mistake is None)}", "mistake_index": mistake}
            for number, mistake in enumerate((None, 0, 1, None, 0, 1, None, 0, 1, None))
        ]  # fmt: skip
        lines += [lines[0] | {"answer": "7"}, lines[0] | {"steps": ["A = 1." * 10]}]
        # As in the files of the data set, the last line has no end.
        (tmp_path / f"bigbench_mistake_{name}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    name, out = "verifiers/mistakes/mistakes.py", tmp_path / "out"
    sizes = ("--length", 48, "--steps", 2, "--batch", 1, "--seeds", 0)
    kinds = ("position", "story", "untrained", "prm", "judge")
    given = ("--data", tmp_path, "--base", tmp_path / "tiny", "--out", out, *sizes, "--kinds", *kinds)
    shown = script(name, *given)
    records = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    assert [line["kind"] for line in records] == [*kinds]
    for line in records:
        assert line["left_out"] == {
            f"{task}: {why}": 1
            for task in ("arithmetic", "objects")
            for why in ("a wrong answer without a mistake", "too long")
        }
        assert (line["train"], len(line["dev"]), len(line["test"])) == (12, 4, 4)
        assert all(len(row["scores"]) == 2 and 0 <= min(row["scores"]) for row in [*line["dev"], *line["test"]])
    read = [json.loads(line) for line in (out / "seed_0" / "train.jsonl").read_text().splitlines()]
    assert {len(row["completions"]) - len(row["labels"]) for row in read} == {0}
    assert {tuple(row["labels"]) for row in read} == {(True, True), (False,), (True, False)}
    scores = {line["kind"]: [score for row in line["test"] for score in row["scores"]] for line in records}
    assert set(scores["untrained"]) == {0.5} and 0.5 not in scores["prm"] and scores["prm"] != scores["judge"]
    again = script(name, *given)
    assert again in shown and script(name, "--show", out) == again and "| both | prm | 1 |" in again
    with pytest.raises(AssertionError, match="name another folder"):
        script(name, *given, "--lr", 1)


def test_the_page_of_mistakes_has_the_tables_of_its_records(script):
    folder = experiment_scripts.FOLDER / "verifiers" / "mistakes"
    shown = [
        line for line in script("verifiers/mistakes/mistakes.py", "--show", folder).splitlines() if line[:1] == "|"
    ]
    page = (folder / "README.md").read_text().splitlines()
    assert len(shown) > 30 and [line for line in shown if line not in page] == []


def test_the_page_of_vstar_has_the_tables_of_its_records(script, tmp_path):
    pytest.importorskip("matplotlib")
    folder = experiment_scripts.FOLDER / "verifiers" / "vstar"
    (tmp_path / "results.jsonl").write_bytes((folder / "results.jsonl").read_bytes())
    shown = [line for line in script("verifiers/vstar/vstar.py", "--show", tmp_path).splitlines() if line[:1] == "|"]
    page = (folder / "README.md").read_text().splitlines()
    assert len(shown) > 20 and [line for line in shown if line not in page] == []
    assert {file.name for file in tmp_path.glob("*.png")} == {file.name for file in folder.glob("*.png")}


def test_a_router_is_fitted_to_a_run_of_best_of_n(script, tmp_path):
    settings = (
        "search=best_of_n",
        "search.n=4",
        "scorer=bundled:cups_prm",
        "aggregate=min",
        "questions=12",
        "sample_batch=12",
    )
    solve.run(small_runs.composed(*settings, f"run_dir={tmp_path / 'run'}", name="solve"), tmp_path / "run")
    *table, scored, agreed = script(
        "search/router/router.py", tmp_path / "run", "--sizes", 2, 4, "--bins", 2
    ).splitlines()
    assert [line.split("|")[1].strip() for line in table if line.startswith("| best of")] == ["best of 2", "best of 4"]
    for command, estimate in ((scored, "score"), (agreed, "agreement")):
        asked = small_runs.composed(*shlex.split(command)[1:], name="solve")
        assert (asked.scorer, asked.aggregate) == (("bundled:cups_prm",), "min")
        router = asked.search
        assert (router.estimate, router.probe) == (estimate, 2) and set(router.sizes) <= {2, 4}
    likeliest = ("search=router", "search.probe=1", "search.estimate=likelihood", "search.sizes=[4]", *settings[2:])
    solve.run(small_runs.composed(*likeliest, f"run_dir={tmp_path / 'first'}", name="solve"), tmp_path / "first")
    said = script("search/router/router.py", tmp_path / "first", "--sizes", 1, 4, "--bins", 2, "--size", 4).splitlines()
    router = small_runs.composed(*settings[2:], *shlex.split(said[-1])[1:], name="solve").search
    assert (router.estimate, router.probe) == ("likelihood", 1) and set(router.sizes) <= {1, 4}
    assert [line.split("|")[1].strip() for line in said if line.startswith("| router")] == [
        "router, likelihood", "router, oracle"
    ] * 2  # fmt: skip


def test_a_curve_is_written_of_evaluations_and_not_by_fewer_of_them(script, tmp_path):
    pytest.importorskip("matplotlib")
    scores = {f"{name}{end}": 0.5 for name in ("probability", "accuracy") for end in ("", "_low", "_high")}
    for folder, steps in (("all", (0, 10)), ("fewer", (10,))):
        (tmp_path / folder).mkdir()
        lines = [{"step": step, "way": way, "task": "gsm8k", **scores} for step in steps for way in ("none", "greedy")]
        (tmp_path / folder / "evals.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    name, out = "quiet_star/smollm2_math/curve.py", ("--out", tmp_path)
    text = script(name, f"m={tmp_path / 'all'}", *out)
    assert (tmp_path / "curve.md").read_text() == text.removesuffix("\n")
    with pytest.raises(AssertionError):
        script(name, f"m={tmp_path / 'fewer'}", *out, "--replace")
    assert (tmp_path / "curve.md").read_text() == text.removesuffix("\n")


@pytest.mark.slow
def test_the_scripts_of_star_run(script, tmp_path, monkeypatch):
    """The study from its warm-up to its page, in this process, and the tables of single runs."""
    pytest.importorskip("matplotlib")
    run_process = subprocess.run

    def here(command, **settings):
        if command[0] != sys.executable:  # git, for the run's record
            return run_process(command, **settings)
        arguments = command[1:]
        path = list(sys.path)
        if arguments[0] == "-m":
            with monkeypatch.context() as patch:
                patch.setattr(sys, "argv", [arguments[1], *arguments[2:]])
                try:
                    runpy.run_module(arguments[1], run_name="__main__")
                except SystemExit as stop:
                    assert not stop.code, arguments
        else:
            script(arguments[0], *arguments[1:])
        sys.path[:] = path

    monkeypatch.setattr(subprocess, "run", here)
    out = tmp_path / "runs"
    sizes = ("--set", *IMPROVED, "--set-warmup", *TINY_WARMUP)
    script(
        "star/arithmetic/study.py",
        "direct",
        "--bases",
        1,
        "--seeds",
        0,
        "--out",
        out,
        "--workers",
        1,
        "--able",
        0,
        *sizes,
    )
    run = out / "direct" / "base_1" / "0"
    assert (run / "unseen.json").is_file() and (out / "warmup_1" / "done").is_file()
    assert "results" in script("star/arithmetic/tables.py", "--runs", out, "--out", out)
    assert "right" in script("star/smollm2/ask.py", run, "--split", "dev")
    assert "dev" in script("star/smollm2/tables.py", f"x={run}")


def test_times_of_starts_are_those_of_processes(script, monkeypatch):
    """A program that ends at once in place of the interpreter: what it is asked to import is not the subject."""
    monkeypatch.setattr(sys, "executable", shutil.which("true"))
    shown = script("benchmarks/startup.py", "--repeats", 2, "--only", "import", "help")
    rows = [[cell.strip() for cell in line.split("│")[1:5]] for line in shown.splitlines() if "qstar" in line]
    assert [row[0] for row in rows][:2] == ["import qstar.config", "import qstar.train"] and len(rows) == 8
    assert all(float(row[1]) >= 0 for row in rows)
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    with pytest.raises(RuntimeError, match="left with status 1"):
        script("benchmarks/startup.py", "--repeats", 1, "--only", "import")


def measurements(said):
    """The records that a side of a benchmark gives its driver."""
    return [json.loads(line.partition(" ")[2]) for line in said.splitlines() if line.startswith("measured: ")]


def test_a_side_of_the_benchmark_of_grpo_takes_a_step_for_every_line(script, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("step\n"))
    sizes = ("--questions", 2, "--samples", 2, "--new", 2)
    said = script(
        "benchmarks/grpo.py", "--serve", "qstar", "--model", "bundled:cups", "--experiment", "rl/cups", *sizes
    )
    first, step = measurements(said)
    assert first["first_s"] > step["s"] > step["sampling_s"] > 0 and 0 < step["tokens"] <= 2
    assert cups.Cups().stop == (";",)  # the side's own task has none: TRL's answers end at no text


SIDE = """
import json, sys
say = lambda **record: print("\\nmeasured: " + json.dumps(record), flush=True)
say(first_s=9.0)
for number, _ in enumerate(sys.stdin, 1):
    say(s=number * {s}, sampling_s=number * {s} / 2, cpu_s=number * {s} * 3, tokens=3.0, peak=2_000_000 * number)
"""


def test_sides_of_the_benchmark_of_grpo_are_processes_that_take_turns():
    grpo = experiment_scripts.load("benchmarks/grpo")
    commands = {name: [sys.executable, "-c", SIDE.format(s=s)] for name, s in (("qstar", 0.5), ("trl", 1.0))}
    records = grpo.measured(commands, 3)
    assert [(one["side"], one["repeat"]) for one in records] == [(name, i) for i in range(3) for name in commands]
    assert [one["s"] for one in records if one["side"] == "trl"] == [1.0, 2.0, 3.0]
    rows = [line.split("|")[1:-1] for line in grpo.table(records).splitlines()[2:]]
    # Medians of 1 s and 2 s, and of three times as much of processors; the largest peak.
    assert [[cell.strip() for cell in row[:2]] for row in rows] == [["qstar", "1.0"], ["trl", "2.0"]]
    assert [[cell.strip() for cell in row[3:]] for row in rows] == [
        ["3.0", "3.0", "0.50", "6"], ["6.0", "3.0", "0.50", "6"]
    ]  # fmt: skip


TINY_STEP = {"hidden": 16, "length": 8, "batch": 1, "vocab": 20, "layers": 1, "thought_len": 2, "lookahead": 1}


def test_a_side_of_the_step_benchmark_takes_a_step_for_every_line(script, monkeypatch):
    """As its driver has it do in a process of its own."""
    monkeypatch.setattr(sys, "stdin", io.StringIO("step\nstep\n"))
    said = script("benchmarks/step.py", "--serve", "qstar", "--case", json.dumps(TINY_STEP))
    first, *steps = measurements(said)
    assert first["flops"] > 0 and len(steps) == 2 and all(step["s"] > 0 for step in steps)


def test_the_step_benchmark_shows_what_was_measured(script, tmp_path):
    sides = {
        "qstar": {"flops": 4e9, "program": 100_000_000, "s": [0.2, 0.1, 0.4], "peak": 300_000_000},
        "plain LM": {"flops": 1e9, "program": 50_000_000, "s": [0.1, 0.05, 0.05], "peak": 200_000_000},
        "official": {"s": [0.6, 0.6, 0.8], "peak": 900_000_000},
    }
    record = TINY_STEP | {"sides": sides, "peak": 4e10}
    (tmp_path / "step.jsonl").write_text(json.dumps(record) + "\n")
    text = script("benchmarks/step.py", "--show", "--out", tmp_path / "step.jsonl")
    (row,) = (line for line in text.splitlines() if line.startswith("| 16 |"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    # A share of 4 GFLOP in 0.2 s of 40 GFLOP/s; 0.2 s to 0.05 s and to 0.6 s.
    assert (cells[4], cells[8], cells[9], cells[14]) == ("200", "0.50", "4.0", "3.0")
    assert "vocabulary all: 3.0 times faster in the median (3.0 to 3.0), 3.0 (3.0 to 3.0) times less memory" in text


def test_the_logits_of_a_file_in_float32_are_those_in_float64():
    """What smollm2_logits.py compares with transformers', where these are installed."""
    check, model = experiment_scripts.load("checks/smollm2_logits"), runs.load_model("bundled:sums")
    tokens = np.array([model.tokenizer.encode("12 + 34: 46")])
    single, double = (check.ours(model, tokens, dtype) for dtype in ("float32", "float64"))
    assert double.dtype == np.float64 and single.shape == (1, tokens.size, model.lm.vocab)
    bound = tolerances.forward(model.lm, keys=tokens.size, size=float(np.abs(double).max()), scores=3.0)
    np.testing.assert_allclose(single, double, rtol=0, atol=bound)


def test_logits_of_an_exported_model_are_those_of_transformers(script):
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    said = script("checks/export_logits.py", "bundled:sums")
    difference, largest = map(float, re.findall(r"largest (?:difference|logit) ([\d.e+-]+)", said))
    lm = runs.load_model("bundled:sums").lm
    assert largest > 1 and difference <= tolerances.forward(lm, keys=24, size=largest, scores=3.0)
