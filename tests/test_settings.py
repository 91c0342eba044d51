"""Every number of every configuration is refused, by its key, where it cannot work."""

import dataclasses
import math
from typing import Annotated, get_args, get_origin, get_type_hints

import pytest
from small_runs import MODEL, composed

from qstar import config as configs
from qstar import overrides, settings
from qstar.config import EvaluateConfig, ImproveConfig, LabelConfig, SolveConfig, TrainConfig
from qstar.data.examples import ExamplesText
from qstar.data.labelled import LabelledText
from qstar.data.pairs import PairsText
from qstar.data.pipeline import TextConfig
from qstar.evals.perplexity import PerplexityEval
from qstar.evals.suite import NoEval
from qstar.methods.fast_quiet_star import FastQuietStar
from qstar.methods.plain_lm import PlainLM
from qstar.models.lm import LMConfig
from qstar.models.lora import LoraConfig
from qstar.models.origins import Pretrained
from qstar.recipes.recipe import Recipe
from qstar.settings import Count, Decay, OneOf, Positive, Range
from qstar.tasks.grading.sandbox import SandboxConfig

SCHEMAS = [
    ("", TrainConfig),
    ("", EvaluateConfig),
    ("", ImproveConfig),
    ("", SolveConfig),
    ("", LabelConfig),
    ("lora", LoraConfig),
    ("sandbox", SandboxConfig),
    *((group, schema) for group, schemas in configs.SCHEMAS.items() for schema in schemas.values()),
]
"""All that the command line sets, with what stands before the names of their fields."""
REQUIRED = {
    Pretrained: {"source": "bundled:cups"},
    FastQuietStar: {"teacher": "runs/teacher"},
    TextConfig: {"paths": ("text.txt",)},
    PerplexityEval: {"paths": ("text.txt",)},
    ExamplesText: {"path": "examples.jsonl"},
    LabelledText: {"path": "labelled.jsonl"},
    PairsText: {"path": "pairs.jsonl"},
}
IMPOSSIBLE = (math.nan, math.inf, -math.inf, -1, 2**70, 10**400)
LEGAL = {
    ("mesh.data", -1),  # all devices that are left
    ("mesh.fsdp", -1),
    ("mesh.tensor", -1),
    ("method.threshold", -1),  # nats, of either sign
}
"""What of it is legal all the same."""


def numeric(schema: type) -> dict[str, settings.Rule]:
    return {name: rule for name, rule in settings.rules(schema).items() if rule.kind is not str}


def attempt(group: str, schema: type, name: str, value) -> str:
    """The message that refuses a value, or nothing."""
    rule = settings.rules(schema)[name]
    try:
        schema(**{**REQUIRED.get(schema, {}), name: (value,) if rule.many else value})
    except ValueError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(("group", "schema"), SCHEMAS, ids=lambda one: getattr(one, "__name__", one))
def test_every_number_refuses_by_its_key_what_cannot_work(group, schema):
    for name in numeric(schema):
        key = f"{group}.{name}" if group else name
        for value in IMPOSSIBLE:
            message = attempt(group, schema, name, value)
            if (key, value) in LEGAL:
                assert message == ""
            else:
                assert message.startswith(f"{key} = ") and settings.shown(value) in message, (key, value, message)


@pytest.mark.parametrize(("group", "schema"), SCHEMAS, ids=lambda one: getattr(one, "__name__", one))
def test_every_number_refuses_by_its_key_what_is_not_a_number(group, schema):
    for name, rule in numeric(schema).items():
        key = f"{group}.{name}" if group else name
        wrong = ["many", True, [1], *([] if rule.optional else [None]), *([1.5] if rule.kind is int else [])]
        for value in wrong:
            message = attempt(group, schema, name, value)
            assert message.startswith(f"{key} = ") and repr(value) in message, (key, value, message)


@pytest.mark.parametrize("schema", [schema for _, schema in SCHEMAS], ids=lambda one: one.__name__)
def test_every_number_of_a_schema_says_what_is_legal(schema):
    hints = get_type_hints(schema, include_extras=True)
    inner = {one.name: hints[one.name] for one in dataclasses.fields(schema)}
    parts = {name: (hint, *(() if get_origin(hint) is Annotated else get_args(hint))) for name, hint in inner.items()}
    bare = [name for name, hints in parts.items() if int in hints or float in hints]
    assert bare == []


def test_what_is_walked_has_every_number_of_the_optimiser_and_of_quiet_star():
    assert numeric(configs.OptimConfig).keys() >= {
        "lr", "warmup_steps", "final_lr", "beta1", "beta2", "eps", "weight_decay", "clip", "ema"
    }  # fmt: skip
    assert numeric(configs.QuietStar).keys() >= {
        "thought_len", "num_thoughts", "lookahead", "mixing_start", "beta", "temperature", "think_fraction"
    }  # fmt: skip
    assert settings.rules(configs.Arithmetic)["digits"].many


