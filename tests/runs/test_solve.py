"""Searches from a configuration to a table, of the bundled model on its task."""

import dataclasses
import itertools
import json
import shlex
import shutil
import sys
from collections import defaultdict
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny
import tolerances
from small_runs import chosen, composed
from tolerances import rounding

from qstar import files
from qstar.data import rationales
from qstar.data import tokenizer as tokenizers
from qstar.data.rationales import Store
from qstar.decoding import score
from qstar.decoding.sampling import Sampling
from qstar.decoding.session import Session
from qstar.methods.verifier import PRM
from qstar.models import heads
from qstar.policy import Policy
from qstar.runs import answering, load, proposing, replay, solve, trl_export
from qstar.runs.proposing import Proposals
from qstar.runs.scoring import Scorer
from qstar.search.interface import Candidate, Node
from qstar.search.majority import Majority
from qstar.tasks.cups import Cups
from qstar.tasks.svamp import SVAMP

SHORT = ("task.min_moves=6", "task.max_moves=6", "questions=6", "sample_batch=3", "seed=1")
BEAM = ("search=beam", "search.n=4", "search.m=2", "scorer=[oracle,logprob]", "step_tokens=2", *SHORT)
MAJORITY = ("search=majority", "search.n=4", *SHORT)


def run(folder, *overrides):
    cfg = composed(*overrides, f"run_dir={folder}", name="solve")
    return solve.run(cfg, folder)


@pytest.fixture(scope="module")
def beam(tmp_path_factory):
    folder = tmp_path_factory.mktemp("solve") / "beam"
    return folder, run(folder, *BEAM)


@pytest.fixture(scope="module")
def majority(tmp_path_factory):
    folder = tmp_path_factory.mktemp("solve") / "majority"
    return folder, run(folder, *MAJORITY)


def rows_of(folder):
    return Store.open(folder / solve.FOLDER).rows().to_pylist()


def trees_of(folder):
    found = defaultdict(dict)
    for row in rows_of(folder):
        found[row["problem"]][row["place"]["node"]] = row
    return found


def path(tree, row):
    """Rows from the first step to this one."""
    steps = []
    while row["place"]["parent"] >= 0:
        steps.append(row)
        row = tree[row["place"]["parent"]]
    return steps[::-1]


# --- rows ---------------------------------------------------------------------------------------------------------


def test_every_candidate_is_stored_with_its_parent_scores_verdict_and_tokens(beam):
    trees, task = trees_of(beam[0]), Cups(min_moves=6, max_moves=6)
    questions = {one.id: one for one in task.problems("dev")}
    assert len(trees) == 6
    for id, tree in trees.items():
        assert list(tree) == list(range(len(tree))) and tree[0]["place"]["parent"] == -1
        assert sum(row["place"]["chosen"] for row in tree.values()) == 1
        for row in list(tree.values())[1:]:
            steps = path(tree, row)
            text = "".join(step["written"] for step in steps)
            assert len(row["tokens"]) == len(row["logprobs"]) == row["generated_tokens"] <= 2
            scores = dict(row["place"]["scores"])
            if row["place"]["final"] and row["finished"]:
                verdict = task.grader(text.removesuffix(";"), questions[id].gold)
                assert (row["correct"], row["answer"]) == (verdict.correct, verdict.answer)
                assert scores["oracle"] == verdict.correct
                logprobs = np.concatenate([step["logprobs"] for step in steps])
                bound = rounding(len(logprobs) + 1, size=max(1, np.abs(logprobs).max()))  # of the mean, in float32
                assert scores["logprob"] == pytest.approx(np.exp(logprobs.mean()), rel=bound)
            elif not row["place"]["final"] and "oracle" in scores:
                reachable = task.truth(questions[id], task.steps(text)).reachable[-1]
                assert scores["oracle"] == reachable


