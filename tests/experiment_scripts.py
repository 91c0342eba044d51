"""Modules of experiments/, which are no package: each lies beside what it imports, under a name of its own here."""

import importlib.util
import sys
from types import ModuleType

from qstar.paths import ROOT

FOLDER = ROOT / "experiments"
SCRIPTS = sorted(
    file.relative_to(FOLDER).as_posix()
    for file in FOLDER.rglob("*.py")
    if 'if __name__ == "__main__":' in file.read_text(encoding="utf-8")
)
NEIGHBOURS = {file.stem for file in FOLDER.rglob("*.py")}  # names that several folders may have


def load(name: str) -> ModuleType:
    """The module of experiments/NAME.py; its neighbours are those of its folder."""
    file = FOLDER / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"experiments.{name.replace('/', '.')}", file)
    module = importlib.util.module_from_spec(spec)
    kept = {one: sys.modules.pop(one) for one in NEIGHBOURS & sys.modules.keys()}
    sys.path.insert(0, str(file.parent))
    sys.modules[spec.name] = module  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(file.parent))
        for one in NEIGHBOURS & sys.modules.keys():
            del sys.modules[one]
        sys.modules.update(kept)
    return module