# --- the command line ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("optim.lr=nan", "optim.lr = nan"),
        ("optim.lr=1e400", "optim.lr = inf"),
        ("optim.lr=1e-50", "optim.lr = 1e-50"),
        ("optim.weight_decay=-inf", "optim.weight_decay = -inf"),
        ("seed=99999999999999999999", "seed = 99999999999999999999"),
        ("seed=-1", "seed = -1"),
        ("seed=4294967296", "seed = 4294967296"),
        ("steps=2147483648", "steps = 2147483648"),
        ("method.beta=nan", "method.beta = nan"),
        ("method.mixing_start=2", "method.mixing_start = 2"),
        ("lora.rank=-1", "lora.rank = -1"),
        ("eval.max_moves=2000000", "eval.max_moves = 2000000"),
        ("eval.min_moves=9", "eval.min_moves = 9"),
        ("data.min_moves=0", "data.min_moves = 0"),
    ],
)
def test_numbers_of_a_training_are_refused_when_composed(override, key):
    with pytest.raises(ValueError, match=key):
        composed(override)


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("improve.temperature=-1", "improve.temperature = -1"),
        ("improve.top_p=0", "improve.top_p = 0"),
        ("improve.top_p=1.5", "improve.top_p = 1.5"),
        ("improve.top_k=-1", "improve.top_k = -1"),
        ("improve.growth=nan", "improve.growth = nan"),
        ("improve.iterations=1000", "improve.iterations = 1000"),
        ("task.seed=-1", "task.seed = -1"),
        ("task.digits=[1,19]", "task.digits = .*19"),
        ("task.num_shots=-1", "task.num_shots = -1"),
        ("seed=-1", "seed = -1"),
    ],
)
def test_numbers_of_a_self_training_are_refused_when_composed(override, key):
    with pytest.raises(ValueError, match=key):
        composed("model.source=bundled:cups", override, name="improve")


def test_what_is_very_long_is_refused_by_its_key_and_cut():
    message = attempt("optim", configs.OptimConfig, "schedule", 10_000 * "x")
    assert message.startswith("optim.schedule = 'xxx") and len(message) < 400
    for key, digits in (("optim.lr", 400), ("steps", 400), ("optim.lr", 4000)):
        override = f"{key}={digits * '1'}"
        with pytest.raises((ValueError, *overrides.ERRORS)) as refused:
            composed(override)
        message = overrides.explained("train", [override], refused.value) if key == "optim.lr" else str(refused.value)
        assert message.startswith(f"{key} = ") and len(message) < 500


@pytest.mark.parametrize("scorer", ["5", "0.5", "true", "[5]", "[runs/a,runs/a]"])
def test_scorers_that_are_none_are_refused_by_their_key(scorer):
    with pytest.raises(ValueError, match=r"scorer = \["):
        composed(f"scorer={scorer}", name="solve")


@pytest.mark.parametrize("override", ["step=-1", "step=1.5", "step=[]", "step=[10,-1]", f"step={2**40}", "seed=-1"])
def test_numbers_of_an_evaluation_are_refused_when_composed(override):
    with pytest.raises(ValueError, match=f"{override.partition('=')[0]} = "):
        composed(override, name="evaluate")


def test_the_sizes_of_a_new_model_are_refused_when_composed():
    for override in ("model.width=0", "model.rope_theta=inf", "model.layers=-1", "model.dtype=float8", "model.heads=3"):
        key, _, value = override.partition("=")
        with pytest.raises(ValueError, match=f"{key} = '?{value}"):
            composed(*(one for one in MODEL if not one.startswith(f"{key}=")), override)


def test_steps_that_grow_beyond_counting_are_cut_by_max_steps():
    recipe = Recipe(iterations=100_000, growth=2.0, steps=40, max_steps=300)
    assert [recipe.steps_of(number) for number in (1, 2, 3, 4, 100_000)] == [40, 80, 160, 300, 300]


# --- the types ----------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Example:
    count: Count = 1
    rate: Positive = 1.0
    decay: Decay = 0.0
    either: Annotated[float, Range(-2, 3)] | None = None
    ways: tuple[Annotated[str, OneOf(("a", "b"))], ...] = ("a",)
    text: str = ""

    def __post_init__(self):
        settings.check(self, "group")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"count": 0}, "group.count = 0: expected a positive integer"),
        ({"count": 2**31}, "group.count = 2147483648: expected a positive integer, at most 2147483647"),
        ({"rate": 0.0}, "group.rate = 0.0: expected a positive number"),
        ({"rate": 1e-40}, "group.rate = 1e-40: expected a positive number, at least 1.2e-38"),
        ({"rate": 1e13}, "group.rate = 10000000000000.0: expected a positive number, at most 1e+12"),
        ({"decay": 1}, "group.decay = 1: expected a number from 0 up to, not including, 1"),
        ({"either": -3}, "group.either = -3: expected a number from -2 up to 3"),
        ({"ways": ("a", "c")}, "group.ways = ('a', 'c'), in it 'c': choose one of a, b"),
    ],
)
def test_a_refusal_names_key_value_and_what_is_legal(fields, message):
    with pytest.raises(ValueError) as error:
        Example(**fields)
    assert str(error.value) == message


def test_what_is_legal_is_taken_as_it_is():
    example = Example(count=2**31 - 1, rate=2, decay=0.999, either=-2, ways=["b", "a"])
    assert (example.count, example.rate, example.either, example.ways) == (2**31 - 1, 2, -2, ["b", "a"])
    assert Example(either=None, text="anything").either is None
    assert (NoEval().items, PlainLM()) == (0, PlainLM())
    assert LMConfig(vocab=5, width=8, layers=1, heads=2, kv_heads=1, head_size=4, ff=8, window=None).window is None