def test_what_a_search_of_training_questions_finds_is_written_to_be_trained_on(tmp_path):
    run(tmp_path / "run", *BEAM, "split=train", "task.train=20")
    counts = trl_export.save(tmp_path / "out", tmp_path / "run")
    questions = {one.id: one for one in Cups(min_moves=6, max_moves=6, train=20).problems("train")}
    texts = {True: set(), False: set()}
    for id, tree in trees_of(tmp_path / "run").items():
        for row in tree.values():
            if row["place"]["final"] and row["finished"]:
                written = "".join(step["written"] for step in path(tree, row))
                texts[row["correct"]].add((questions[id].question, written))
    made = {name: files.records(tmp_path / "out" / f"{name}.jsonl", "a record") for name in counts}
    assert {(one["prompt"], one["completion"]) for one in made["prompt_completion"]} == texts[True] != set()
    assert len(made["prompt_completion"]) == len(texts[True])
    unpaired = {(one["prompt"], one["completion"]): one["label"] for one in made["unpaired"]}
    assert unpaired == {text: right for right, some in texts.items() for text in some}


def test_what_a_search_of_dev_found_is_not_trained_on(beam, tmp_path):
    with pytest.raises(ValueError, match=r"questions of dev, .* split=train"):
        trl_export.save(tmp_path / "out", beam[0])
    assert not (tmp_path / "out").exists()


def test_steps_end_with_a_place_and_kept_ones_go_on_from_the_best(beam):
    for tree in trees_of(beam[0]).values():
        parents = {row["place"]["parent"] for row in tree.values()} - {-1, 0}
        firsts = [row for row in tree.values() if row["place"]["parent"] == 0]
        assert len(firsts) == 4 and all(row["written"][-1] in "12345;" for row in firsts if not row["place"]["final"])
        kept = [row for row in firsts if row["place"]["node"] in parents]
        left = [row for row in firsts if row["place"]["node"] not in parents and not row["place"]["final"]]
        assert len(kept) <= 2
        assert all(one["place"]["value"] >= other["place"]["value"] for one in kept for other in left)


def test_stored_logprobs_are_those_of_the_whole_text_read_at_once(beam):
    policy = load.load_model("bundled:cups")
    longest = [max((path(tree, row) for row in tree.values()), key=len) for tree in trees_of(beam[0]).values()]
    prompts = [policy.tokenizer.encode_prompt(steps[0]["prompt"]) for steps in longest]
    ids = [[id for step in steps for id in step["tokens"]] for steps in longest]
    expected = score.score(policy.definition, policy.params, prompts, ids)
    bound = tolerances.forward(policy.lm, keys=32, size=20.0, scores=3.0)
    for steps, logprobs in zip(longest, expected, strict=True):
        np.testing.assert_allclose(np.concatenate([step["logprobs"] for step in steps]), logprobs, rtol=0, atol=bound)


def test_a_killed_search_resumes_with_the_rest_and_ends_with_the_same_rows(beam, tmp_path):
    again = tmp_path / "again"
    shutil.copytree(beam[0], again)
    rationales.forget(again / solve.FOLDER, "iteration_0000_batch_00001.parquet")
    kept = again / solve.FOLDER / "iteration_0000_batch_00000.parquet"
    untouched = kept.stat().st_mtime_ns
    assert len(rows_of(again)) < len(rows_of(beam[0]))
    run(again, *BEAM)
    assert rows_of(again) == rows_of(beam[0])
    assert kept.stat().st_mtime_ns == untouched


@pytest.mark.parametrize("kept", [0, 1])
def test_a_batch_without_its_line_is_named_and_asked_again_as_advised(majority, tmp_path, kept):
    again = Path(shutil.copytree(majority[0], tmp_path / "again"))
    file = again / "batches.jsonl"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:kept]))
    with pytest.raises(
        ValueError, match=rf"again/batches\.jsonl has no line about batch {'1' if kept else '0, 1'},"
    ) as error:
        run(again, *MAJORITY)
    _, forget, resume = str(error.value).splitlines()
    assert shlex.split(forget)[:2] == [sys.executable, "-c"]
    assert shlex.split(resume)[1:] == [f"resume={again}"]
    exec(shlex.split(forget)[2], {})
    assert [dataclasses.replace(line, seconds=None) for line in run(again, *MAJORITY)] == [
        dataclasses.replace(line, seconds=None) for line in majority[1]
    ]
    assert rows_of(again) == rows_of(majority[0])


