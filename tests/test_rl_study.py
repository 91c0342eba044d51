"""The study of reinforcement learning: its tables, and that its page has those of the results beside it."""

import json

import experiment_scripts
import pytest

from qstar.data.tokenizer import Tokenizer
from qstar.paths import ROOT
from qstar.tasks import cups
from qstar.tasks.problem import Problem

FOLDER = experiment_scripts.FOLDER / "rl"


@pytest.fixture(scope="module")
def study():
    return experiment_scripts.load("rl/study")


def rows(text):
    return [line for line in text.splitlines() if line.startswith("| ")]


def line(arm, base, greedy, part="ladder", **more):
    names = ("sampled", "vote", "any", "sound", "kl", "entropy", "length")
    test = {"greedy": greedy} | dict.fromkeys(names, 0.5)
    return json.dumps({"part": part, "arm": arm, "base": base, "lr": "", "test": test} | more) + "\n"


def test_an_arm_is_compared_on_the_same_bases(study, tmp_path, capsys):
    """Bases of 0.2 and 0.7: both arms have an interval over bases, and the difference has one of its own."""
    lines = [line("base", 0, 0.2), line("base", 1, 0.7), line("grpo", 0, 0.3), line("grpo", 1, 0.9)]
    lines.append(line("ppo", 1, 0.4))
    (tmp_path / "results.jsonl").write_text("".join(lines))
    study.show(tmp_path / "results.jsonl")
    found = rows(capsys.readouterr().out.partition("## ladder, greedy")[2].partition("##")[0])
    # Student's t of one degree of freedom: 12.706 * 0.0707 / sqrt(2)
    assert found[2:] == ["| base |  | -0.150 ± 0.635 |", "| grpo | +0.150 ± 0.635 |  |", "| ppo | -0.300 | -0.500 |"]


def test_scores_over_steps_are_means_over_bases(study, tmp_path, capsys):
    names = ("prm_min", "prm_sum", "sound", "sampled", "length")
    scored = [[{"step": step} | dict.fromkeys(names, step * by) for step in (1, 2)] for by in (0.1, 0.3)]
    lines = [line("min", base, 0.5, "prm", scored=of) for base, of in enumerate(scored)]
    (tmp_path / "results.jsonl").write_text("".join(lines))
    study.show(tmp_path / "results.jsonl")
    found = rows(capsys.readouterr().out.partition("## PRM against truth")[2])
    assert found[2:] == ["| min | 1 |" + " 0.200 |" * 5, "| min | 2 |" + " 0.400 |" * 5]


def test_slips_and_what_takes_them_back_are_counted_by_truth():
    """From cup 3 move a leads to 4, and e from there to 5, from 3 to 2."""
    counts = experiment_scripts.load("rl/self_correction").Count
    problem = cups.Game(3, "ae").problem("p")
    names = ("slips", "slips_taken_back", "right", "right_taken_back", "stays")
    cases = {
        "-45-5;": (0, 0, 2, 0, False), "-43.5-5;": (1, 1, 2, 0, False), "-4.45-5;": (0, 0, 3, 1, False),
        "-32-2;": (1, 0, 1, 0, True), "-3.1.45-5;": (2, 2, 2, 0, False), "-451-1;": (1, 0, 2, 0, True),
        "-.45-5;": (0, 0, 2, 0, False), "--5;": (0, 0, 0, 0, False),
    }  # fmt: skip
    for text, expected in cases.items():
        count = counts.of(problem, text)
        assert tuple(getattr(count, name) for name in names) == expected, text
    assert counts.of(problem, "5;") is None


def test_a_writer_who_notices_ends_right_after_each_slip():
    module = experiment_scripts.load("rl/self_correction")
    task = cups.Cups(4, 6, train=60, seed=100)
    problems = task.problems("train")
    rows = module.Noticing(0).examples(task, problems)
    counts = [module.Count.of(problem, row["noticing"]) for problem, row in zip(problems, rows, strict=True)]
    assert sum(count.slips for count in counts) > 20
    assert all(count.slips == count.slips_taken_back and not count.right_taken_back for count in counts)
    assert [row["clean"] for row in rows] == [f"{problem.rationale}{problem.answer};" for problem in problems]


