"""qstar: language models that teach themselves to think, in JAX.

    run = qstar.open("latest")           what a command left: frames, curves, and the model to ask
    qstar.sweep("runs/NAME")             all runs of a folder as one frame
    qstar.compare("runs/a", "runs/b")    settings, results and curves beside each other; paired tests of evaluations
    qstar.load_model("bundled:cups")     a language model, of any kind that qstar-prepare reads
    qstar.read(policy, texts)            texts with the thoughts before every token

These names are imported when they are first used: `import qstar` itself imports nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qstar.policy import Policy
    from qstar.reports.compared import compare
    from qstar.reports.directories import open
    from qstar.reports.interactive import ask, read
    from qstar.reports.sweeps import sweep
    from qstar.runs.load import load_model, load_run

__version__ = "0.1.0"

_HOMES = {
    "Policy": "qstar.policy",
    "ask": "qstar.reports.interactive",
    "compare": "qstar.reports.compared",
    "load_model": "qstar.runs.load",
    "load_run": "qstar.runs.load",
    "open": "qstar.reports.directories",
    "read": "qstar.reports.interactive",
    "sweep": "qstar.reports.sweeps",
}

__all__ = ["Policy", "ask", "compare", "load_model", "load_run", "open", "read", "sweep"]


def __getattr__(name: str) -> Any:
    """The public names, from their homes (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'qstar' has no attribute {name!r}; it has {', '.join(_HOMES)}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted((*globals(), *_HOMES))