def test_a_model_that_is_sharded_over_eight_devices_gives_the_same_candidates(tmp_path):
    search = ("search=beam", "search.n=4", "search.m=2", "scorer=bundled:cups_prm", "step_tokens=2", *SHORT[:3])
    for name, given in (("one", ()), ("mesh", ("mesh.data=2", "mesh.fsdp=4"))):
        run(tmp_path / name, *search, "sample_batch=3", *given)
    one, sharded = rows_of(tmp_path / "one"), rows_of(tmp_path / "mesh")
    exact = ("batch", "problem", "tokens", "written", "answer", "correct", "finished", "generated_tokens")
    assert [[row[name] for name in exact] for row in sharded] == [[row[name] for name in exact] for row in one]
    places = ("node", "parent", "draw", "chosen", "flops", "scored_tokens")
    assert [[row["place"][n] for n in places] for row in sharded] == [[row["place"][n] for n in places] for row in one]
    bound = tolerances.forward(load.load_model("bundled:cups").lm, keys=32, size=20.0, scores=3.0)
    for row, other in zip(sharded, one, strict=True):
        np.testing.assert_allclose(row["logprobs"], other["logprobs"], rtol=0, atol=bound)
        scores, others = (np.array([score for _, score in each["place"]["scores"]]) for each in (row, other))
        np.testing.assert_allclose(scores, others, rtol=0, atol=bound)


def test_each_device_of_a_mesh_holds_its_part_of_the_model_and_of_its_scorer(tmp_path):
    given = ("scorer=bundled:cups_prm", "search=best_of_n", "mesh=fsdp", *SHORT, f"run_dir={tmp_path / 'run'}")
    job = solve.prepared(composed(*given, name="solve"))
    with jax.set_mesh(job.mesh):
        for params in (job.policy.params["blocks"], job.scorers["bundled:cups_prm"]._params["lm"]["blocks"]):
            (query,) = [leaf for path, leaf in jax.tree.leaves_with_path(params) if "query" in str(path)]
            assert query.addressable_shards[0].data.size == query.size // 8


def test_a_mesh_that_does_not_divide_the_model_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match=r"its axis 'vocab' of size 19 is not divisible by the mesh axis 'tensor'"):
        run(tmp_path / "run", "search=majority", "mesh=fsdp_tensor", *SHORT)
    assert not (tmp_path / "run").exists()


def questions_in(tmp_path, count=6):
    """Questions of letters that the bundled model has, which has no space and no line break."""
    lines = [
        {"id": f"{i}", "question": f"3aegb{letter}", "answer": "2"} for i, letter in enumerate("abcdefghij"[:count])
    ]
    (tmp_path / "questions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return (
        "task=jsonl", f"task.path={tmp_path}/questions.jsonl", f"task.dev_path={tmp_path}/questions.jsonl",
        "task.prompt_template='{question}='", "task.hint_template='{question}{hint}='", "task.max_new_tokens=8",
        "questions=6", "sample_batch=3",
    )  # fmt: skip


def test_questions_in_few_letters_are_searched_by_steps_of_them(tmp_path):
    steps = ("search=beam", "search.n=4", "scorer=logprob", "delimiters=[4]")
    assert run(tmp_path / "run", *questions_in(tmp_path), *steps)[-1].questions == 6


def test_questions_that_are_left_out_are_counted(tmp_path, capsys):
    overrides = (*questions_in(tmp_path), "search=majority", "search.n=1", "overlong=skip")
    with (tmp_path / "questions.jsonl").open("a") as file:
        file.write(json.dumps({"id": "long", "question": "3" + "a" * 300, "answer": "2"}) + "\n")
    assert run(tmp_path / "run", *overrides, "questions=0")[-1].questions == 6
    said = capsys.readouterr().out
    assert "1 of 7 questions are left out: too long for the 256 tokens of bundled:cups (long)" in said


