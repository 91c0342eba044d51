"""Who may import whom: the layers, and the one home of every third party, read off the source."""

import ast
import functools
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent / "qstar"

# What a package of qstar may import of qstar, besides `typing`, `structs`, `settings`, `ranks`, itself.
MAY_IMPORT = {
    "ops": {"sharding"},
    "models": {"ops", "sharding"},
    "tasks": {"files"},
    "data": {"tasks", "paths", "files"},
    "thoughts": {"decoding", "models", "ops", "sharding"},
    "decoding": {"models", "ops", "sharding"},
    "search": {"ops"},
    "methods": {"thoughts", "decoding", "search", "models", "ops", "tasks", "data", "sharding"},
    "policy": {"data", "methods", "models", "sharding"},
    "training": {
        "policy",
        "methods",
        "models",
        "data",
        "tasks",
        "search",
        "decoding",
        "ops",
        "sharding",
        "paths",
        "files",
    },
    "recipes": {"data", "tasks", "methods"},
    "evals": {
        "policy",
        "files",
        "methods",
        "thoughts",
        "decoding",
        "models",
        "data",
        "tasks",
        "search",
        "ops",
        "sharding",
    },
    "settings": set(),
    "ranks": set(),
    "typing": set(),
    "structs": set(),
    "sharding": set(),
    "paths": set(),
    "files": set(),
}
# Modules that put the packages together: configuration, runs and entry points, which no package imports.
TOP = {
    "advice",
    "cli",
    "config",
    "evaluate",
    "improve",
    "label",
    "overrides",
    "prepare",
    "processes",
    "report",
    "reports",
    "runs",
    "solve",
    "think",
    "train",
}

# Where Hydra is: configuration, its help, and the commands.
ENTRIES = {
    "config.py",
    "advice.py",
    "cli/manual.py",
    "overrides.py",
    *(f"{name}.py" for name in ("cli/entry", "train", "evaluate", "improve", "label", "solve")),
}
ENTRIES |= {"think.py", "prepare.py"}

# Third parties with one home: the packages or files that may import them.
HOMES = {
    "hydra": ENTRIES,
    "omegaconf": ENTRIES,
    "flax.nnx": {"models"},
    "tensorflow_datasets": {"data"},
    "grain": {"data", "training/sources.py"},  # where a position of its iterators is asked for
    "orbax": {"training/checkpoint.py", "processes.py"},  # where jax's coordinator is asked for
    "tensorboardX": {"training/metrics.py"},
    "wandb": {"training/metrics.py"},
    "safetensors": {f"models/formats/{name}.py" for name in ("weights", "hf", "peft")},
    "gguf": {"models/formats/gguf.py"},
    "reasoning_gym": {"tasks/gym.py"},
    "sympy": {"tasks/grading/symbolic.py"},
    "tokenizers": {"data/tokenizer.py", "data/marks.py", "data/backend.py"},
    "pyarrow": {"evals/journal.py", "data/rationales.py", "data/record_files.py", "reports/arrow.py"},
    "beartype": {"typing.py"},
    "jaxtyping": {"typing.py"},
    "lm_eval": {"cli/harness_command.py"},
    "jinja2": {"data/chat.py"},
}

# Arithmetic sees arrays and its arguments: no files, no loggers, no clock, no configuration.
NUMERIC = (
    "ops",
    "thoughts",
    "decoding",
    "search",
    "methods",
    "models/definition",
    "models/lm",
    "models/lora",
    "models/thinker",
)
NUMERIC_MAY_IMPORT = {
    "jax", "flax", "numpy", "optax", "qstar", "bisect", "collections", "dataclasses", "functools", "itertools", "math",
    "typing",
}  # fmt: skip


