"""The console scripts.

What a command imports stays until it ends. The garbage collector would search it again and again while it is loaded,
a fifth of that time, and once more at the end.
"""

import gc
import importlib
import sys
from functools import partial

from qstar import ranks
from qstar.training import signals

SHORT = ("compare", "prepare")  # commands that soon say something themselves
QUIET = {"-h", "--help", "-sc", "--shell-completion"}  # where a line more would be in the way


def _run(module: str) -> None:
    signals.install()  # before the imports, which take seconds and cannot be interrupted by an exception
    if module not in SHORT and QUIET.isdisjoint(sys.argv[1:]) and ranks.first():
        print(f"qstar-{module}: starting", file=sys.stderr, flush=True)  # the imports take seconds
    gc.disable()
    # `qstar.compare` is a function of the library.
    main = importlib.import_module("qstar.cli.compare" if module == "compare" else f"qstar.{module}").main
    gc.freeze()
    gc.enable()
    main()


train = partial(_run, "train")
evaluate = partial(_run, "evaluate")
compare = partial(_run, "compare")
think = partial(_run, "think")
improve = partial(_run, "improve")
label = partial(_run, "label")
prepare = partial(_run, "prepare")
report = partial(_run, "report")
solve = partial(_run, "solve")
