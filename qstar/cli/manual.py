"""What `--help` of a command with a Hydra configuration prints: examples, groups with their choices, every setting.

The meaning of a setting is the comment beside its field, or above it, in the dataclass; that of a choice, the comment
that opens its file. Hydra's own `--help` copies all schemas for every group that it lists: seconds, for what takes a
quarter of one here.
"""

import dataclasses
import functools
import os
import re
import shutil
import string
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import hydra
from omegaconf import DictConfig, OmegaConf

from qstar import overrides, settings
from qstar.paths import CONFIGS
from qstar.settings import OneOf

WIDTH = 100  # columns at most, and where the output is no terminal
NARROW = 80  # columns at least
MEANING = 34  # column where the meaning of a setting begins
LONGEST = 60  # characters of a value
_FIELD = re.compile(r"    (\w+): [^#]*?(?:  # (.*))?$")
_COMMENT = re.compile(r"    # (.*)$")


def asked(arguments: Sequence[str]) -> bool:
    return not {"-h", "--help"}.isdisjoint(arguments)


def show(name: str, arguments: Sequence[str]) -> None:
    """Print the help of the command whose configuration is `configs/NAME.yaml`, with these overrides.

    Exits with status 1 where they do not compose.
    """
    given = [argument for argument in arguments if not argument.startswith("-")]
    try:
        print(text(name, given), flush=True)
    except overrides.ERRORS as error:
        print(overrides.explained(name, given, error), file=sys.stderr)
        raise SystemExit(1) from None
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nothing more is written at the end
        raise SystemExit(1) from None


def text(name: str, given: Sequence[str]) -> str:
    """Raises hydra's and OmegaConf's errors where the overrides do not compose."""
    with hydra.initialize_config_dir(CONFIGS, version_base="1.3"):
        cfg = hydra.compose(name, list(given), return_hydra_config=True)
    template = string.Template(cfg.hydra.help.template)
    picked = {group: option for group, option in cfg.hydra.runtime.choices.items() if not group.startswith("hydra/")}
    OmegaConf.set_struct(cfg, False)
    del cfg.hydra
    groups = "\n".join(line for group in sorted(picked) for line in _group(name, group, picked[group]))
    shown = template.substitute(APP_CONFIG_GROUPS=groups + "\n", CONFIG="\n".join(_settings(cfg)))
    return "\n".join(part for line in shown.split("\n") for part in _folded(line))


def _width() -> int:
    """Of the terminal, as far as the help fits into it."""
    return max(NARROW, min(WIDTH, shutil.get_terminal_size((WIDTH, 24)).columns))


def _folded(line: str) -> list[str]:
    """A line of text wrapped; an example with what it does below it; a command, which is to be pasted, as it is."""
    width = _width()
    if len(line) <= width:
        return [line]
    example = re.fullmatch(r"( *\S.*?) {2,}(\S.*)", line)
    if example:
        return [example[1], *textwrap.wrap(example[2], width, initial_indent=" " * 6, subsequent_indent=" " * 6)]
    return [line] if line.startswith(" ") else textwrap.wrap(line, width)


# --- groups -------------------------------------------------------------------------------------------------------


def _group(name: str, group: str, picked: str | None) -> Iterator[str]:
    yield f"  {group}"
    for option, file in overrides.choices(name, group).items():
        yield from _entry(f"{'*' if option == picked else ' '} {option}", _opening(file))


def _opening(file: Path) -> str:
    """The comment that opens a file: of a recipe, its first entry."""
    lines = []
    for line in file.read_text(encoding="utf-8").splitlines():
        if line.startswith("# @package") or re.match(r"# Program  ", line):
            continue
        entry = re.match(r"# (?:Claim|What it is)  +(.*)", line)
        if not line.startswith("# ") or (lines and re.match(r"# \w[\w ]*  +", line)):
            break
        lines.append(entry[1] if entry else line.removeprefix("# ").strip())
    return _sentence(" ".join(lines))


def _sentence(text: str) -> str:
    """The first sentence, where more would not fit into three lines."""
    first = re.match(r".*?\.(?= [A-Z])", text)
    return first[0] if first and len(text) > 3 * (_width() - MEANING) else text


# --- settings -----------------------------------------------------------------------------------------------------


