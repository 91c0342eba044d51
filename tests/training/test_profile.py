"""A compiled program is read: products by their kind, with their FLOPs; times of operations are added up."""

import jax
import jax.numpy as jnp
import pytest

from qstar.training import profile


def test_products_are_found_by_kind_with_their_flops():
    def model(x, weight, table):
        x = jnp.tanh(x @ weight)
        scores = jnp.einsum("bqd,bkd->bqk", x.reshape(4, 24, 48), x.reshape(4, 24, 48))
        return scores.sum(), x @ table

    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((96, 64), (64, 48), (48, 300))]
    hlo = jax.jit(model).lower(*shapes).compile().as_text()
    found = {op.kind: op.flops for op in profile.operations(hlo, vocab=300).values() if op.flops}
    assert found == {
        "products with weights": 2 * 96 * 64 * 48,
        "products of attention": 2 * 4 * 24 * 24 * 48,
        "products with the output layer": 2 * 96 * 48 * 300,
    }


def test_a_product_by_cublas_is_a_product():
    hlo = """ENTRY %main (a: bf16[96,64], b: bf16[64,48]) -> bf16[96,48] {
  %a = bf16[96,64]{1,0} parameter(0)
  %b = bf16[64,48]{1,0} parameter(1)
  %custom-call.5.0 = (bf16[96,48]{1,0}, s8[4194304]{0}) custom-call(%a, %b), custom_call_target="__cublas$gemm", \
backend_config={"gemm_backend_config":{"dot_dimension_numbers":{"lhs_contracting_dimensions":["1"],\
"rhs_contracting_dimensions":["0"],"lhs_batch_dimensions":[],"rhs_batch_dimensions":[]}}}
}"""
    op = profile.operations(hlo, vocab=300)["custom-call.5.0"]
    assert (op.kind, op.flops) == ("products with weights", 2 * 96 * 64 * 48)


def test_what_runs_at_once_shares_the_time():
    edges = [(0, True, "a"), (4, False, "a"), (2, True, "b"), (6, False, "b"), (9, True, "a"), (10, False, "a")]
    taken, times = profile.shared(edges)
    assert taken == {"a": 2 + 1 + 1, "b": 1 + 2}
    assert times == {"a": 2, "b": 1}


def test_a_run_that_is_listed_twice_is_one():
    listed = [(0, True, "a"), (3, False, "a"), (1, True, "a"), (4, False, "a"), (4, True, "a"), (6, False, "a")]
    assert profile.shared(listed) == ({"a": 6}, {"a": 2})


def test_a_profile_of_a_call_names_the_operations_of_its_program():
    run = jax.jit(lambda x: jnp.tanh(x @ x) @ x)
    x = jnp.ones((256, 256))
    compiled = run.lower(x).compile()
    ops = profile.operations(compiled.as_text(), vocab=1)
    taken, times = profile.profiled(lambda: compiled(x))
    kinds = profile.by_kind(ops, taken)
    assert sum(times[name] for name in times if ops[name].flops) == 2
    assert list(kinds.values()) == sorted(kinds.values(), reverse=True)
    assert kinds["products with weights"] > 0
    assert sum(kinds.values()) == pytest.approx(sum(taken.values()))
