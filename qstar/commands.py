"""The console scripts.

What a command imports stays until it ends. The garbage collector would search it again and again while it is loaded,
a fifth of that time, and once more at the end.
"""

import gc
import importlib
import os
import sys
from functools import partial

SHORT = ("compare", "prepare")  # commands that soon say something themselves
RANKS = ("JAX_PROCESS_ID", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK")  # of the processes that are started together


def _run(module: str) -> None:
    if module not in SHORT and {"-h", "--help"}.isdisjoint(sys.argv[1:]) and _first():
        print(f"qstar-{module}: starting", file=sys.stderr, flush=True)  # the imports take seconds
    gc.disable()
    main = importlib.import_module(f"qstar.{module}").main
    gc.freeze()
    gc.enable()
    main()


def _first() -> bool:
    return all(os.environ.get(name, "0") == "0" for name in RANKS)


train = partial(_run, "train")
evaluate = partial(_run, "evaluate")
compare = partial(_run, "compare")
think = partial(_run, "think")
improve = partial(_run, "improve")
prepare = partial(_run, "prepare")
