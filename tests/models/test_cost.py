"""FLOPs and bytes by formula against the traced program, every product with its loops, and against XLA's own count.

XLA on CPU counts the body of a loop once, so what it is asked about has one layer and one token a thought, which leaves
no loop; programs with loops are counted as they are traced.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import pytest
import tiny
from jax.extend.core import jaxprs_in_params
from jax.interpreters import partial_eval

from qstar import sharding
from qstar.decoding import cache as decoding_cache
from qstar.methods.adaptive import Adaptive
from qstar.methods.fast_quiet_star import FastQuietStar, teacher_passes
from qstar.methods.helpful import Helpful
from qstar.methods.latro import LaTRO
from qstar.methods.plain_lm import PlainLM
from qstar.methods.protocol import Compares, Models
from qstar.methods.quiet_star import QuietStar
from qstar.methods.rlp import RLP
from qstar.models import cost
from qstar.models.cost import Pass, Work
from qstar.models.lm import REMATS, LMConfig
from qstar.policy import Policy
from qstar.sharding import MeshConfig
from qstar.structs import Batch, Context
from qstar.thoughts.draw import sample
from qstar.training.build import Program
from qstar.training.optim import OptimConfig

LM = dataclasses.replace(tiny.LM, remat="none")
BATCH = tiny.batch(tokens=[[3, 7, 1, 9, 4, 6, 0, 11, 8]], segment=[[1] * 9])
TEACHER = QuietStar(thought_len=4, lookahead=1, mix="hidden")


def products(jaxpr) -> int:
    """FLOPs of the matrix products of a program: two for every multiplication; a loop's body as often as it runs."""
    total = 0
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "dot_general":
            (summed, _), _ = eqn.params["dimension_numbers"]
            total += 2 * eqn.outvars[0].aval.size * math.prod(eqn.invars[0].aval.shape[axis] for axis in summed)
        times = eqn.params.get("length", 1) if eqn.primitive.name == "scan" else 1
        for inner in jaxprs_in_params(eqn.params):
            total += times * products(getattr(inner, "jaxpr", inner))
    return total


def counted(method, lm=LM) -> int:
    """FLOPs of the forward pass of a step, what no output needs left out."""
    model = method.definition(lm)
    teacher = TEACHER.definition(lm)

    def loss(params, other, key):
        models = Models(model.bind(params))
        if isinstance(method, Compares):
            reference = (teacher.bind(other), TEACHER) if method.reference.run else (model.bind(other), method)
            models = Models(model.bind(params), *reference)
        return method.loss(models, BATCH, key)[0]

    other = (teacher if isinstance(method, FastQuietStar) else model).abstract
    key = jax.eval_shape(lambda: jax.random.key(0))
    traced = jax.make_jaxpr(loss)(model.abstract, other, key).jaxpr
    needed, _ = partial_eval.dce_jaxpr(traced, [True])
    return products(needed)


@pytest.mark.parametrize(
    "method",
    [
        PlainLM(),
        QuietStar(thought_len=3, num_thoughts=2, lookahead=2),
        QuietStar(thought_len=3, num_thoughts=2, lookahead=2, think_fraction=0.3),
        QuietStar(thought_len=3, num_thoughts=1, lookahead=2, baseline="base", mixing="none"),
        QuietStar(thought_len=3, num_thoughts=2, lookahead=2, fill="pause"),
        QuietStar(thought_len=3, num_thoughts=2, lookahead=2, fill="shuffled"),
        RLP(thought_len=3, num_thoughts=4, positions=2),
        LaTRO(thought_len=3, num_thoughts=2, lookahead=2, positions=0),
        Adaptive(thought_len=3, num_thoughts=2, lookahead=2),
        Helpful(thought_len=3, num_thoughts=2, lookahead=2),
        FastQuietStar(teacher="runs/teacher"),
        FastQuietStar(teacher="runs/teacher", student="released"),
    ],
    ids=lambda method: f"{type(method).__name__}-{getattr(method, 'fill', '')}-{getattr(method, 'mixing', '')}",
)
def test_the_formula_counts_the_matrix_products_of_the_program(method):
    passes = [dataclasses.replace(one, gradient=False) for one in method.passes(9)]
    if isinstance(method, FastQuietStar):
        passes += teacher_passes(TEACHER, 9)
    # 1 %: the rotary angles, the base logits at positions that are not judged.
    assert cost.flops(LM, passes) == pytest.approx(counted(method), rel=0.01)


