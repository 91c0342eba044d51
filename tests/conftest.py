import gc
import os
import sys
import tempfile

import compiling
import jax
import key_reuse
import pytest

from qstar.training import machine

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
key_reuse.check()
compiling.share_contexts()
# In the environment too: what this process compiled is read by the commands that tests start, and the other way round.
CACHE = os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", os.path.join(tempfile.gettempdir(), "qstar-test-cache"))
jax.config.update("jax_compilation_cache_dir", CACHE)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)  # what is smaller is read no sooner than compiled
# Tracing allocates by the hundred thousand what is kept: searched as often as by default, that is a tenth of the time.
gc.set_threshold(20_000, 10, 10)


# As in an active environment, where a printed command is its bare name.
os.environ["PATH"] = f"{os.path.dirname(sys.executable)}{os.pathsep}{os.environ['PATH']}"


def pytest_configure(config):
    os.environ.pop("COLUMNS", None)  # pytest-xdist sets it, and tables would be folded
    if config.option.markexpr == "not slow":
        os.environ["XLA_FLAGS"] = compiling.xla_flags()
    given = os.environ.get("PJRT_NPROC")
    machine.share_threads()
    jax.devices()
    if given is None:
        del os.environ["PJRT_NPROC"]  # not for the processes that tests start


@pytest.hookimpl(trylast=True)
def pytest_collection_finish(session):
    gc.collect()
    gc.freeze()  # the libraries, which stay: not searched again


@pytest.fixture
def x64():
    """float64 for the duration of a test: equalities that hold exactly are tested exactly."""
    with jax.enable_x64(True):
        yield
