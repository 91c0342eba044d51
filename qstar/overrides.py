"""What is wrong with the arguments of a command that Hydra composes, in a sentence with the way out.

Used when a configuration does not compose: by then time does not matter, so each argument is tried by itself.
"""

import difflib
import os
import shlex
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import get_origin, get_type_hints

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from qstar import settings
from qstar.paths import CONFIGS, ROOT

# OmegaConf makes a float of an integer of any length.
ERRORS = (HydraException, OmegaConfBaseException, OverflowError)
RECIPES = "experiments"
IMPROVES = "\n# Program     qstar-improve\n"  # in a recipe of self-training
GLOBAL = "# @package _global_\n"  # begins a recipe
LISTED = 4  # suggestions
# What Hydra takes with two dashes.
OPTIONS = frozenset(
    "--help --hydra-help --version --cfg --resolve --package --run --multirun --shell-completion --config-path "
    "--config-name --config-dir --experimental-rerun --info".split()
)
MULTIRUN = ("-m", "--multirun")  # come first: Hydra's parser takes settings on one side of them only


def run(name: str, main: Callable[[], None]) -> None:
    """A Hydra command, which exits with status 1 and a message where its arguments do not compose.

    Args:
        name: of its configuration, `configs/NAME.yaml`.
    """
    dashed = [
        argument for argument in sys.argv[1:] if argument.startswith("--") and argument.partition("=")[0] not in OPTIONS
    ]
    if dashed:
        print(without_dashes(name, dashed[0]), file=sys.stderr)
        raise SystemExit(2)
    sys.argv[1:] = sorted(sys.argv[1:], key=lambda argument: argument not in MULTIRUN)
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # or else Hydra prints its own message and exits
    try:
        main()
    except ERRORS as error:
        GlobalHydra.instance().clear()
        print(explained(name, sys.argv[1:], error), file=sys.stderr)
        raise SystemExit(1) from None


def without_dashes(name: str, argument: str) -> str:
    """What to write instead of `--key` or `--key=value`."""
    key, _, value = argument.removeprefix("--").replace("-", "_").partition("=")
    cfg = _with_groups(name, [])
    known = keys(cfg) if cfg is not None else []
    same = [key] if key in known else [setting for setting in known if setting.rpartition(".")[2] == key]
    meant = _meant(same[:LISTED] or _near(key, known), lambda setting: f"{setting}={value or 'VALUE'}")
    return f"there is no option {argument.partition('=')[0]}; settings are given as key=value, without dashes{meant}"


def explained(name: str, arguments: Sequence[str], error: Exception) -> str:
    """What is wrong with the arguments of the command with this configuration, of which `error` came."""
    parsed = []
    for argument in (argument for argument in arguments if not argument.startswith("-")):
        try:
            parsed += _expanded(OverridesParser.create().parse_override(argument))
        except HydraException:
            return unreadable(argument)
    wrong = [message for message in (_choice(name, override) for override in parsed) if message]
    if not wrong:
        cfg = _with_groups(name, parsed)
        wrong = [message for message in (refusal(cfg, override) for override in parsed if cfg is not None) if message]
    if wrong:
        return "\n".join(wrong) + f"\nAll groups, choices and settings:  qstar-{name} --help"
    cause = f": {error.__cause__}" if error.__cause__ else ""
    return f"{type(error).__name__}: {error}{cause}"


def _expanded(override: Override) -> list[Override]:
    """The values of a sweep, each as an override of its own."""
    if not override.is_sweep_override() or not override.is_discrete_sweep():
        return [override]
    key = override.get_key_element()
    return [OverridesParser.create().parse_override(f"{key}={value}") for value in override.sweep_string_iterator()]


def unreadable(argument: str) -> str:
    """What to write instead of an argument that Hydra's grammar does not take."""
    key, assigned, value = argument.partition("=")
    quoted = value.replace("\\", "\\\\").replace('"', '\\"')
    better = f'{key}="{quoted}"'
    try:
        OverridesParser.create().parse_override(better)
    except HydraException:
        return f"{argument}: expected key=value, +key=value or ~key"
    return (
        f"{argument}: a value with such characters is quoted: {shlex.quote(better)}"
        if assigned
        else (f"{argument}: expected key=value, +key=value or ~key")
    )


# --- groups -------------------------------------------------------------------------------------------------------


def choices(name: str, group: str) -> dict[str, Path]:
    """The options of a group of a command, with their files; `task@eval.task` is the group `task` at another place."""
    if group == RECIPES:
        return recipes(name)
    return {file.stem: file for file in sorted((Path(CONFIGS) / group.partition("@")[0]).glob("*.yaml"))}


def recipes(name: str) -> dict[str, Path]:
    """The whole recipes of a command, by what `experiments=` calls them."""
    by_name = {}
    for file in sorted((ROOT / RECIPES).rglob("*.yaml")):
        text = file.read_text(encoding="utf-8")
        if text.startswith(GLOBAL) and (IMPROVES in text) == (name == "improve"):
            by_name[file.relative_to(ROOT / RECIPES).with_suffix("").as_posix()] = file
    return by_name


def _is_group(key: str) -> bool:
    return key == RECIPES or (Path(CONFIGS) / key).is_dir()


