"""What makes compiling quick in the tests: XLA's flags, and one context for the programs that are written for XLA."""

import itertools
import os

import jax

# Tiny programs run for milliseconds and compile for seconds: without these passes a Quiet-STaR step compiles in 1.5
# seconds of a core, with them in 14; cut in pieces for several threads they take a fifth more. Flags unknown to another
# version end the process, hence the check. `QSTAR_TEST_QUICK_COMPILE=0` leaves them out: the programs are then those
# that a user runs, with all passes. Flags in `XLA_FLAGS` are kept and come first where both name one. One compilation
# cache serves all of these runs: jax's key of a program holds the flags.
#
# Another instruction set is `XLA_FLAGS=--xla_cpu_max_isa=AVX2`. Together with these flags it changes next to nothing:
# nothing is vectorised without optimisation. With QSTAR_TEST_QUICK_COMPILE=0 it does; products of matrices are a
# library's in both, which looks at the processor and not at the flag.
QUICK_TO_COMPILE = (
    "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
)


def xla_flags() -> str:
    """`XLA_FLAGS` of tests: what the user gave, and what compiles quickly unless that is switched off."""
    given = os.environ.get("XLA_FLAGS", "").split()
    if os.environ.get("QSTAR_TEST_QUICK_COMPILE", "1") == "0" or jax.version.__version_info__ >= (0, 11):
        return " ".join(given)
    names = {flag.partition("=")[0] for flag in given}
    return " ".join([*given, *(flag for flag in QUICK_TO_COMPILE.split() if flag.partition("=")[0] not in names)])


LOWERINGS_A_CONTEXT = 200  # what programs write into a context stays there


def share_contexts() -> None:
    """Lower several programs in one MLIR context: a new one takes five milliseconds, a third of compiling a sum."""
    if jax.version.__version_info__[:2] != (0, 10):  # the name below is not public
        return
    from jax._src.interpreters import mlir

    make, count, newest = mlir.make_ir_context, itertools.count(), []

    def shared():
        if next(count) % LOWERINGS_A_CONTEXT == 0:
            newest[:] = [make()]
        return newest[0]

    mlir.make_ir_context = shared
