"""What a setting may be: types for the fields of configurations, and the check that every configuration makes.

    lr: Positive = 1e-6
    fill: Annotated[str, OneOf(FILLS)] = "sampled"

The annotation is the one place that says what is legal. `check` holds a configuration to it when it is made, whether
Hydra or Python made it; `rules` hands it to the help of the commands. OmegaConf sees the plain type.
"""

import dataclasses
import functools
import math
import numbers
import types
from collections.abc import Collection, Mapping
from typing import Annotated, ClassVar, Protocol, Union, get_args, get_origin, get_type_hints

INT32, UINT32 = 2**31 - 1, 2**32 - 1
LARGEST = 1e12  # of a number: the product of three such numbers is finite in float32
SHOWN = 200  # characters of a value in a message
SMALLEST = 2.0**-126  # of a number that may not be zero: what is smaller is zero on most devices


class Dataclass(Protocol):
    """Any dataclass."""

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field]]


@dataclasses.dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, without these where they are open; None: as far as the type goes."""

    low: float | None = None
    high: float | None = None
    open_low: bool = False
    open_high: bool = False

    def holds(self, value: numbers.Real, kind: type) -> bool:
        low, high = self._limits(kind)
        return (
            _is_finite(value)
            and (value > low if self.open_low else value >= low)
            and (value < high if self.open_high else value <= high)
            and not (self.open_low and low == 0 and value < SMALLEST)
        )

    def advice(self, kind: type, value: object = None) -> str:
        """What was expected; the limit of the type is named where the value is beyond it."""
        expected = f"expected {self.words(kind)}"
        low, high = self._limits(kind)
        if not isinstance(value, numbers.Real) or isinstance(value, bool) or value != value:  # NaN
            return expected
        if value > high and self.high is None:
            return f"{expected}, at most {high:.12g}" if kind is int else f"{expected}, at most {high:g}"
        if value < low and self.low is None:
            return f"{expected}, at least {low:.12g}" if kind is int else f"{expected}, at least {low:g}"
        return f"{expected}, at least {SMALLEST:.2g}" if low < value < SMALLEST else expected

    def _limits(self, kind: type) -> tuple[float, float]:
        widest = INT32 if kind is int else LARGEST
        return (-widest if self.low is None else self.low), (widest if self.high is None else self.high)

    def words(self, kind: type) -> str:
        """The range in words."""
        noun = "an integer" if kind is int else "a number"
        if self.low is None and self.high is None:
            return noun
        if self.high is None:
            positive = "a positive integer" if kind is int else "a positive number"
            if self.low == 0:
                return positive if self.open_low else f"0 or {positive}"
            if self.low == 1 and kind is int:
                return positive
            return f"{noun} above {self.low:g}" if self.open_low else f"{noun} of at least {self.low:g}"
        start = f"above {self.low:g}" if self.open_low else f"from {self.low:g}"
        end = f"to, not including, {self.high:.12g}" if self.open_high else f"to {self.high:.12g}"
        return f"{noun} {start} up {end}"


def _is_finite(value: numbers.Real) -> bool:
    return isinstance(value, int) or math.isfinite(value)  # which takes no integer beyond the largest float


@dataclasses.dataclass(frozen=True)
class OneOf:
    """Texts to choose from."""

    choices: Collection[str]

    def holds(self, value: str, kind: type) -> bool:
        return value in self.choices

    def advice(self, kind: type, value: object = None) -> str:
        return f"choose {self.words(kind)}"

    def words(self, kind: type) -> str:
        return f"one of {', '.join(self.choices)}"


Seed = Annotated[int, Range(0, UINT32)]
Count = Annotated[int, Range(1)]
Whole = Annotated[int, Range(0)]  # a count, or none
Real = Annotated[float, Range()]
Positive = Annotated[float, Range(0, open_low=True)]
NonNegative = Annotated[float, Range(0)]
Share = Annotated[float, Range(0, 1)]
PositiveShare = Annotated[float, Range(0, 1, open_low=True)]
Decay = Annotated[float, Range(0, 1, open_high=True)]  # and shares that leave something


@dataclasses.dataclass(frozen=True)
class Rule:
    """What the type of a field says."""

    kind: type  # int, float or str
    legal: Range | OneOf
    optional: bool = False  # None is legal
    many: bool = False  # a list of them

    def refusal(self, value: object) -> str:
        """What is wrong with a value, and what was expected; nothing where it is legal."""
        if value is None and self.optional:
            return ""
        if not self.many:
            return "" if self._holds(value) else f": {self.legal.advice(self.kind, value)}"
        if not isinstance(value, list | tuple):
            return ": expected a list"
        wrong = [item for item in value if not self._holds(item)]
        return f", in it {shown(wrong[0])}: {self.legal.advice(self.kind, wrong[0])}" if wrong else ""

    def _holds(self, value: object) -> bool:
        return _is(value, self.kind) and self.legal.holds(value, self.kind)

    def __str__(self) -> str:
        return self.legal.words(self.kind)


def _is(value: object, kind: type) -> bool:
    if kind is str:
        return isinstance(value, str)
    number = numbers.Integral if kind is int else numbers.Real
    return isinstance(value, number) and not isinstance(value, bool)


@functools.cache
def rules(schema: type) -> Mapping[str, Rule]:
    """Of the fields that are numbers or choices."""
    hints = get_type_hints(schema, include_extras=True)
    by_name = {field.name: rule(hints[field.name]) for field in dataclasses.fields(schema)}
    return {name: rule for name, rule in by_name.items() if rule is not None}


def rule(hint: object) -> Rule | None:
    """What a type says; None where it is neither a number nor a choice."""
    if hint in (int, float):
        return Rule(hint, Range())
    arguments = get_args(hint)
    if get_origin(hint) is Annotated:
        kind, legal, *_ = arguments
        return Rule(kind, legal) if isinstance(legal, Range | OneOf) else None
    if get_origin(hint) in (Union, types.UnionType) and type(None) in arguments:
        inner = [rule(argument) for argument in arguments if argument is not type(None)]
        return dataclasses.replace(inner[0], optional=True) if len(inner) == 1 and inner[0] else None
    if get_origin(hint) is tuple and arguments[1:] == (...,):
        inner = rule(arguments[0])
        return dataclasses.replace(inner, many=True) if inner else None
    return None


def check(config: Dataclass, group: str = "") -> None:
    """Raise ValueError for the first field whose value is not legal: its key, the value, what was expected.

    Args:
        group: the prefix of the names of fields in their keys: `optim` in optim.lr.
    """
    for name, rule in rules(type(config)).items():
        value = getattr(config, name)
        refusal = rule.refusal(value)
        if refusal:
            key = f"{group}.{name}" if group else name
            raise ValueError(f"{key} = {shown(value)}{refusal}")


def check_line_breaks(key: str, text: str) -> None:
    """Raise ValueError for a backslash and an n, which neither shells nor Hydra turn into a line break."""
    if "\\n" in text:
        raise ValueError(
            f"{key} = {shown(text)} has a backslash and an n, which are not a line break: in bash "
            f"$'{key}=\"...\\n...\"' has one, in YAML a text in double quotes"
        )


def shown(value: object) -> str:
    """A value in a message: what is very long is cut."""
    if isinstance(value, int) and value.bit_length() > 3 * SHOWN:
        return f"an integer of {value.bit_length()} bits"
    try:
        text = repr(value)
    except ValueError:  # Python spells no integer of thousands of digits
        text = f"a {type(value).__name__} with a very long integer"
    return cut(text)


def cut(text: str) -> str:
    """The beginning of a text that is very long, with its length."""
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}... ({len(text)} characters)"
