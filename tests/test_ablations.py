"""The ablations: every file says what it should and changes what it says; runs are shared; tables add up."""

import dataclasses
import json
import math
import re
import sys
from pathlib import Path

import experiment_scripts
import pytest
from small_runs import MODEL

from qstar.evals import records
from qstar.paths import ROOT
from qstar.reports import ablations, tables
from qstar.reports.ablations import Result
from qstar.runs import ablation, train
from qstar.runs.ablation import Ablation, Arm

script = experiment_scripts.load("quiet_star/ablations/tables")

FILES = [*ablation.shipped(), str(ROOT / "experiments" / "quiet_star" / "tiny" / "comparison.yaml")]
WANTED = (
    "thought_len n_thoughts n_true no_thought_control compute_matched_control pause filler_dots shuffled no_mixing "
    "mixing_variant no_reinforce no_clamp baseline beta reinforce_temperature meta_init meta_grad position_subset "
    "precision steps greedy_vs_sampled eval_thought_len untrained_thought_len"
)


# --- the files ----------------------------------------------------------------------------------------------------


def test_the_ablations_of_the_paper_and_ours_are_there():
    assert set(ablation.shipped()) == set(WANTED.split())


@pytest.mark.parametrize("name", FILES)
def test_a_file_says_what_it_claims_how_to_run_it_and_what_to_expect(name):
    path = Path(name) if name.endswith(".yaml") else ablation.FOLDER / f"{name}.yaml"
    head = [line for line in path.read_text().splitlines() if line.startswith("#")]
    for word in ("Claim", "Command", "Expected", "At scale"):
        assert any(line.startswith(f"# {word} ") for line in head), word
    command = next(line for line in head if line.startswith("# Command "))
    assert command.endswith(f"ablations/sweep.py {path.stem}") or path.name in command


@pytest.fixture(scope="module")
def runs():
    """Of all arms of all files, with seed 0."""
    return {
        (name, arm): ablation.plan(one, said, 0, Path("out"))
        for name in FILES
        for one in [ablation.read(name)]
        for arm, said in one.arms.items()
    }


@pytest.mark.parametrize("name", FILES)
def test_every_arm_composes_and_is_not_another_one(name, runs):
    one = ablation.read(name)
    found = [runs[name, arm] for arm in one.arms]
    assert len({(run.trained, run.asked) for run in found}) == len(one.arms)
    for run, arm in zip(found, one.arms.values(), strict=True):
        assert bool(arm.test) == bool(run.test)
        if one.experiment == ablation.RECIPE and not one.checkpoints:
            assert bool(arm.train) == (run.directory.parent.name != "recipe")


def test_runs_that_differ_lie_in_directories_that_differ(runs):
    directories = {run.directory for run in runs.values()}
    assert len(directories) == len({run.trained for run in runs.values()})


@pytest.mark.parametrize(
    ("name", "arm"), [("compute_matched_control", "plain LM"), ("position_subset", "25 %, as many FLOPs")]
)
def test_arms_of_equal_compute_have_it(name, arm, runs):
    ratio = ablation.cost(runs[name, arm].trained) / ablation.cost(runs["no_reinforce", "REINFORCE"].trained)
    assert ratio == pytest.approx(1, abs=0.005)


def test_an_arm_is_trained_by_its_overrides_and_evaluated_by_them_and_more():
    one = Ablation("x", "X", "a", {"a": Arm(("method.beta=0",), ("method.thought_len=4",))})
    run = ablation.plan(one, one.arms["a"], 7, Path("out"), ["steps=3"])
    assert run.directory == Path("out/quiet_star.ablations/beta=0.0/7")
    assert run.test == "thought_len=4"
    assert (run.trained.steps, run.trained.seed, run.trained.method.beta, run.trained.method.thought_len) == (
        3,
        7,
        0,
        8,
    )
    assert (run.asked.method.beta, run.asked.method.thought_len) == (0, 4)


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (
            "title: X\nreference: a\narms: {a: []}\nseeds: 3\n",
            r"unknown \['seeds'\], missing \[\]; an ablation has arms,",
        ),
        ("title: X\nreference: a\n", r"unknown \[\], missing \['arms'\]"),
        ("title: X\nreference: b\narms: {a: []}\n", r"reference = 'b' is not among \['a'\]"),
        (
            "title: X\nreference: a\narms: {a: {trian: []}}\n",
            r"arms.a: \['trian'\]: .*a list of overrides, or train and te",
        ),
    ],
)
def test_a_file_that_is_not_an_ablation_is_refused(contents, message, tmp_path):
    (tmp_path / "x.yaml").write_text(contents)
    with pytest.raises(ValueError, match=message):
        ablation.read(str(tmp_path / "x.yaml"))