def edited(folder):
    file = folder / "run" / "solve.yaml"
    file.write_text(file.read_text().replace("temperature: 1.0", "temperature: 0.5"))
    return "temperature = 1.0, now 0.5"


def asked_otherwise(folder):
    file = folder / "questions.jsonl"
    file.write_text(file.read_text().replace("3aegb", "4bbbb"))
    return "questions asked = "


def trained_again(folder):
    file = folder / "prm" / "model.safetensors"
    *others, last = file.read_bytes()
    file.write_bytes(bytes([*others, last ^ 0x80]))  # another sign of the last weight
    return "weights of .*prm = "


@pytest.mark.parametrize("change", [edited, asked_otherwise, trained_again])
def test_a_search_is_not_resumed_as_another_one(change, tmp_path):
    shutil.copytree(load.BUNDLED / "cups_prm", tmp_path / "prm")
    best = ("search=best_of_n", "search.n=2", f"scorer={tmp_path / 'prm'}")
    run(tmp_path / "run", *questions_in(tmp_path), *best)
    rationales.forget(tmp_path / "run" / solve.FOLDER, "iteration_0000_batch_00001.parquet")
    message = change(tmp_path)
    cfg, folder = chosen(solve.KIND, f"resume={tmp_path / 'run'}")
    with pytest.raises(ValueError, match=message):
        solve.run(cfg, folder)
    assert len({row["batch"] for row in rows_of(folder)}) == 1
    (folder / "identity.json").unlink()  # as that of an earlier version
    assert solve.run(cfg, folder)[-1].questions == 6


def test_a_directory_of_another_search_is_refused(majority):
    with pytest.raises(ValueError, match=r"search\.n = 4, now 5"):
        run(majority[0], *MAJORITY, "search.n=5")


REVISE = ("search=revise", "search.chains=2", "search.length=3", "search.context=2", "scorer=oracle", *SHORT)


@pytest.fixture(scope="module")
def revised(tmp_path_factory):
    folder = tmp_path_factory.mktemp("revised") / "run"
    return folder, run(folder, *REVISE)


def test_a_revision_is_stored_after_the_attempt_that_it_was_shown(revised):
    directory, lines = revised
    task, lengths = Cups(min_moves=6, max_moves=6), set()
    questions = {problem.id: problem for problem in task.problems("dev")}
    for id, tree in trees_of(directory).items():
        ends = [
            row for row in tree.values() if not any(row["place"]["node"] == o["place"]["parent"] for o in tree.values())
        ]
        assert len(ends) == 2 and len(tree) == 1 + sum(len(path(tree, end)) for end in ends)
        for end in ends:
            attempts = path(tree, end)
            lengths.add(len(attempts))
            for number, row in enumerate(attempts):
                shown = "".join(
                    written if written.endswith(";") else f"{written};"
                    for written in (attempt["written"] for attempt in attempts[max(0, number - 2) : number])
                )
                assert row["prompt"] == questions[id].question + shown
                assert row["prompt_tokens"] == len(row["prompt"])
                verdict = task.grader(row["written"].removesuffix(";"), questions[id].gold)
                assert row["correct"] == (verdict.correct and row["finished"])
    assert lengths == {3} and lines[-1].candidates == 6
    cfg, folder = chosen(solve.KIND, f"tables={directory}")
    assert solve.tabulated(cfg, folder) == lines


def test_the_tokens_of_a_revision_are_drawn_after_the_attempts(revised):
    policy = load.load_model("bundled:cups")
    rows = [row for row in rows_of(revised[0]) if row["place"]["parent"] > 0][:8]
    prompts = [policy.tokenizer.encode_prompt(row["prompt"]) for row in rows]
    expected = score.score(policy.definition, policy.params, prompts, [row["tokens"] for row in rows])
    bound = tolerances.forward(policy.lm, keys=64, size=20.0, scores=3.0)
    for row, logprobs in zip(rows, expected, strict=True):
        np.testing.assert_allclose(row["logprobs"], logprobs, rtol=0, atol=bound)