def imports(source):
    """Full names that a source imports anywhere in it: `from a import b` gives a.b."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@functools.cache  # every module is read once
def modules():
    """(path below qstar/, imported names) of every module."""
    found = {path.relative_to(ROOT).as_posix(): imports(path.read_text()) for path in ROOT.rglob("*.py")}
    assert len(found) > 30
    return found


def is_of(name, package):
    return name == package or name.startswith(package + ".")


def layer(path):
    """The package of a module below qstar/, or its name where it lies at the top."""
    return path.split("/")[0].removesuffix(".py")


def test_imports_are_found_wherever_they_stand():
    source = "import os.path\nfrom a.b import c as d, e\ndef f():\n    import g\n    from h import i\n"
    assert imports(source) == {"os.path", "a.b.c", "a.b.e", "g", "h.i"}


def test_every_module_has_a_layer():
    assert {layer(path) for path in modules()} - set(MAY_IMPORT) - TOP == {"__init__"}


def test_packages_import_downwards_only():
    wrong = []
    for path, names in modules().items():
        if layer(path) in TOP | {"__init__"}:
            continue
        allowed = MAY_IMPORT[layer(path)] | {"ranks", "settings", "typing", "structs", "files", layer(path)}
        wrong += [f"{path}: {name}" for name in names if is_of(name, "qstar") and name.split(".")[1] not in allowed]
    assert wrong == []


def test_the_layers_have_no_cycle():
    below = dict(MAY_IMPORT)
    while below:
        free = [name for name, needs in below.items() if not needs & below.keys()]
        assert free, f"a cycle among {sorted(below)}"
        for name in free:
            del below[name]


@pytest.mark.parametrize("party", HOMES)
def test_a_third_party_is_imported_at_home_only(party):
    strangers = [
        path
        for path, names in modules().items()
        if any(is_of(name, party) for name in names) and not HOMES[party] & {path, layer(path)}
    ]
    assert strangers == []


def test_arithmetic_imports_no_files_loggers_or_clocks():
    wrong = [
        f"{path}: {name}"
        for path, names in modules().items()
        if path.removesuffix(".py").startswith(NUMERIC)
        for name in names
        if name.split(".")[0] not in NUMERIC_MAY_IMPORT
    ]
    assert wrong == []


def test_nothing_imports_tensorflow_or_torch():
    wrong = [
        path for path, names in modules().items() if any(is_of(n, p) for n in names for p in ("tensorflow", "torch"))
    ]
    assert wrong == [
        "models/formats/exported/modeling_qstar.py"
    ]  # which is written beside exported weights, for transformers


def test_nothing_imports_the_code_that_is_written_beside_exported_weights():
    assert [path for path, names in modules().items() if any("modeling_qstar" in name for name in names)] == []


def test_checked_classes_are_not_pytrees():
    """`@typed` on a flax dataclass breaks tree_map, scan and grad, which rebuild it with leaves that are no arrays."""
    for path in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                assert "typed" not in [ast.unparse(d) for d in node.decorator_list], f"{path.name}: {node.name}"


COMMANDS = {"train", "evaluate", "improve", "label", "think", "prepare", "report", "solve"}


def test_few_modules_lie_on_the_top_level_beside_the_commands():
    top = {path.stem for path in ROOT.glob("*.py")} - COMMANDS - {"__init__"}
    assert len(top) <= 12, sorted(top)


def test_no_two_modules_have_the_same_name():
    """But for a command and the module of `runs` that it calls."""
    called = {ROOT / "runs" / f"{command}.py" for command in COMMANDS}
    names = [path.stem for path in ROOT.rglob("*.py") if path.stem != "__init__" and path not in called]
    assert sorted(name for name in set(names) if names.count(name) > 1) == []


def test_no_module_imports_itself_over_others():
    names = {path.removesuffix(".py").removesuffix("/__init__").replace("/", "."): path for path in modules()}
    of_path = {path: found for path, found in modules().items()}

    def imported(name: str) -> set[str]:
        """The modules that this one imports, at the top or in a function."""
        whole = {found.removeprefix("qstar.") for found in of_path[names[name]] if is_of(found, "qstar")}
        return {one if one in names else one.rpartition(".")[0] for one in whole} & names.keys() - {name}

    def reached(name: str) -> set[str]:
        seen, waiting = set(), [name]
        while waiting:
            new = imported(waiting.pop()) - seen
            seen |= new
            waiting += new
        return seen

    assert [name for name in names if name in reached(name)] == []


def test_every_name_is_defined():
    """ruff's F821, which the project's settings leave out: a shape such as "B" reads like a name that is none."""
    repository = ROOT.parent
    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--no-cache", "--select", "F821", "--output-format"]
    done = subprocess.run(
        [*command, "json", "qstar", "tests", "experiments"], cwd=repository, capture_output=True, text=True
    )
    undefined = [
        f"{Path(found['filename']).relative_to(repository)}:{found['location']['row']}: {found['message']}"
        for found in json.loads(done.stdout)
    ]
    assert [line for line in undefined if not re.search(r"`(.|_)`$", line)] == []