def test_an_unknown_name_is_answered_with_those_there_are():
    with pytest.raises(FileNotFoundError, match=r"no ablation 'bete': give a \.yaml file or one of baseline, beta, "):
        ablation.read("bete")


# --- the sweep ----------------------------------------------------------------------------------------------------


def test_arms_that_are_the_same_are_one_run_and_seeds_come_in_order():
    jobs = ablation.jobs(
        [ablation.read(name) for name in ("no_reinforce", "greedy_vs_sampled", "eval_thought_len")], [0, 1], Path("out")
    )
    places = [str(job.directory.relative_to("out/quiet_star.ablations")) for job in jobs]
    assert places == ["recipe/0", "beta=0.0/0", "recipe/1", "beta=0.0/1"]
    assert list(jobs[0].asked) == [
        "", "thought_len=2", "thought_len=4", "thought_len=6", "thought_len=10", "thought_len=12,length=14",
        "thought_len=16,length=18",
    ]  # fmt: skip
    assert list(jobs[1].asked) == [""]


SMALL = (*MODEL, "steps=2", "batch_size=4", "method.thought_len=2", "eval.items=6", "eval.batch_size=6")
FILE = """
title: Small
reference: thinks
arms:
  thinks: []
  tested longer: {test: [method.thought_len=3]}
  plain: [method=lm]
"""


def test_a_sweep_trains_and_evaluates_what_is_missing_for_the_report(tmp_path, monkeypatch):
    monkeypatch.setattr(train, "BEST_OF", 1)
    (tmp_path / "small.yaml").write_text(FILE)
    small = [one for one in SMALL if not one.startswith("method.")]  # `method=lm` has no thoughts to shorten
    jobs = ablation.jobs([ablation.read(str(tmp_path / "small.yaml"))], [0], tmp_path / "runs", small)
    assert len(jobs) == 2
    told = [ablation.work(job) for job in jobs]
    assert re.match(r"recipe, seed 0: none \d\.\d{3}  likeliest \d\.\d{3}  sampled \d\.\d{3}  \(\d+ s\)$", told[0])
    assert re.match(r"method=lm, seed 0: none \d\.\d{3}  \(\d+ s\)$", told[1])

    file = jobs[0].directory / "answers.jsonl"
    before = file.read_text()
    rows = [json.loads(line) for line in before.splitlines()]
    assert [(row["test"], row["way"], row["n"]) for row in rows] == [
        (test, way, 6) for test in ("", "thought_len=3") for way in ("none", "likeliest", "sampled")
    ]
    monkeypatch.setattr(train, "run", None)  # neither trained nor asked again
    ablation.work(jobs[0])
    assert file.read_text() == before

    one = ablation.read(str(tmp_path / "small.yaml"))
    found = ablation.collect(one, [0, 1], tmp_path / "runs", small)
    assert [(result.arm, result.seed, result.way) for result in found] == [
        *((arm, 0, way) for arm in ("thinks", "tested longer") for way in ("none", "likeliest", "sampled")),
        ("plain", 0, "none"),
    ]
    assert not math.isnan(found[0].reward) and math.isnan(found[-1].reward)


def test_a_run_that_diverges_is_written_down_and_not_tried_again(tmp_path):
    (tmp_path / "small.yaml").write_text("title: X\nreference: a\narms: {a: [optim.lr=1e12, optim.clip=0]}\n")
    (job,) = ablation.jobs([ablation.read(str(tmp_path / "small.yaml"))], [0], tmp_path / "runs", [*SMALL, "steps=4"])
    assert ablation.work(job) == "lr=1000000000000.0,clip=0.0, seed 0: diverged"
    assert (
        "not finite" in (job.directory / "diverged.txt").read_text()
        or "nan" in (job.directory / "diverged.txt").read_text()
    )
    assert ablation.work(job) == "lr=1000000000000.0,clip=0.0, seed 0: diverged"


def test_a_directory_of_another_run_is_refused(tmp_path):
    (tmp_path / "small.yaml").write_text("title: X\nreference: a\narms: {a: []}\n")
    (job,) = ablation.jobs([ablation.read(str(tmp_path / "small.yaml"))], [0], tmp_path / "runs", SMALL)
    train.run(job.trained, job.directory)
    (job.directory / "done").touch()
    (other,) = ablation.jobs(
        [ablation.read(str(tmp_path / "small.yaml"))], [0], tmp_path / "runs", [*SMALL, "batch_size=2"]
    )
    with pytest.raises(ValueError, match="holds another run: batch_size = 4, now 2: choose another --out"):
        ablation.work(other)