def test_attempts_that_the_model_cannot_read_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"search.context = 40: .* reads 256: show fewer with search\.context$"):
        run(tmp_path / "run", *REVISE[:1], "search.length=41", "search.context=40", "scorer=oracle", *SHORT)
    assert not (tmp_path / "run").exists()


def test_shorter_answers_are_a_way_out_where_the_task_limits_them():
    assert answering.ways_out(Cups(), "shorten them") == "shorten them"
    assert answering.ways_out(Cups(), "shorten them", "leave them out") == "shorten them, or leave them out"
    assert answering.ways_out(SVAMP(), "shorten them") == "lower task.max_new_tokens, or shorten them"


# --- tables -------------------------------------------------------------------------------------------------------


def test_a_table_at_a_smaller_budget_is_that_of_a_search_of_this_budget(majority, tmp_path):
    smaller = run(tmp_path / "two", *MAJORITY, "search.n=2", "budgets=[1]")[-1]
    one, two, whole = majority[1]
    assert [line.budget for line in majority[1]] == ["1", "2", "all"]
    assert dataclasses.replace(two, budget="all", seconds=smaller.seconds) == smaller
    assert (one.candidates, two.candidates, whole.candidates) == (1, 2, 4)
    assert one.written < two.written < whole.written


def test_over_all_subsets_the_best_of_k_is_their_mean(tmp_path):
    folder = tmp_path / "best"
    overrides = ("search=best_of_n", "search.n=4", "search.select=max", "scorer=logprob", *SHORT)
    run(folder, *overrides)
    cfg = composed(*overrides, "subsets=true", "budgets=[2]", f"run_dir={folder}", name="solve")
    one, two, four, whole = solve.tabulated(dataclasses.replace(cfg, budgets=(1, 2, 4)), folder)
    assert dataclasses.replace(four, low=0, high=0) == dataclasses.replace(
        whole, strategy="best_of_n, all subsets", budget="4", low=0, high=0, seconds=None
    )
    prompts = np.mean([row["place"]["flops"] for row in rows_of(folder) if row["place"]["parent"] < 0])
    assert one.flops - prompts == pytest.approx((whole.flops - prompts) / 4)  # a prompt is read once
    expected = []
    for rows in trees_of(folder).values():
        ends = [
            (dict(row["place"]["scores"])["logprob"], row["correct"]) for row in rows.values() if row["place"]["final"]
        ]
        expected.append(np.mean([max(pair)[1] for pair in itertools.combinations(ends, 2)]))
    assert two.accuracy == pytest.approx(np.mean(expected))
    assert two.low <= two.accuracy <= two.high
    with pytest.raises(ValueError, match="subsets = true with search=majority"):
        solve.tabulated(dataclasses.replace(cfg, search=Majority(n=4)), folder)


def row_of(node, answer="", correct=False, score=0.0):
    place = {
        "node": node, "parent": 0 if node else -1, "draw": 0, "final": node > 0, "scores": {"logprob": score},
        "margin": None, "flops": 1, "scored_tokens": 0, "scoring_flops": 0,
    }  # fmt: skip
    return {
        "batch": 0, "problem": "a", "question": "a?", "written": "w", "logprobs": [0.0], "answer": answer,
        "correct": correct, "generated_tokens": 1, "place": place,
    }  # fmt: skip


def test_over_all_subsets_a_solution_without_an_answer_yields_to_those_with_one():
    rows = [row_of(0), row_of(1, score=0.9), row_of(2, "5", True, 0.5)]
    best = ("search=best_of_n", "search.n=2", "search.select=max", "scorer=logprob", "subsets=true", "budgets=[1,2]")
    one, two, whole = replay.lines(composed(*best, name="solve"), rows, [{"batch": 0, "seconds": 1, "most_tokens": 4}])
    assert (one.accuracy, two.accuracy, whole.accuracy) == (0.5, 1, 1)