def _settings(cfg: DictConfig) -> Iterator[str]:
    """Every setting with its value and meaning: those of the command, then those of each group."""
    nested = [name for name in cfg if isinstance(cfg._get_node(name), DictConfig)]
    yield from _of_schema(cfg, "", [name for name in cfg if name not in nested])
    for group in nested:
        node, schema = cfg[group], OmegaConf.get_type(cfg[group])
        yield ""
        if not dataclasses.is_dataclass(schema):
            yield from _entry(f"  {group}={{}}", meanings(OmegaConf.get_type(cfg)).get(group, ""))
            continue
        yield from _of_group(node, group)


def _of_group(node: DictConfig, key: str) -> Iterator[str]:
    """What a group is, its settings, and those of the groups within it."""
    yield from textwrap.wrap(f"{key}: {_about(OmegaConf.get_type(node))}", _width(), subsequent_indent="  ")
    within = [name for name in node if dataclasses.is_dataclass(OmegaConf.get_type(node, name))]
    yield from _of_schema(node, f"{key}.", [name for name in node if name not in within])
    for name in within:
        yield ""
        yield from _of_group(node[name], f"{key}.{name}")


def _of_schema(node: DictConfig, prefix: str, names: Sequence[str]) -> Iterator[str]:
    schema = OmegaConf.get_type(node)
    comments, rules = meanings(schema), settings.rules(schema)
    values = OmegaConf.to_container(node, resolve=False)
    for name in names:
        rule = rules.get(name)
        legal = f" ({rule})" if rule and isinstance(rule.legal, OneOf) else ""
        yield from _entry(f"  {prefix}{name}={_spelled(values[name])}", comments.get(name, "") + legal)


def _entry(start: str, meaning: str) -> Iterator[str]:
    """Lines of the help: what it is called, and at the right what it means."""
    room = " " * MEANING
    lines = textwrap.wrap(meaning, _width() - MEANING, break_on_hyphens=False) or [""]
    if len(f"  {start}") >= MEANING:
        yield f"  {start}"
    else:
        yield f"{f'  {start}':<{MEANING}}{lines.pop(0)}".rstrip()
    yield from (room + line for line in lines)


def _spelled(value: object) -> str:
    """As an override gives it; a long one is cut."""
    if isinstance(value, list | tuple):
        shown = f"[{','.join(map(_spelled, value))}]"
    elif isinstance(value, dict):
        shown = "{" + ",".join(f"{name}:{_spelled(item)}" for name, item in value.items()) + "}"
    else:
        shown = {None: "null", True: "true", False: "false", "": "''"}.get(value) if not _number(value) else str(value)
        shown = str(value) if shown is None else shown
    shown = shown.replace("\n", "\\n")
    return shown if len(shown) <= LONGEST else f"{shown[: LONGEST - 3]}..."


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


# --- dataclasses --------------------------------------------------------------------------------------------------


def _about(schema: type) -> str:
    """The first sentence of the docstring, which may name a paper by several authors."""
    return re.split(r"(?<=\.)(?<!et al\.)\s", " ".join((schema.__doc__ or schema.__name__).split()), maxsplit=1)[0]


@functools.cache
def meanings(schema: type) -> Mapping[str, str]:
    """What the comments say about the fields of a dataclass, those that it inherits included."""
    comments: dict[str, str] = {}
    for base in reversed(schema.__mro__):
        if dataclasses.is_dataclass(base):
            # A field that is declared again, for another default, keeps what is said of it above.
            comments |= {name: comment for name, comment in _comments(base).items() if comment or name not in comments}
    return comments


def _comments(schema: type) -> dict[str, str]:
    """Of the fields of this class alone, by name: the comment at the end of the line, and the one above it."""
    lines = Path(sys.modules[schema.__module__].__file__).read_text(encoding="utf-8").splitlines()
    start = next(number for number, line in enumerate(lines) if re.match(rf"class {schema.__name__}\b", line))
    comments, above = {}, []
    for line in lines[start + 1 :]:
        if re.match(r"\S|    def |    @", line):
            break
        field, comment = _FIELD.match(line), _COMMENT.match(line)
        if field and field[1] in schema.__annotations__:
            comments[field[1]] = " ".join([*([field[2]] if field[2] else []), *above])
        above = [*above, comment[1]] if comment else []
    return comments