def test_a_gradient_counts_twice_its_forward_pass():
    one = Pass(columns=2, keys=5, logits=1)
    lm = dataclasses.replace(LM, width=8, layers=3, heads=4, kv_heads=2, head_size=2, ff=10, vocab=7)
    # Per layer and column: q, k, v, out 8x8 + 8x4 + 8x4 + 8x8, gate, up, down 3 x 8x10; attention 2 x 5 keys x 8.
    forward = 2 * 3 * 2 * (192 + 240 + 80) + 2 * 7 * 8
    assert cost.forward_flops(lm, one) == forward
    assert cost.flops(lm, [one, dataclasses.replace(one, gradient=False)]) == 4 * forward


def test_small_heads_are_counted():
    lm = dataclasses.replace(LM, width=8)
    assert cost.forward_flops(lm, Pass(0, 0, 0, mixing=3)) == 2 * 3 * (16 * 8 + 8 * 8 + 8)
    assert cost.forward_flops(lm, Pass(0, 0, 0, gate=3)) == 2 * 3 * (8 * 8 + 8)


def test_of_frozen_weights_no_gradient_is_counted():
    lm = dataclasses.replace(LM, width=8, layers=3, heads=4, kv_heads=2, head_size=2, ff=10, vocab=7)
    one = Pass(columns=2, keys=5, logits=1)
    # Products with weights twice instead of three times, attention as ever.
    weights, attention = 3 * 2 * 2 * (192 + 240) + 2 * 7 * 8, 3 * 2 * 2 * 80
    assert cost.flops(lm, [one], frozen=True) == 2 * weights + 3 * attention


# --- phases -------------------------------------------------------------------------------------------------------


STEP = QuietStar(thought_len=3, num_thoughts=2, lookahead=2)


@pytest.mark.parametrize("remat", REMATS)
def test_the_phases_add_up_to_the_products_of_a_step_with_its_gradient(remat):
    lm = dataclasses.replace(LM, remat=remat)
    model = STEP.definition(lm)
    gradient = jax.grad(lambda params, key: STEP.loss(Models(model.bind(params)), BATCH, key)[0])
    traced = jax.make_jaxpr(gradient)(model.abstract, jax.eval_shape(lambda: jax.random.key(0))).jaxpr
    needed, _ = partial_eval.dce_jaxpr(traced, [True] * len(traced.outvars))
    found = sum(cost.phases(lm, STEP.passes(9)).values(), Work())
    assert found.flops == pytest.approx(products(needed), rel=0.01)


ONE = LMConfig(vocab=512, width=64, layers=1, heads=4, kv_heads=2, head_size=16, ff=192, remat="none")
ONE_STEP = QuietStar(thought_len=1, num_thoughts=2, lookahead=2, mix="hidden", temperature=0.0)
SHORT = Batch(*(jax.ShapeDtypeStruct((2, 32), kind) for kind in (jnp.int32, bool, jnp.int32, jnp.int32)))


def xla(fn, *arguments) -> Work:
    """What XLA counts of fn(model, batch, *arguments), which must have no loop."""
    model = ONE_STEP.definition(ONE)
    lowered = jax.jit(lambda params, *rest: fn(model.bind(params), *rest)).lower(model.abstract, SHORT, *arguments)
    compiled = lowered.compile()
    assert " while(" not in compiled.as_text()
    counted = compiled.cost_analysis()
    return Work(int(counted["flops"]), int(counted["bytes accessed"]))


def all_columns(model, batch, text):
    x = jnp.zeros((2, 2, 32, 4, 64)) + model.start[None, None, None, None]
    return model.lm.columns(x, batch.position, text, jnp.broadcast_to(batch.mask[:, None], (2, 32, 32)))


def one_token(model, batch, text):
    everywhere = jnp.broadcast_to(jnp.arange(32)[None], (2, 32))
    key = jax.random.key(0)
    return sample(model, Context(text, batch, everywhere), key, thought_len=1, num_thoughts=2, temperature=0.0)


