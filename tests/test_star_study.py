"""The study of STaR's arithmetic: what is run, and the tables that are made of it."""

import json
import sys

import experiment_scripts
import pytest
from small_runs import composed

from qstar import config as configs
from qstar import files


@pytest.fixture(scope="module")
def modules():
    """The modules of experiments/star/arithmetic, by name."""
    return {name: experiment_scripts.load(f"star/arithmetic/{name}") for name in ("study", "tables", "bases")}


def line(iteration, share, of_two, **more):
    groups = {"2": {"share": of_two}, "3": {"share": 2 * share - of_two}}
    return {"iteration": iteration, "accuracy": {"share": share}, "groups": groups, "ledger": {}} | more


def written(folder, arm, seed, lines, unseen=None):
    directory = folder / arm / str(seed)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "iterations.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))
    (directory / "summary.md").write_text("")
    if unseen is not None:
        groups = {str(size): {"share": unseen} for size in (6, 7, 8, 9, 10)}
        (directory / "unseen.json").write_text(json.dumps({"groups": groups}))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two seeds of the headline, one of direct answers, one run that is not finished."""
    made = tmp_path_factory.mktemp("runs")
    for seed, last in ((0, 0.9), (1, 0.8)):
        test = {"accuracy": {"share": last}, "groups": {"2": {"share": 1.0}, "3": {"share": 2 * last - 1}}}
        ledger = {"sample": {"generated_tokens": 100, "flops": 10}, "dev": {"generated_tokens": 7, "flops": 2}}
        sampled = {"sampled": 10, "right": 5, "hinted": 5, "right_hinted": 4 + seed, "ledger": ledger, "test": test}
        leaks = {"stated": {"free": {"count": 5, "early": 1}}, "wrong_hints": {"asked": 4, "followed": seed}}
        written(made, "star", seed, [line(0, 0.5, 1.0), line(1, last, 1.0, **sampled, **leaks)], unseen=0.25)
    test = {"accuracy": {"share": 0.4}, "groups": {"2": {"share": 0.8}, "3": {"share": 0.0}}}
    written(made, "direct", 0, [line(0, 0.5, 1.0), line(1, 0.4, 0.8, test=test)], unseen=0.0)
    (made / "restart" / "0").mkdir(parents=True)
    return made


def cells(table):
    return [[cell.strip() for cell in row.split("|")[1:-1]] for row in table.splitlines()[2:]]


def test_results_are_means_over_seeds_with_students_interval(modules, folder):
    found = cells(modules["tables"].all_tables(modules["tables"].collect(folder))["results"])
    # Student's t of one degree of freedom: 12.706 * 0.0707 / sqrt(2)
    star = ["STaR, continued", "2", "1", "0.850 ± 0.635", "1.000 ± 0.000", "0.700 ± 1.271", *["0.250 ± 0.000"] * 5]
    assert found == [star, ["direct answers", "1", "1", "0.400", "0.800", "0.000", *["0.000"] * 5]]


def test_progress_by_iteration_and_by_digits(modules, folder):
    tables = modules["tables"]
    runs = tables.collect(folder)
    assert cells(tables.all_tables(runs)["progress"]) == [
        ["0", "0.500 ± 0.000", "0.500"],
        ["1", "0.850 ± 0.635", "0.400"],
    ]
    assert cells(tables.all_tables(runs)["digits star"]) == [
        ["0", "1.000 ± 0.000", "0.000 ± 0.000", "", ""],
        ["1", "1.000 ± 0.000", "0.700 ± 1.271", "0.500 [0.000, 1.000]", "0.900 [0.000, 1.000]"],
    ]


def test_the_ledger_leaves_asking_apart_and_leaks_are_counted_over_seeds(modules, folder):
    tables = modules["tables"]
    runs = tables.collect(folder)
    star = cells(tables.all_tables(runs)["ledger"])[0]
    assert star == ["STaR, continued", "0", "100", "0", "0", "0", "1.00e+01", *["0.00e+00"] * 2, "2.00e+00", "0.00e+00"]
    assert cells(tables.all_tables(runs)["leaks"]) == [["STaR, continued", "2/10", "", "1/8"]]


def test_bases_and_seeds_are_distinguished_and_what_varied_is_named(modules, tmp_path):
    tables = modules["tables"]
    for base, seed, last in ((0, 0, 0.9), (0, 1, 0.7), (1, 0, 0.5), (2, 0, 0.4)):
        test = {"accuracy": {"share": last, "n": 100}, "groups": {"2": {"share": last, "n": 100}}}
        written(tmp_path, "star", f"base_{base}/{seed}", [line(0, 0.5, 1.0), line(1, last, 1.0, test=test)])
    test = {"accuracy": {"share": 1.0, "n": 50}, "groups": {"2": {"share": 1.0, "n": 50}}}
    for seed in (0, 1, 2):
        written(tmp_path, "direct", seed, [line(0, 0.5, 1.0), line(1, 1.0, 1.0, test=test)])
    runs = tables.collect(tmp_path)
    assert [(run.arm, run.base, run.seed) for run in runs] == [
        ("STaR, continued", 0, 0), ("STaR, continued", 0, 1), ("STaR, continued", 1, 0), ("STaR, continued", 2, 0),
        ("direct answers", 0, 0), ("direct answers", 0, 1), ("direct answers", 0, 2),
    ]  # fmt: skip
    star, direct = (row[1:4] for row in cells(tables.all_tables(runs)["results"]))
    # Base means 0.8, 0.5 and 0.4: points of the beta distribution, by scipy.stats.
    assert star == ["4", "1", "0.567 [0.078, 0.965]"]
    # Three of 50: 0.025^(1 / (150 (1.960 / 4.303)^2)).
    assert direct == ["3", "1", "1.000 [0.888, 1.000]"]
    assert tables.all_tables(runs)["varied"] == (
        "- 3 bases, 1 to 2 seeds of each: STaR, continued\n- 3 seeds of one base: direct answers\n"
    )


def test_a_page_is_written_again_on_request_alone_and_never_from_fewer_runs(modules, folder, tmp_path, monkeypatch):
    tables = modules["tables"]
    page = tmp_path / "README.md"
    monkeypatch.setattr(tables, "draw", lambda runs, out: None)

    def called(*more):
        monkeypatch.setattr(sys, "argv", ["tables.py", "--runs", str(folder), "--out", str(tmp_path), *more])
        tables.main()

    page.write_text("<!-- table results -->\n<!-- end -->\n")
    called()
    text = page.read_text()
    assert tables.runs_of(text) == {"STaR, continued": 2, "direct answers": 1}
    with pytest.raises(SystemExit):
        called()
    called("--replace")
    assert page.read_text() == text
    more = text.replace("| direct answers | 1 |", "| direct answers | 3 |")
    page.write_text(more)
    with pytest.raises(SystemExit):
        called("--replace")
    assert page.read_text() == more


def test_hint_success_of_bases_beside_where_star_ends(modules, tmp_path, monkeypatch, capsys):
    pytest.importorskip("matplotlib")
    bases = modules["bases"]
    test = {"accuracy": {"share": 0.9, "low": 0.88, "high": 0.92, "n": 810}, "groups": {}}
    for folder, right, last in (("few", 2, 0.5), ("many", 9, 0.9)):
        (tmp_path / folder / "warmup").mkdir(parents=True)
        configs.save(composed("steps=450"), tmp_path / folder / "warmup" / "config.yaml")
        first = line(1, 0.4, 1.0, hinted=10, right_hinted=right)
        written(tmp_path / folder, "star", 0, [line(0, 0.3, 1.0), first, line(2, last, 1.0, test=test)])
    written(tmp_path / "many", "star", 1, [line(0, 0.3, 1.0)])  # not finished

    def called(*arguments, out="out"):
        monkeypatch.setattr(sys, "argv", ["bases.py", *arguments, "--out", str(tmp_path / out)])
        bases.main()
        return cells(capsys.readouterr().out)

    (tmp_path / "out").mkdir()
    few = [
        "0.3",
        "0",
        "450",
        "1.00",
        "0.200 [0.057, 0.510]",
        "0.300",
        "0.400",
        "0.500",
        "",
        "0.500 (2)",
        "0.900 [0.880, 0.920] of 810",
    ]
    assert called(f"0.3={tmp_path}/few") == [few]
    assert (tmp_path / "out" / "bases.png").is_file()
    both = called(f"0.7={tmp_path}/many")  # joins what is there
    assert both[0] == few and both[1][:5] == ["0.7", "0", "450", "1.00", "0.900 [0.596, 0.982]"]
    assert called() == both and called(f"0.7={tmp_path}/many") == both
    better = line(2, 0.95, 1.0, test=test)
    written(tmp_path / "many", "star", 0, [line(0, 0.3, 1.0), line(1, 0.4, 1.0, hinted=10, right_hinted=9), better])
    with pytest.raises(SystemExit):
        called(f"0.7={tmp_path}/many")
    assert "holds 1 entries already" in capsys.readouterr().err
    assert called() == both
    assert called(f"0.7={tmp_path}/many", "--replace")[1][-2] == "0.950 (2)"
    fewer = [line(0, 0.3, 1.0), line(1, 0.4, 1.0, hinted=10, right_hinted=9, test=test)]
    written(tmp_path / "many", "star", 0, fewer)
    with pytest.raises(SystemExit):
        called(f"0.7={tmp_path}/many", "--replace")
    assert "would lose 0.7, 0, 450, 0: 3, now 2" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        called("0.7=absent", out="few")


def test_a_base_that_cannot_add_two_digits_is_trained_again_with_more_steps(modules, tmp_path, monkeypatch):
    study, trained, shares = modules["study"], [], iter([0.2, 0.95])

    def call(command, log):
        folder = study.base_folder(tmp_path, 1)
        if "qstar.train" in command:
            trained.append([one for one in command if one.startswith("steps=")][-1])
            folder.mkdir()
            configs.save(composed("steps=3"), folder / "config.yaml")
        if "--two-digits" in command:
            files.write_json(folder / study.TWO_DIGITS_FILE, {"share": next(shares)})

    monkeypatch.setattr(study.pool, "call", call)
    study.warm_up(tmp_path, 1, ("steps=100",))
    assert trained == ["steps=100", "steps=150"]
    assert (tmp_path / "warmup_1" / "done").is_file()
    assert files.read_json(tmp_path / "warmup_1_of_100_steps" / study.TWO_DIGITS_FILE) == {"share": 0.2}
    study.warm_up(tmp_path, 1, ("steps=100",))  # done


def test_no_finished_run_is_an_error(modules, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no finished run: study.py makes them"):
        modules["tables"].collect(tmp_path)


def test_every_arm_of_the_study_is_a_configuration(modules, tmp_path):
    study = modules["study"]
    found = {arm: composed(*study.command(arm, 0, 1, tmp_path), name="improve") for arm in study.ARMS}
    assert {cfg.seed for cfg in found.values()} == {1}
    assert {
        arm: (cfg.improve.target, cfg.improve.keep, cfg.improve.hint, cfg.improve.restart) for arm, cfg in found.items()
    } == {
        "star": ("own", "right", "failures", False),
        "restart": ("own", "right", "failures", True),
        "no_rationalization": ("own", "right", "never", False),
        "no_filter": ("own", "all", "never", False),
        "hints_no_filter": ("own", "all", "failures", False),
        "direct": ("direct", "right", "failures", False),
        "human": ("human", "right", "failures", False),
        "few": ("own", "right", "failures", False),
        "few_direct": ("direct", "right", "failures", False),
    }
    assert {arm for arm, cfg in found.items() if cfg.task.train == 400} == {"few", "few_direct"}
    assert {arm for arm, cfg in found.items() if cfg.wrong_hints == 0} == {"direct", "human", "few_direct"}


def test_every_base_has_its_own_warm_up_and_folders(modules, tmp_path):
    study = modules["study"]
    found = {base: composed(*study.command("star", base, 4, tmp_path), name="improve") for base in (0, 3)}
    assert {base: (cfg.model.source, cfg.run_dir, cfg.seed) for base, cfg in found.items()} == {
        0: (str(tmp_path / "warmup"), str(tmp_path / "star" / "base_0" / "4"), 4),
        3: (str(tmp_path / "warmup_3"), str(tmp_path / "star" / "base_3" / "4"), 4),
    }


def test_a_folder_of_one_base_is_read_as_base_0(modules, tmp_path):
    study = modules["study"]
    for name in ("star/1", "star/base_2/0", "star/base_10/0", "star/base_0/2"):
        (tmp_path / name).mkdir(parents=True)
    assert [
        (base, seed, folder.relative_to(tmp_path).as_posix()) for base, seed, folder in study.runs_of(tmp_path, "star")
    ] == [
        (0, 1, "star/1"),
        (0, 2, "star/base_0/2"),
        (2, 0, "star/base_2/0"),
        (10, 0, "star/base_10/0"),
    ]
    assert study.run_folder(tmp_path, "star", 0, 1) == tmp_path / "star" / "1"
    assert study.run_folder(tmp_path, "star", 1, 1) == tmp_path / "star" / "base_1" / "1"
