"""jax's check that a random key is used once, without its price where there are no keys.

With `jax_debug_key_reuse` every operation outside jit and every call of a jitted function takes a way through Python:
ten times as long, also for arrays without keys, which are nearly all. Here a call with no key among its arguments,
constants and results goes jax's usual way. What is traced is checked in any case.
"""

import jax

KNOWN = jax.version.__version_info__[:2] == (0, 10)  # the names below are not public
if KNOWN:
    from jax._src import config, pjit
    from jax._src.random.prng import PRNGKeyArray
    from jax.experimental.key_reuse import _core as checks

    call_checked, run_checked = checks.call_impl_with_key_reuse_checks, pjit._run_python_pjit


def check() -> None:
    """Check keys from now on."""
    jax.config.update("jax_debug_key_reuse", True)
    if KNOWN:
        checks.call_impl_with_key_reuse_checks, pjit._run_python_pjit = _call, _run


def _call(primitive, implementation, /, *args, **settings):
    """An operation outside jit."""
    consts = settings["jaxpr"].consts if primitive is pjit.jit_p else ()
    if _keys((*args, *consts)):
        return call_checked(primitive, implementation, *args, **settings)
    returned = implementation(*args, **settings)
    results = returned if primitive.multiple_results else (returned,)
    if _keys(results):
        signature = checks.key_reuse_signature_from_primitive(primitive, *args, **settings)
        signature.update_consumption([*args, *consts], results)
    return returned


def _run(call, *rest):
    """A call of a jitted function for the first time, and every call whose arguments or results are keys."""
    program = call.params["jaxpr"]
    dtypes = (getattr(value, "dtype", None) for value in (*program.in_avals, *program.out_avals))
    if _keys(program.consts) or any(dtype and jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key) for dtype in dtypes):
        return run_checked(call, *rest)
    with config.debug_key_reuse(False):  # the next call with such arguments does not come here
        return run_checked(call, *rest)


def _keys(values) -> bool:
    return any(isinstance(value, PRNGKeyArray) for value in values)