def test_a_router_ends_in_a_table_and_is_made_again_from_the_rows(tmp_path):
    table = ("search.probe=1", "search.estimate=agreement", "search.edges=[0.5]", "search.sizes=[2,3]")
    overrides = ("search=router", *table, "search.select=majority", *SHORT)
    lines = run(tmp_path / "run", *overrides)
    assert [(line.strategy, line.budget) for line in lines] == [("router", "all")]
    assert lines[0].candidates == 3  # one answer agrees with itself
    cfg = composed(*overrides, f"run_dir={tmp_path / 'run'}", name="solve")
    assert solve.tabulated(cfg, tmp_path / "run")[0].accuracy == lines[0].accuracy
    with pytest.raises(ValueError, match=r"budgets = \[2\]"):
        solve.tabulated(dataclasses.replace(cfg, budgets=(2,)), tmp_path / "run")


def test_a_beam_that_tokens_end_early_is_made_again_from_the_rows(beam, tmp_path):
    limited = run(tmp_path / "limited", *BEAM, "max_tokens=14")[-1]
    cfg = dataclasses.replace(composed(*BEAM, name="solve"), budgets=(14,))
    stored, whole = solve.tabulated(cfg, beam[0])
    assert stored.budget == "14 tokens"
    assert dataclasses.replace(stored, budget="all", seconds=limited.seconds) == limited
    assert stored.written <= 14 < whole.written


def test_a_tree_search_that_tokens_end_early_is_made_again_from_the_rows(tmp_path):
    tree = ("search=mcts", "search.n=12", "search.k=4", "scorer=[logprob,oracle]", "step_tokens=2", *SHORT)
    run(tmp_path / "whole", *tree)
    for tokens in (24, 40, 60):
        limited = run(tmp_path / f"{tokens}", *tree, f"max_tokens={tokens}")[-1]
        stored = solve.tabulated(composed(*tree, f"budgets=[{tokens}]", name="solve"), tmp_path / "whole")[0]
        assert dataclasses.replace(stored, budget="all", seconds=limited.seconds) == limited


def test_a_table_needs_no_model(majority, monkeypatch):
    monkeypatch.delattr(load, "initial_model")
    cfg = composed(*MAJORITY, name="solve")
    assert solve.tabulated(cfg, majority[0]) == majority[1]
    assert (majority[0] / "summary.md").read_text().count("\n") == 2 + 3


def test_costs_add_up_over_the_rows(beam):
    rows, whole = rows_of(beam[0]), beam[1][-1]
    assert whole.written == pytest.approx(sum(row["generated_tokens"] for row in rows) / 6)
    assert whole.flops == pytest.approx(sum(row["place"]["flops"] for row in rows) / 6)
    assert (whole.scored, whole.questions) == (0, 6)  # oracle and log-probs read nothing
    prompts = [row for row in rows if row["place"]["node"] == 0]
    assert all(row["place"]["flops"] > 0 for row in prompts)


def test_other_widths_of_a_beam_are_not_in_its_rows(beam):
    with pytest.raises(ValueError, match=r"2 steps are stored after node .* take 4"):
        solve.tabulated(composed(*BEAM, "search.m=4", name="solve"), beam[0])


def test_a_strategy_that_needs_scores_is_refused_where_none_are_stored(majority):
    cfg = composed(*MAJORITY, "search=best_of_n", "search.n=4", name="solve")
    with pytest.raises(ValueError, match=r"search=best_of_n ranks by a scorer, and .* was searched without one"):
        solve.tabulated(cfg, majority[0])


def test_a_budget_beyond_what_is_stored_is_refused(majority):
    with pytest.raises(ValueError, match=r"9 solutions of a question, but 4 are stored"):
        solve.tabulated(composed(*MAJORITY, "budgets=[9]", name="solve"), majority[0])


@pytest.mark.parametrize(
    "setting", ["aggregate=min", "temperature=0.5", "questions=2", "split=test", "seed=4", "model.source=bundled:sums"]
)
def test_a_table_of_another_search_is_refused(setting, majority):
    cfg, folder = chosen(solve.KIND, f"tables={majority[0]}", setting)
    with pytest.raises(ValueError, match=rf"{setting.partition('=')[0]} = .*, now {setting.partition('=')[2]}"):
        solve.tabulated(cfg, folder)