def test_every_phase_is_what_xla_counts_of_it():
    model = ONE_STEP.definition(ONE)
    text = jax.eval_shape(lambda params, batch: model.bind(params).lm.text(batch), model.abstract, SHORT)
    account = cost.phases(ONE, ONE_STEP.passes(32), rows=2)
    vocabulary = {"text": 2 * 31, "sampling": 2 * 32 * 2}
    logits = {name: cost.phases(ONE, [Pass(0, 0, count)])["vocabulary"] for name, count in vocabulary.items()}
    programs = {
        "text": (lambda model, batch, text: model.lm.text(batch), account["text"]),
        "columns": (all_columns, account["columns"]),
        "sampling": (one_token, account["sampling"] + logits["sampling"]),
        "vocabulary": (lambda model, batch, text: model.lm.next_logprobs(text, batch.tokens), logits["text"]),
    }
    for name, (program, formula) in programs.items():
        found = xla(program, text)
        # XLA counts an operation for every element of norms, softmax and rotations besides.
        assert formula.flops == pytest.approx(found.flops, rel=0.06), name
        # What it fuses decides how often an intermediate result moves.
        assert formula.bytes == pytest.approx(found.bytes, rel=0.15), name


def test_a_teacher_of_any_method_thinks_once_before_every_token():
    one = QuietStar(thought_len=3, num_thoughts=1, lookahead=1, baseline="base", mixing="none", mix="hidden", beta=0.0)
    assert teacher_passes(RLP(thought_len=3), 9) == teacher_passes(one, 9)
    gated = teacher_passes(Adaptive(thought_len=3), 9)
    assert (gated[0].gate, gated[1].thoughts, gated[2].thoughts) == (8, 8, 8)
    assert not any(each.gradient for each in gated)


def test_a_student_s_step_counts_what_its_teacher_thinks():
    student, teacher = FastQuietStar(teacher="runs/teacher"), TEACHER.definition(LM)
    other = Policy(TEACHER, teacher, {}, None, "teacher")
    mesh = sharding.make_mesh(MeshConfig())
    program = Program.of(student, LM, mesh, OptimConfig(), 10, 1, other=other)
    assert program.passes(9) == (*student.passes(9), *teacher_passes(TEACHER, 9))
    assert Program.of(PlainLM(), LM, mesh, OptimConfig(), 10, 1).passes(9) == PlainLM().passes(9)


@pytest.mark.parametrize("samples", [1, 3])
def test_an_answer_is_the_sum_of_its_columns_and_keeps_the_keys_that_decoding_keeps(samples):
    prompt, tokens = 5, 4
    found = cost.answer(LM, prompt, tokens, samples)
    columns = [Pass(1, prompt + number, 1, gradient=False) for number in range(tokens)]
    assert found.flops == cost.flops(LM, [Pass(prompt - 1, prompt - 1, 0, gradient=False), *columns * samples])
    assert found.read == samples * sum(cost.cache_bytes(LM, one.keys) for one in columns)

    definition, params = tiny.thinker_of(LM)

    def held(params):
        """Of the prompt but for its last token, and of that and what is written but for the newest."""
        lm, read = definition.bind(params).lm, tiny.batch(tokens=[[3, 7, 1, 9]], segment=[[1] * 4])
        return decoding_cache.read(lm, read, jnp.array([4]))[0].layers, decoding_cache.room(lm, 1, samples, tokens)

    kept = jax.tree.leaves(jax.eval_shape(held, params))
    assert found.cache == sum(leaf.size * leaf.dtype.itemsize for leaf in kept)


def test_attention_doubles_its_share_of_an_answer_that_is_twice_as_long():
    long, longer = (cost.answer(LM, 1, 10**6 * times) for times in (1, 2))
    assert longer.attention / long.attention == pytest.approx(4, rel=1e-5)  # but for ten tokens of a million
    assert longer.products / long.products == pytest.approx(2, rel=1e-5)
    with pytest.raises(ValueError, match="prompt = 0, tokens = 3"):
        cost.answer(LM, 0, 3)