# --- the report ---------------------------------------------------------------------------------------------------

TWO = Ablation(
    "x", "X", "a", {"a": Arm(), "b": Arm(("method.beta=0",)), "c": Arm(("method=lm",)), "d": Arm(("steps=9",))}
)


def answers(arm: str, accuracies: dict[str, list[float]], cost: float = 10.0, step: int = 40) -> list[Result]:
    return [
        Result("x", arm, seed, step, cost, way, accuracy, accuracy / 2, 500, 0.05)
        for way, by_seed in accuracies.items()
        for seed, accuracy in enumerate(by_seed)
    ]


RESULTS = [
    *answers("b", {"none": [0.2, 0.2], "sampled": [0.5, 0.6], "likeliest": [0.9, 0.9]}, cost=5.0),
    *answers("a", {"none": [0.2, 0.3], "sampled": [0.8, 0.7], "likeliest": [0.9, 1.0]}),
    *answers("c", {"none": [0.25]}, cost=20.0, step=80),
    Result("x", "c", 1, 80, 20.0, "diverged"),
    Result("y", "a", 0, 40, 20.0, "none", 1.0, 1.0, 500),
]


def test_a_mean_over_seeds_is_shown_with_its_interval():
    assert tables.over_runs({(0, 0): 0.8, (0, 1): 0.9, (0, 2): 1.0}) == "0.900 ± 0.248"
    assert (tables.over_runs({(0, 0): 0.5}), tables.over_runs({}), tables.over_runs({(0, 0): 743629.3})) == (
        "0.500",
        "",
        "7.4e+05",
    )


def test_a_table_has_a_line_an_arm_with_intervals_and_differences_paired_by_seed():
    found = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in ablations.table(TWO, RESULTS).splitlines()[2:5]
    ]
    # sampled: (0.8, 0.7) and (0.5, 0.6); differences -0.3 and -0.1; t of one degree of freedom 12.706. Brackets: points
    # of the beta distribution, by scipy.stats; c has one run, and Wilson's interval of 125 of 500.
    assert found == [
        ["a", "2", "1.00", "0.950 [0.000, 1.000]", "0.750 [0.046, 1.000]", "", "0.375 ± 0.318",
         "0.250 [0.000, 0.954]", "0.050 ± 0.000"],
        ["b", "2", "0.50", "0.900 [0.707, 0.984]", "0.550 [0.030, 0.986]", "-0.200 ± 1.271", "0.275 ± 0.318",
         "0.200 [0.066, 0.413]", "0.050 ± 0.000"],
        ["c", "2, 1 diverged", "2.00", "", "", "-0.550", "", "0.250 [0.214, 0.290]", ""],
    ]  # fmt: skip


def test_bases_are_what_varies_where_there_are_several():
    runs = [
        Result("x", "a", seed, 40, 10.0, "sampled", accuracy, accuracy, 500, base=base)
        for base, seed, accuracy in ((0, 0, 0.8), (0, 1, 0.6), (1, 0, 0.7))
    ]
    runs += [dataclasses.replace(one, way="none") for one in runs]
    found = [cell.strip() for cell in ablations.table(TWO, runs).splitlines()[2].split("|")[1:-1]]
    # Both bases have a mean of 0.7: 1000 (1.960 / 12.706)^2 = 23.8 questions' worth.
    assert (found[1], found[4]) == ("3 on 2 bases", "0.700 [0.479, 0.869]")


def test_arms_of_several_bases_stand_side_by_side():
    runs = [
        Result("x", arm, seed, 40, 10.0, way, accuracy, accuracy, 500, base=base)
        for arm, gain in (("a", 0.0), ("b", -0.1))
        for base, seed, accuracy in ((0, 0, 0.8 + gain), (0, 1, 0.6 + 2 * gain), (1, 0, 0.7 + gain))
        for way in ("none", "likeliest", "sampled")
    ]
    alone = [Result("x", "c", 0, 40, 10.0, "sampled", 0.5, 0.5, 500)]  # from one base
    steps = [dataclasses.replace(one, ablation="y") for one in runs]
    read = [TWO, Ablation("y", "Y", "a", {"a": Arm()}, checkpoints=True)]
    found = tables.cells(ablations.bases_table(read, [*runs, *alone, *steps]))
    assert found == [
        [TWO.title, "a", "0.700, 0.700", "0.700, 0.700", "", ""],
        # Means of -0.15 (of -0.1 and -0.2) and -0.1; t of one degree of freedom 12.706.
        [TWO.title, "b", "0.550, 0.600", "0.550, 0.600", "-0.150, -0.100", "-0.125 ± 0.318"],
    ]