def test_a_scorer_that_was_not_asked_is_named_with_those_that_were(beam):
    overrides = [item for item in BEAM if not item.startswith("scorer")]
    for scorer, node in (("bundled:cups_prm", 1), ("logprob", 1)):  # that one scored finished solutions only
        cfg = composed(*overrides, f"scorer={scorer}", name="solve")
        with pytest.raises(ValueError, match=rf"node {node} has no score by {scorer}, .* oracle"):
            solve.tabulated(cfg, beam[0])


def test_another_strategy_chooses_among_the_same_samples(tmp_path, majority):
    best = ["search=best_of_n", "search.n=4", "search.select=max", "scorer=oracle", *SHORT]
    ceiling = run(tmp_path / "best", *best)[-1]
    arguments = ["search=majority", "search.n=4", f"tables={tmp_path / 'best'}"]
    cfg, folder = chosen(solve.KIND, *arguments)
    voted = solve.tabulated(cfg, folder)[-1]
    assert dataclasses.replace(voted, seconds=None) == dataclasses.replace(majority[1][-1], seconds=None)
    assert ceiling.accuracy > voted.accuracy


def test_tables_and_resume_name_a_directory_of_a_search(tmp_path, majority):
    with pytest.raises(FileNotFoundError, match=r"solve\.yaml"):
        chosen(solve.KIND, f"resume={tmp_path}")
    cfg, folder = chosen(solve.KIND, f"tables={majority[0]}", "budgets=[2]")
    assert (cfg.budgets, cfg.search.n, folder) == ((2,), 4, majority[0])


def test_the_tree_of_a_question_is_a_line_for_each_node(beam):
    id, nodes = next(iter(trees_of(beam[0]).items()))
    lines = solve.tree(beam[0], id).splitlines()
    assert len(lines) == len(nodes) and lines[0].startswith(f"{id}: ")
    assert sum("<- chosen" in line for line in lines) == 1
    with pytest.raises(ValueError, match="tree = 'dev-x'"):
        solve.tree(beam[0], "dev-x")


# --- scorers ------------------------------------------------------------------------------------------------------


LETTERS = tokenizers.characters("12345abcdefghij=-;.")
LM = dataclasses.replace(tiny.LM, vocab=19)


@pytest.fixture(scope="module")
def proposals():
    task = Cups(min_moves=3, max_moves=3)
    problems = task.problems("dev")[:2]
    model, params = tiny.lm_of(LM)
    prompts = [task.prompt(one) for one in problems]
    session = Session(model, params, LETTERS, prompts, Sampling(max_new_tokens=12, stop=task.stop))
    return Proposals(session, task, problems, LETTERS, task.delimiters, 6)


def node_of(proposals, text, problem=0):
    row = proposals.session.row(problem, LETTERS.encode(text))
    return Node(problem, 1, 1, Candidate(proposing.Written(row), len(row.ids), False), Node(problem, 0, 0, None))


def test_a_reward_model_reads_the_steps_of_the_task_as_tokens_that_were_written(proposals):
    prompt, steps = proposals.spelled(node_of(proposals, "-34-4;", 1))
    assert prompt == proposals.problems[1].question
    assert [LETTERS.decode(step) for step in steps] == ["-3", "4", "-4;"]
    model = heads.definition(LM)
    weights = tiny.weights_of(model)
    values = {how: Scorer(Policy(PRM(), model, weights, LETTERS), how) for how in ("last", "min", "product", "mean")}
    nodes = [node_of(proposals, "-34-4;", 1), node_of(proposals, "-3")]
    found = {how: scorer.value(proposals.spelled)(nodes) for how, scorer in values.items()}
    each = values["last"].score([prompt], [steps]).steps[0]
    assert [found[how][0] for how in found] == pytest.approx([each[-1], each.min(), each.prod(), each.mean()])
    assert len({found[how][1] for how in found}) == 1  # of one step


