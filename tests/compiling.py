"""XLA's flags of the tests: what the user gave, and what compiles quickly."""

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