def test_records_are_replaced_on_request_alone_and_never_by_less():
    old = [*answers("a", {"none": [0.2, 0.3]}), Result("y", "a", 0, 40, 20.0, "none", 1.0, 1.0, 500)]
    new = answers("a", {"none": [0.4, 0.5]})
    assert ablations.merged(old, old[:2], "results.jsonl", False) == old  # nothing changes
    with pytest.raises(ValueError, match=r"results.jsonl holds 2 entries already.*--replace"):
        ablations.merged(old, new, "results.jsonl", False)
    assert ablations.merged(old, new, "results.jsonl", True) == [*new, old[2]]
    fewer_questions = [dataclasses.replace(one, n=100) for one in new]
    for less, name in ((new[:1], "x, a, base 0, seed 1"), (fewer_questions, "seed 0, step 40, none: 500, now 100")):
        with pytest.raises(ValueError, match=f"results.jsonl would lose .*{name}"):
            ablations.merged(old, less, "results.jsonl", True)
    with pytest.raises(ValueError, match=r"results.jsonl: .* left unchanged"):
        ablations.merged(old, [], "results.jsonl", True)
    of_another_base = [dataclasses.replace(new[0], base=1)]  # added beside what is there
    assert ablations.merged(old, of_another_base, "results.jsonl", False) == [*old[:2], *of_another_base, old[2]]


def test_a_page_beside_more_records_than_are_shown_is_left_alone(tmp_path):
    page, other = tmp_path / "README.md", tmp_path / "other"
    other.mkdir()
    (tmp_path / "cups.jsonl").write_text("{}\n{}\n")
    (other / "cups.jsonl").write_text("{}\n")
    for shown in (other / "cups.jsonl", other):
        with pytest.raises(ValueError, match=r"README.md shows the 2 records of .*cups.jsonl, and .* has 1"):
            records.check_shown(page, shown)
    records.check_shown(page, tmp_path / "cups.jsonl")
    records.check_shown(other / "README.md", tmp_path)
    (other / "cups.jsonl").write_text("{}\n{}\n")
    records.check_shown(page, other)


def test_a_partial_folder_leaves_record_and_page_as_they_are(tmp_path, monkeypatch, capsys):
    files = {name: tmp_path / path.name for name, path in (("--results", script.RESULTS), ("--page", script.PAGE))}
    for name, path in (("--results", script.RESULTS), ("--page", script.PAGE)):
        files[name].write_bytes(path.read_bytes())
    given = [word for name, file in files.items() for word in (name, str(file))]
    for replace in ([], ["--replace"]):
        monkeypatch.setattr(sys, "argv", ["tables.py", "--runs", str(tmp_path / "runs"), *replace, *given])
        with pytest.raises(SystemExit):
            script.main()
    assert files["--results"].read_bytes() == script.RESULTS.read_bytes()
    assert files["--page"].read_bytes() == script.PAGE.read_bytes()


def test_arms_that_were_not_run_are_named():
    assert ablations.table(TWO, RESULTS).endswith("\nNot run: d.\n")
    assert "Not run" not in ablations.table(Ablation("x", "X", "a", {"a": Arm()}), RESULTS)


def test_checkpoints_are_lines_of_their_own():
    one = Ablation("x", "X", "a", {"a": Arm()}, checkpoints=True)
    results = [Result("x", "a", 0, step, 10.0, "none", 0.2, 0.2, 500) for step in (20, 10)]
    assert [line.split(" | ")[0] for line in ablations.table(one, results).splitlines()[2:]] == [
        "| a, step 10",
        "| a, step 20",
    ]


def test_results_are_read_as_they_were_written(tmp_path):
    ablations.write(RESULTS, tmp_path / "results.jsonl")
    assert "NaN" not in (tmp_path / "results.jsonl").read_text()
    found = ablations.load(tmp_path / "results.jsonl")
    assert ablations.table(TWO, found) == ablations.table(TWO, RESULTS)
    assert len(found) == len(RESULTS)


def test_the_page_has_the_tables_of_the_shipped_results_for_every_ablation():
    page = script.PAGE.read_text()
    assert sorted(tables.places(page)) == sorted([*ablation.shipped(), script.BASES])
    results, read = ablations.load(script.RESULTS), script.on_page(page)
    assert tables.filled(page, script.texts(read, results)) == page


def test_figures_are_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    steps = [Result("y", "a", 0, step, 10.0, way, 0.2, 0.2, 500) for step in (10, 20) for way in script.WAYS]
    script.draw([TWO, Ablation("y", "Y", "a", {"a": Arm()}, checkpoints=True)], [*RESULTS[:-1], *steps], tmp_path)
    for name in ("arms.png", "y.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