def test_a_scorer_without_a_number_is_named(proposals):
    model = heads.definition(LM)
    weights = jax.tree.map(lambda leaf: leaf * np.nan, tiny.weights_of(model))
    scorer = Scorer(Policy(PRM(), model, weights, LETTERS, "runs/broken"))
    with pytest.raises(ValueError, match="runs/broken"):
        scorer.value(proposals.spelled)([node_of(proposals, "-3")])


def test_proposals_are_a_function_of_key_node_draw_and_number(proposals):
    prompt = Node(0, 0, 0, Candidate(proposals.prompts[0], 0, False))
    four = proposals.propose([prompt], 4, (3, 1))[0]
    two = proposals.propose([prompt, dataclasses.replace(prompt, draws=1)], 2, (3, 1))
    texts = lambda candidates: [one.step for one in candidates]  # noqa: E731
    assert texts(two[0]) == texts(four)[:2]
    assert texts(two[1]) != texts(two[0])
    likeliest = proposals.propose([prompt], 3, None)[0]
    assert len({one.state.row.ids[0] for one in likeliest}) == 3
    assert [one.state.draw for one in likeliest] == [-1, -1, -1]


# --- what cannot work ---------------------------------------------------------------------------------------------


BPE_MERGES = [("Ċ", "Q"), ("Ċ", "Ċ")]
ALPHABET = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
MERGING = tokenizers.byte_level_bpe(
    {letter: id for id, letter in enumerate([*ALPHABET, "ĊQ", "ĊĊ"])}, BPE_MERGES, [], "gpt-2"
)


def test_a_delimiter_that_the_tokenizer_merges_with_what_follows_is_refused():
    proposing.check_delimiters(MERGING, ["\n"], ["one\ntwo", "a\nb\n"])
    with pytest.raises(ValueError, match=r"'\\n' ends within the token '\\n\\n'"):
        proposing.check_delimiters(MERGING, ["\n"], ["one\ntwo", "a\n\n"])
    proposing.check_delimiters(MERGING, ["\n\n"], ["a\n\n"])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("search=beam",), "scorer=RUN"),
        (("search=beam", "search.n=8", "scorer=oracle", "max_candidates=7"), r"max_candidates = 7.*proposes 8"),
        (("search=beam", "search.n=8", "scorer=oracle", "max_tokens=90"), r"max_tokens = 90.*at least 96"),
        (("search=beam", "search.n=8", "scorer=oracle", "delimiters=['€']"), r"delimiters: '€' cannot be written"),
        (
            ("search=majority", "search.n=8", "max_tokens=90"),
            r"^max_tokens = 90: the first round proposes 8 .* 12 tokens.* at least 96.*raise it \(0: no limit\)",
        ),
        (
            ("task=arithmetic", "model.source=bundled:sums", "task.digits=[1,5]", "search.n=2", "max_tokens=90"),
            r"max_tokens = 90.*at least 158",  # more than those of the shortest solutions, which come first
        ),
        (("search=beam", "scorer=logprob", "task=commonsense_qa"), r"commonsense_qa has no steps"),
        (("task=jsonl", "task.path=FILE", "task.dev=0"), r"no dev questions.*raise task.dev, or .* task.dev_path=FILE"),
        (
            ("search=beam", "scorer=oracle", "delimiters=[1]", "task=jsonl", "task.path=FILE", "task.dev_path=FILE"),
            "scorer=oracle",
        ),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(overrides, message, tmp_path):
    file = tmp_path / "questions.jsonl"
    line = {"question": "one and one?", "answer": "2"}
    file.write_text("".join(json.dumps(line | {"id": f"{i}"}) + "\n" for i in range(40)))
    overrides = [one.replace("FILE", str(file)) for one in overrides]
    with pytest.raises(ValueError, match=message):
        run(tmp_path / "run", *overrides)
    assert not (tmp_path / "run").exists()


def test_a_scorer_that_is_not_a_run_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        run(tmp_path / "run", "search=best_of_n", f"scorer={tmp_path}/nowhere")
    with pytest.raises(ValueError, match="scorer = "):
        composed("scorer=[oracle,oracle]", name="solve")
