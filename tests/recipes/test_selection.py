"""What self-training trains on, by hand."""

import pytest

from qstar.recipes.catalog import made
from qstar.recipes.irpo import IRPO
from qstar.recipes.kept import Graded, Kept, share
from qstar.recipes.recipe import Recipe, drawn
from qstar.recipes.training_set import examples


def row(problem, correct, text, iteration=1, hinted=False):
    return Graded(problem, iteration, hinted, correct, text)


def weights(rows, cfg, iteration=1, seed=0):
    return {(one.problem, one.stored): one.weight for one in made(cfg).select(rows, iteration, seed)}


FIRST = [row("a", True, "a1"), row("b", False, "b1"), row("b", True, "b2", hinted=True), row("c", False, "c1")]


def test_star_keeps_what_is_right_and_rationalisations_of_what_was_wrong():
    assert weights(FIRST, Recipe()) == {("a", "a1"): 1, ("b", "b2"): 1}


def test_only_the_newest_iteration_trains_unless_all_do():
    rows = [*FIRST, row("a", False, "a2", 2), row("c", True, "c2", 2)]
    assert weights(rows, Recipe(), 2) == {("c", "c2"): 1}
    assert set(weights(rows, Recipe(memory="all"), 2)) == {("a", "a1"), ("b", "b2"), ("c", "c2")}


def test_without_a_filter_all_that_was_written_trains():
    assert set(weights(FIRST, Recipe(keep="all"))) == {("a", "a1"), ("b", "b1"), ("b", "b2"), ("c", "c1")}


def test_what_has_no_text_to_train_on_is_left_out():
    assert weights([row("a", True, None), row("b", True, "b1")], Recipe()) == {("b", "b1"): 1}


MANY = [row("a", one, f"a{i}") for i, one in enumerate((1, 1, 1, 0))] + [
    row("b", one, f"b{i}") for i, one in enumerate((0, 1, 0, 0))
]


def test_policy_gradient_keeps_all_right_samples_and_ml_weights_questions_alike():
    sampled = {"samples": 4, "temperature": 1.0}
    assert weights(MANY, Recipe(**sampled)) == {("a", "a0"): 1, ("a", "a1"): 1, ("a", "a2"): 1, ("b", "b1"): 1}
    found = weights(MANY, Recipe(weighting="ml", **sampled))
    # 1/3 each and 1, whose mean is a half.
    assert found == pytest.approx({("a", "a0"): 2 / 3, ("a", "a1"): 2 / 3, ("a", "a2"): 2 / 3, ("b", "b1"): 2})


def test_with_a_baseline_wrong_ones_push_away_and_sum_to_nothing():
    found = weights(MANY, Recipe(samples=4, temperature=1.0, baseline=True))
    assert len(found) == 8
    for problem in "ab":
        assert sum(w for (name, _), w in found.items() if name == problem) == pytest.approx(0)
    assert found["a", "a3"] < 0 < found["a", "a0"]
    # (1 - 3/4) / 4 and (0 - 3/4) / 4: not scaled, so that they vanish where all samples are right.
    assert (found["a", "a0"], found["a", "a3"]) == (0.0625, -0.1875)


def test_equal_texts_once_and_at_most_so_many_of_a_question():
    same = [row("a", True, text) for text in ("x", "x", "y", "z")]
    many = Recipe(samples=4, temperature=1.0, unique=True)
    assert set(weights(same, many)) == {("a", "x"), ("a", "y"), ("a", "z")}
    capped = [set(weights(same, Recipe(samples=4, temperature=1.0, unique=True, cap=2), seed=s)) for s in range(20)]
    assert {len(one) for one in capped} == {2}
    assert len({frozenset(one) for one in capped}) == 3  # all pairs are drawn


def test_the_chain_stays_at_the_newest_right_rationale():
    trice = Recipe(memory="newest", temperature=1.0, hint="missing")
    rows = [*FIRST, row("a", False, "a2", 2), row("b", True, "b3", 2), row("c", False, "c2", 2)]
    assert weights(rows, trice, 2) == {("a", "a1"): 1, ("b", "b3"): 1}  # c has none yet


def test_the_control_variate_is_the_newest_sample_times_the_success_of_the_others():
    trice = Recipe(memory="newest", temperature=1.0, hint="missing", control_variate=True)
    rows = [*FIRST, row("a", False, "a2", 2), row("b", True, "b3", 2), row("c", True, "c2", 2)]
    found = weights(rows, trice, 2)
    # Others right: 2 of 2 for a, 1 of 2 for b and c; b and c moved, so their own sample is their memory.
    assert found == pytest.approx({("a", "a1"): 1, ("a", "a2"): -1, ("b", "b3"): 0.5, ("c", "c2"): 0.5})


def test_weights_that_subtract_something_shrink_as_the_model_gets_right():
    trice = Recipe(memory="newest", temperature=1.0, hint="missing", control_variate=True)
    rows = [row(str(i), True, "text") for i in range(99)] + [row("last", False, "wrong")]
    # Each of those that moved keeps what is wrong among the 99 others: one in 99.
    assert weights(rows, trice) == pytest.approx({(str(i), "text"): 1 / 99 for i in range(99)})