@pytest.mark.parametrize("name", ["cups", "sums", "gym"])
def test_rationales_of_a_base_end_in_what_the_task_takes_as_right_and_fit(name, tmp_path):
    if name == "gym":
        pytest.importorskip("reasoning_gym")
    ground = experiment_scripts.load("rl/grounds").GROUNDS[name]
    one, other = (ground.rationales(base, 12) for base in (0, 1))
    assert len(one) == 12 and [row["prompt"] for row in one] != [row["prompt"] for row in other]
    ground.model(tmp_path)
    folder = tmp_path if name == "gym" else ROOT / "qstar" / "bundled" / name
    tokenizer = Tokenizer.from_file(folder / "tokenizer.json")
    task = ground.asks(0, train=12)
    by_prompt = {task.prompt(problem): problem for problem in task.problems("train")}
    for row in one:
        asked, written = (len(tokenizer.encode(row[part])) for part in ("prompt", "completion"))
        assert written <= ground.longest and asked + written <= ground.length
        if ground.own:
            problem = by_prompt[row["prompt"]]
            assert task.grader(row["completion"].removesuffix(task.stop[0]), problem.gold).correct == row["right"]


def test_terms_are_added_up_one_after_another():
    gym = experiment_scripts.load("rl/grounds").GROUNDS["gym"]
    problem = Problem("p", "State the final answer to the following arithmetic problem: 3 - 9 + 0 - 1 =", "", hint="-7")
    assert gym.worked(problem) == "3 - 9 = -6\n-6 + 0 = -6\n-6 - 1 = -7"


def called(study, monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", ["study.py", *map(str, arguments)])
    study.main()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("ladder", "--ground", "gym"), "holds the study on sums: give another --out for gym"),
        (("nix",), "no part nix; there are ladder, prm"),
        (("ladder", "--arms", "nix", "grpo"), "no arm nix; there are base, grpo"),
        (("prm", "--ground", "sums"), "there is none of sums"),
        (("--figure", "f.png"), "--figure draws what --show FILE has"),
    ],
)
def test_what_the_study_cannot_do_is_refused_before_anything_runs(
    study, arguments, said, tmp_path, capsys, monkeypatch
):
    (tmp_path / "results.jsonl").write_text(line("base", 0, 0.2, ground="sums"))
    with pytest.raises(SystemExit):
        called(study, monkeypatch, *arguments, "--out", tmp_path)
    assert said in capsys.readouterr().err and [file.name for file in tmp_path.iterdir()] == ["results.jsonl"]


@pytest.mark.parametrize("file", ["gone.jsonl", "self_correction.jsonl"])
def test_other_files_than_results_are_refused(study, file, capsys, monkeypatch):
    with pytest.raises(SystemExit):
        called(study, monkeypatch, "--show", FOLDER / file)
    assert file in capsys.readouterr().err


def test_a_job_that_fails_says_why_and_is_tried_again(study, tmp_path, capsys, monkeypatch):
    arguments = ("ladder", "--arms", "base", "--bases", 0, "--examples", -3, "--out", tmp_path)
    for _ in range(2):
        called(study, monkeypatch, *arguments)
        said = capsys.readouterr().out
        assert said.count("failed, and is tried again by the next call: ") == 2 and "-3: expected" in said


def test_a_rate_that_failed_is_not_chosen(study, tmp_path):
    rates = study.LADDER["grpo"].rates
    tried = [line("grpo", 0, 0.0, "sweep", lr=lr, dev=[[0, 0.0]], failed="nan") for lr in rates]
    (tmp_path / "results.jsonl").write_text("".join(tried))
    assert study.chosen_rate(tmp_path, "grpo") is None
    (tmp_path / "results.jsonl").write_text(
        "".join([*tried[:-1], line("grpo", 0, 0.1, "sweep", lr=rates[-1], dev=[[9, 0.1]])])
    )
    assert study.chosen_rate(tmp_path, "grpo") == rates[-1]


def test_rewards_are_drawn(study, tmp_path):
    pytest.importorskip("matplotlib")
    study.draw(FOLDER / "results.jsonl", tmp_path / "prm.png")
    assert (tmp_path / "prm.png").read_bytes().startswith(b"\x89PNG")


def test_the_page_has_the_tables_of_its_results(study, capsys):
    for name in ("results", "sums", "gym", "irpo"):
        study.show(FOLDER / f"{name}.jsonl")
    experiment_scripts.load("rl/self_correction").show(FOLDER / "self_correction.jsonl")
    accelerator = experiment_scripts.load("accelerator/all")
    accelerator.main(["--show", *(str(FOLDER.parent / "accelerator" / name) for name in ("h100", "h200"))])
    shown = set(rows(capsys.readouterr().out))
    _, *page = rows((FOLDER / "README.md").read_text(encoding="utf-8").partition("\n## ")[2])
    assert set(page) <= shown and len(set(page)) > 80