def _choice(name: str, override: Override) -> str:
    """What is wrong with a choice from a group; nothing where that is right, or no choice."""
    group, value = override.key_or_group, override.value()
    if not _is_group(group) or override.is_delete() or not isinstance(value, str):
        return ""
    known = choices(name, group)
    if value.removesuffix(".yaml") in known:
        return ""
    other = {"train": "improve", "improve": "train"}.get(name)
    if group == RECIPES and other and value in recipes(other):
        return f"{group}={value} is of another command: qstar-{other} {group}={value}"
    meant = _meant(_near(value, known), lambda choice: f"{group}={choice}")
    listed = "\n  ".join(["", *known]) if group == RECIPES else " " + ", ".join(known)
    return f"there is no {group}={value}{meant}\n{group} is one of{listed}"


# --- settings -----------------------------------------------------------------------------------------------------


def _with_groups(name: str, parsed: Sequence[Override]) -> DictConfig | None:
    """What the choices from groups compose alone; None where even these do not."""
    groups = list(
        {override.key_or_group: override.input_line for override in parsed if _is_group(override.key_or_group)}.values()
    )
    try:
        with hydra.initialize_config_dir(CONFIGS, version_base="1.3"):
            return hydra.compose(name, groups)
    except ERRORS:
        return None


def refusal(cfg: DictConfig, override: Override) -> str:
    """What is wrong with a single setting; nothing where that is right."""
    key = override.key_or_group
    if _is_group(key) or key.startswith("hydra."):
        return ""
    known, value = keys(cfg), "" if override.is_delete() else override.get_value_element_as_str()
    if key not in known and any(_is_open(cfg, parent) for parent in _parents(key)):
        return "" if override.is_add() or override.is_force_add() else f"{key} is not set so far: give +{key}={value}"
    if key not in known:
        return unknown(key, known, value)
    if override.is_delete() or override.is_sweep_override():
        return ""
    try:
        OmegaConf.update(cfg.copy(), key, override.value())
    except (OmegaConfBaseException, OverflowError) as error:
        expected = _expected(cfg, key, value) or str(error).splitlines()[0]
        return f"{key} = {settings.cut(override.get_value_element_as_str())}: {expected}"
    return ""


def unknown(key: str, known: Iterable[str], value: str = "") -> str:
    """That there is no such setting, and which may have been meant."""
    there = list(known)
    parent, _, last = key.rpartition(".")
    beside = {setting.rpartition(".")[2]: setting for setting in there if setting.rpartition(".")[0] == parent}
    elsewhere = [setting for setting in there if setting.rpartition(".")[2] == last]
    near = elsewhere or [beside[name] for name in _near(last, beside)] or ([] if parent in there else _near(key, there))
    meant = _meant(near, lambda setting: f"{setting}={value}" if value else setting)
    has = f"{parent} has" if parent in there else "the settings are" if not parent else ""
    listed = f"; {has} {', '.join(beside)}" if has and not meant else ""
    return f"there is no setting {key}{meant}{listed}"


def _near(text: str, known: Iterable[str]) -> list[str]:
    """The names that a typing error may have turned into this text; the last part of a path may be all of it."""
    there = list(known)
    best = difflib.get_close_matches(text, there, LISTED, 0.7)
    if not best:
        short = {name.rpartition("/")[2]: name for name in there}
        best = [short[name] for name in difflib.get_close_matches(text.rpartition("/")[2], short, LISTED, 0.7)]
    rate = difflib.SequenceMatcher(None, text, best[0]).ratio() if best else 0.0
    return [name for name in best if difflib.SequenceMatcher(None, text, name).ratio() > rate - 0.05]


def _meant(near: Sequence[str], spelled: Callable[[str], str]) -> str:
    return f": did you mean {_or([spelled(name) for name in near])}?" if near else ""


def _or(options: Sequence[str]) -> str:
    return " or ".join([", ".join(options[:-1]), options[-1]] if options[1:] else options)


def keys(cfg: DictConfig, prefix: str = "") -> list[str]:
    """All settings of a configuration, dotted."""
    dotted = []
    for name in cfg:
        child = cfg._get_node(name)
        dotted.append(f"{prefix}{name}")
        if isinstance(child, DictConfig) and not child._is_none() and not child._is_missing():
            dotted += keys(child, f"{prefix}{name}.")
    return dotted


def _parents(key: str) -> list[str]:
    parts = key.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts))]


def _is_open(cfg: DictConfig, key: str) -> bool:
    """Whether the node at a key is a plain dictionary, which takes any setting."""
    node = OmegaConf.select(cfg, key, throw_on_missing=False)
    return isinstance(node, DictConfig) and OmegaConf.get_type(node) is dict


def _expected(cfg: DictConfig, key: str, value: str) -> str:
    """What is legal for a setting, in words, where its type says so; a list of texts with the one that was given."""
    parent, _, name = key.rpartition(".")
    schema = OmegaConf.get_type(OmegaConf.select(cfg, parent) if parent else cfg)
    rule = settings.rules(schema).get(name) if isinstance(schema, type) and schema is not dict else None
    if rule is not None:
        return f"expected {'a list, each ' if rule.many else ''}{rule}"
    if isinstance(schema, type) and get_origin(get_type_hints(schema).get(name)) is tuple:
        return f"expected a list: {shlex.quote(f'{key}=[{value}]')}"
    node = OmegaConf.select(cfg, key)
    return "expected true or false" if isinstance(node, bool) else ""