def test_where_all_samples_are_right_the_control_variate_leaves_no_variance():
    trice = Recipe(memory="newest", temperature=1.0, hint="missing", control_variate=True)
    assert weights([row("a", True, "a1"), row("b", True, "b1")], trice) == {}


def test_steps_grow_by_a_fifth():
    assert [Recipe().steps_of(n) for n in (1, 2, 3, 10)] == [40, 48, 58, 206]
    assert Recipe(max_steps=50).steps_of(9) == 50


def test_questions_come_in_passes_without_replacement():
    passes = [drawn(10, 4, n, seed=3).tolist() for n in range(1, 6)]
    assert sorted([*passes[0], *passes[1], *passes[2][:2]]) == list(range(10))
    assert passes == [drawn(10, 4, n, seed=3).tolist() for n in range(1, 6)]
    assert passes[0] != drawn(10, 4, 1, seed=4).tolist()
    assert drawn(10, 0, 7, seed=3).tolist() == list(range(10))
    assert drawn(10, 11, 2, seed=3).tolist() == list(range(10))


def test_examples_have_the_prompt_of_their_question():
    found = examples(Recipe().select(FIRST, 1, 0), {"a": "Q: a", "b": "Q: b"})
    assert found == [
        {"prompt": "Q: a", "completion": "a1", "weight": 1.0},
        {"prompt": "Q: b", "completion": "b2", "weight": 1.0},
    ]


def test_examples_of_a_question_name_their_group_where_they_belong_together():
    found = examples([Kept("a", "a1", 1.0), Kept("a", "a2", -0.5)], {"a": "Q: a"}, grouped=True)
    assert [(one["group"], one["weight"]) for one in found] == [("a", 1.0), ("a", -0.5)]


def test_the_hinted_share_depends_on_the_seed_and_the_iteration_alone():
    kept = [Kept(str(i), "text", 1.0) for i in range(1000)]
    quarter = share(kept, 0.25, 1, seed=0)
    assert 200 < len(quarter) < 300
    assert quarter == share(kept, 0.25, 1, seed=0) != share(kept, 0.25, 2, seed=0)
    assert (share(kept, 0.0, 1, 0), share(kept, 1.0, 1, 0)) == ([], kept)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"samples": 2}, "improve.samples = 2 at temperature 0"),
        ({"hint": "always"}, "improve.hint = 'always': choose one of never, failures, missing"),
        ({"keep": "all", "baseline": True}, "choose one"),
        ({"memory": "newest", "keep": "all"}, "keeps the right ones only"),
        ({"control_variate": True}, "belongs to the chain"),
        ({"growth": 0.5}, "improve.growth = 0.5: expected a number from 1"),
        ({"iterations": 0}, "improve.iterations = 0: expected a positive integer"),
        ({"learn_hinted": 1.5}, "improve.learn_hinted = 1.5: expected a number from 0 up to 1"),
        ({"learn_hinted": 0.5, "hint": "never"}, "no hint is ever shown"),
        ({"optimizer": "carried"}, "improve.optimizer=carried .* improve.restart=false"),
        ({"mean_over": "questions"}, "improve.mean_over=questions with improve.memory=iteration"),
        ({"sample_from": "sft", "target": "direct"}, "improve.sample_from=sft: nothing is sampled"),
        ({"schedule": "never"}, "improve.schedule = 'never': choose one of iteration, run"),
        ({"verifier": True, "target": "human"}, "improve.verifier: nothing is sampled with improve.target=human"),
    ],
)
def test_recipes_that_make_no_sense_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Recipe(**fields)


# --- pairs ----------------------------------------------------------------------------------------------------------


def pairs(rows, iteration=1, **settings):
    return [(one.chosen.stored, one.rejected.stored) for one in IRPO(**settings).select(rows, iteration, 0)]


def test_right_and_wrong_samples_are_paired_side_by_side_the_shorter_list_again():
    assert pairs(MANY, pairs=4) == [
        ("a0", "a3"), ("a1", "a3"), ("a2", "a3"), ("a0", "a3"),
        ("b1", "b0"), ("b1", "b2"), ("b1", "b3"), ("b1", "b0"),
    ]  # fmt: skip


def test_questions_with_samples_of_one_kind_have_no_pairs():
    assert pairs([row("a", True, "a1"), row("a", True, "a2"), row("b", False, "b1"), row("c", True, None)]) == []


def test_pairs_are_of_this_iteration_unless_all_are_remembered():
    rows = [row("a", True, "a1"), row("a", False, "a2", 2), row("b", True, "b1", 2), row("b", False, "b2", 2)]
    assert pairs(rows, 2, pairs=1) == [("b1", "b2")]
    assert pairs(rows, 2, pairs=1, memory="all") == [("a1", "a2"), ("b1", "b2")]


def test_equal_texts_are_paired_once_where_they_are_to_be_unique():
    rows = [row("a", one, text) for one, text in ((True, "x"), (True, "x"), (True, "y"), (False, "z"))]
    assert pairs(rows, pairs=2) == [("x", "z"), ("x", "z")]
    assert pairs(rows, pairs=2, unique=True) == [("x", "z"), ("y", "z")]


def test_a_text_that_was_right_and_wrong_is_no_pair():
    assert pairs([row("a", True, "x"), row("a", False, "x")], pairs=1) == []
