"""A random key that is used twice is noticed in every test, wherever it is used."""

import jax
import jax.numpy as jnp
import pytest
from jax.errors import KeyReuseError


@pytest.fixture
def key():
    return jax.random.key(0)


def normal(key):
    return jax.random.normal(key, (2,))


def test_outside_jit(key):
    normal(key)
    with pytest.raises(KeyReuseError):
        normal(key)


def test_within_a_jitted_function(key):
    with pytest.raises(KeyReuseError):
        jax.jit(lambda key: normal(key) + normal(key))(key)


def test_within_a_jitted_function_without_keys_outside():
    @jax.jit
    def twice(seed):
        key = jax.random.key(seed)
        return normal(key) + normal(key)

    with pytest.raises(KeyReuseError):
        twice(0)


def test_by_two_calls_of_jitted_functions(key):
    jitted = jax.jit(normal)
    jitted(key)
    with pytest.raises(KeyReuseError):
        jitted(key)


def test_by_a_call_after_the_key_was_split(key):
    first, _ = jax.random.split(key)
    normal(first)
    with pytest.raises(KeyReuseError):
        jax.jit(normal)(key)


def test_of_a_jitted_function_that_keeps_a_key(key):
    jitted = jax.jit(lambda x: x + normal(key))
    jitted(jnp.zeros(2))
    with pytest.raises(KeyReuseError):
        normal(key)


def test_of_a_key_that_a_jitted_function_makes_and_uses():
    @jax.jit
    def made(seed):
        key = jax.random.key(seed)
        return normal(key), key

    _, key = made(0)
    with pytest.raises(KeyReuseError):
        normal(key)


def test_of_a_key_that_is_made_after_calls_without_keys(key):
    add = jax.jit(lambda x: x + 1)
    add(add(jnp.zeros(2)))
    normal(jax.random.fold_in(key, 1))
    normal(key)
    with pytest.raises(KeyReuseError):
        normal(key)


def test_in_the_body_of_a_loop(key):
    with pytest.raises(KeyReuseError):
        jax.lax.fori_loop(0, 2, lambda _, total: total + normal(key), jnp.zeros(2))
