r"""Are two mathematical expressions equal? Read whole by `notation.py`, compared exactly by sympy.

An answer is one value, list, set, tuple, interval, matrix or relation; `x =` may stand before it and a unit after it.
Lists, tuples, intervals and matrices are compared part by part in their order, sets in any; relations (x < 3) part by
part, read from either side. Decimals are fractions, so 0.333333 is no third. Values are equal where their difference is
proven to be zero for every value of its letters: numbers that agree to many digits are not. Letters stand for complex
numbers, a logarithm without a base for one of any base. sympy (extra `math`) runs in a locked copy of a worker process
with a bound on its time: any thread may ask. Rational numbers are compared here.
"""

import dataclasses
import decimal
import functools
import importlib.util
import re
from fractions import Fraction
from typing import ClassVar

from qstar.tasks.grading import grade, notation, spelling, worker
from qstar.tasks.grading.notation import Tree

LONGEST = notation.LONGEST
COLLECTIONS = frozenset("list set plusminus bracket union meet matrix relation".split())  # what is no single value
HIGHEST_ROOT = 60  # of a number whose minimal polynomial is worth its time
LARGEST_FACTORIAL = 2000  # that is computed
_NO_UNIT: frozenset[str] = frozenset()
_UNIT = re.compile(
    r"(?P<value>.*?[^\\ ])(?P<unit>(?:[ ~]|\\[ ,;:!])*(?:\\(?:text|mathrm|textrm|mbox|rm) ?\{[^{}]*\}"
    r"(?: ?(?:\^ ?(?:\{[23]\}|[23])|[²³]))?(?: ?/ ?\\(?:text|mathrm) ?\{[^{}]*\}(?: ?\^ ?(?:\{[23]\}|[23]))?)?|\\?%))",
    re.DOTALL,
)
_CURRENCY = re.compile(r"(\\?\$|[€£¥₹]) ?(?=\\|[0-9(])")


@dataclasses.dataclass(frozen=True)
class Expression:
    """An answer that was read."""

    text: str  # without what only marks it as an answer; reads the same again
    tree: Tree
    name: str = ""  # x of "x = 3"
    unit: frozenset[str] = _NO_UNIT  # what its unit may mean


@dataclasses.dataclass(frozen=True)
class Symbolic:
    """Equal expressions. `seconds` of processor time bound one comparison; a longer one is wrong ("timeout").

    A unit may be left out or added, but not exchanged, and nothing is converted (`spelling.agree`): 3 cm is not 3 m,
    30% not 30 degrees. A name may be left out or added too: "x = 3" for 3. A list without brackets may stand for a set.
    `strict` reads ASCII without units in words, names no other commands than the most usual ones, and keeps sets apart
    from lists.
    """

    declared: grade.Declared
    seconds: float = 5.0
    strict: bool = False
    name: ClassVar[str] = "symbolic"
    version: ClassVar[int] = 3

    def __post_init__(self):
        if importlib.util.find_spec("sympy") is None:
            raise ImportError('the symbolic grader needs sympy: pip install ".[math]"')

    def canonical(self, gold: str) -> str:
        right = self._gold(gold)
        if self._same(right, right, valued=False)[1] != "right":
            raise ValueError(f"gold answer {gold[:200]!r} has no value: grade it as exact")
        return right.text

    def __call__(self, written: str, gold: str) -> grade.Verdict:
        right = self._gold(gold)
        read = functools.partial(expression, strict=self.strict)
        answers, problem = grade.declarations(written, self.declared)
        if problem:
            return grade.Verdict(False, "", problem)
        readings = {
            None if reading is None else (reading.tree, reading.name, reading.unit): reading
            for reading in map(read, answers)
        }
        if len(readings) > 1 or (None in readings and len(answers) > 1):
            return grade.Verdict(False, "", "several answers")
        answer = next(iter(readings.values()))
        if answer is None:
            return grade.Verdict(False, answers[0], "unreadable")
        correct, reason = self._same(right, answer)
        return grade.Verdict(correct, answer.text, reason)

    def _gold(self, gold: str) -> Expression:
        right = expression(gold, self.strict)
        if right is None:
            raise ValueError(f"gold answer {gold[:200]!r} is not an expression that the symbolic grader reads")
        return right

    def _same(self, gold: Expression, answer: Expression, valued: bool = True) -> tuple[bool, str]:
        """(whether they are equal, why); without `valued` it is in doubt whether the gold answer has a value."""
        if not _fits(gold, answer):
            return False, "wrong"
        if valued and gold.tree == answer.tree:
            return True, "right"
        try:
            values = notation.rational(gold.tree), notation.rational(answer.tree)
            if None not in values:
                return values[0] == values[1], "right" if values[0] == values[1] else "wrong"
        except ZeroDivisionError:
            return False, "wrong"
        except notation.TooLargeError:
            pass
        if _far_apart(gold.tree, answer.tree):
            return False, "wrong"
        reply = _worker(self.seconds)(gold.text, answer.text, "strict" if self.strict else "")
        if reply.status != "done":
            return False, reply.status
        return reply.text == "same", "right" if reply.text == "same" else "wrong"


@functools.cache
def _worker(seconds: float) -> worker.Worker:
    return worker.Worker("qstar.tasks.grading.symbolic:compare", seconds)


def _far_apart(gold: Tree, answer: Tree) -> bool:
    """Whether it is plain that an answer is another one: of values, and of parts that stand in order."""
    if gold[0] not in COLLECTIONS and answer[0] == "relation":
        return any(_far_apart(gold, side) for side in answer[2])
    if gold[0] in COLLECTIONS or answer[0] in COLLECTIONS:
        if gold[0] != answer[0] or gold[0] not in ("bracket", "list", "matrix") or len(gold[-1]) != len(answer[-1]):
            return False
        parts = zip(gold[-1], answer[-1], strict=True)
        if gold[0] == "matrix":
            parts = [pair for rows in parts for pair in zip(*rows, strict=False)]
        return any(_far_apart(*pair) for pair in parts)
    return notation.far_apart(gold, answer)


def _fits(gold: Expression, answer: Expression) -> bool:
    """Whether an answer's name and unit may stand where the gold answer has its own."""
    if gold.name and answer.name and gold.name != answer.name:
        return False
    if gold.unit == answer.unit or not answer.unit:
        return True
    value = answer.tree[1] if answer.tree[0] == "num" else None
    value = -answer.tree[1][1] if answer.tree[0] == "neg" and answer.tree[1][0] == "num" else value
    if not gold.unit and value is None and answer.unit & {"percent", "degree"}:
        return False
    return spelling.agree(gold.unit, answer.unit, Fraction(2) if value is None else value)


# --- reading --------------------------------------------------------------------------------------------------------


def expression(text: str, strict: bool = False) -> Expression | None:
    """An answer as it is compared; None where it is none."""
    if len(text) > LONGEST + 50:
        return None
    read = _strictly(text) if strict else _measured(spelling.bare(text))
    if read is None or len(read.text) > LONGEST:
        return None
    return _named(read)


def _measured(text: str) -> Expression | None:
    """A number with its unit, or a value with a unit in \\text{...} or in words."""
    name, rest = spelling.named(text)
    number = None if re.search(r"[0-9] [A-Za-z]\Z", text) else spelling.unmarked(rest)
    if number is not None:
        return Expression(text, _number(number.value), name, number.unit)
    if name and (not text.endswith(rest) or not re.fullmatch(r"[a-zA-Z]|\\?[a-z]+(?:_\w+)?|[fgh]\(.\)", name)):
        read = _measured(rest)  # x = \boxed{...}, AB = ...: no equation that `notation` reads
        return (
            None
            if read is None or read.name or read.tree[0] == "relation"
            else dataclasses.replace(read, text=text, name=name)
        )
    value, unit = text, _NO_UNIT
    match = _UNIT.fullmatch(text)
    if match:
        unit, value = spelling.unit(match["unit"]), match["value"]
    currency = _CURRENCY.match(value)
    if currency and not match:
        unit, value = spelling.unit(currency[1]), value[currency.end() :]
    tree = notation.read(text if unit is None else value)
    return _in_words(text) if tree is None else Expression(text, tree, unit=unit or _NO_UNIT)


def _in_words(text: str) -> Expression | None:
    """A value and its unit in two or more letters, which `notation` does not read as a product: 3/4 cm, 2\\pi feet."""
    for space in re.finditer(r"(?<=[^\\ ]) (?=[A-Za-z]{2})", text):
        unit = spelling.unit(text[space.end() :])
        tree = None if unit is None else notation.read(text[: space.start()])
        if tree is not None:
            return None if tree[0] in COLLECTIONS else Expression(text, tree, unit=unit)
    return None


def _number(value: decimal.Decimal) -> Tree:
    return ("num", Fraction(value))


def _named(read: Expression) -> Expression:
    """With the name taken off "x = 3", "x = 1, 2", "x \\in [0, 1]" and "f(x) = x^2". A name on both sides is none.

    Also off "(x, y) = (1, 2)" where the letters stand in order, and off "x = 2 + 3 = 5", which leaves "2 + 3 = 5".
    """
    tree = read.tree
    if tree[0] == "relation" and set(tree[1]) == {"="}:
        left, *sides = tree[2]
        if len(sides) > 1 and left[0] == "sym" and not any(_holds(side, left) for side in sides):
            return dataclasses.replace(read, tree=("relation", tree[1][1:], tuple(sides)), name=left[1])
        if len(sides) == 1 and _are_names(left) and sides[0][:2] == left[:2] and len(sides[0][2]) == len(left[2]):
            letters = ",".join(letter for _, letter in left[2])
            return dataclasses.replace(read, tree=sides[0], name=f"({letters})")
    function = re.match(r"([A-Za-z]) ?\(([a-z])\) ?=", read.text)
    parts = tree[1] if tree[0] == "list" else (tree,)
    named = [part for part in parts if part[0] == "relation" and len(part[1]) == 1 and part[1][0] in ("=", "in")]
    if not named or parts[0] is not named[0] or (len(named) > 1 and len(named) < len(parts)):
        return read
    (left, _), *_ = (part[2] for part in named)
    if function and left == ("mul", (("sym", function[1]), ("sym", function[2]))):
        name, symbol = f"{function[1]}({function[2]})", ("sym", function[1])
    elif left[0] == "sym":
        name, symbol = left[1], left
    else:
        return read
    values = tuple(part[2][1] if part[0] == "relation" and part in named else part for part in parts)
    if any(part[2][0] != left for part in named) or any(_holds(value, symbol) for value in values):
        return read
    return dataclasses.replace(read, tree=values[0] if len(values) == 1 else ("list", values), name=name)


def _are_names(tree: Tree) -> bool:
    """Whether it is a tuple of letters in the order of the alphabet."""
    if tree[:2] != ("bracket", "()") or any(part[0] != "sym" for part in tree[2]):
        return False
    letters = [letter for _, letter in tree[2]]
    return letters in (sorted(set(letters)), ["r", r"\theta"])


def _holds(tree: object, part: Tree) -> bool:
    return tree == part or (isinstance(tree, tuple) and any(_holds(branch, part) for branch in tree))


_COMMANDS = frozenset(
    "frac dfrac tfrac sqrt pi sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh ln log exp left right cdot "
    "times div infty binom theta alpha beta gamma lambda mu phi omega sigma begin end pmatrix bmatrix cup cap".split()
)
_ASCII = re.compile(r"[0-9A-Za-z+\-*/^_=<>!|.,&\\{}()\[\] ]*")
_DEGREES = re.compile(r" ?\^ ?(?:\\circ|\{ ?\\circ ?\})\Z")


def _strictly(text: str) -> Expression | None:
    """In ASCII and the most usual commands, between dollars or in \\boxed{...}, with a sign of percent or degrees."""
    text = spelling.without_stop(text.strip(grade.WHITE))
    for opening, closing in (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"), (r"\boxed{", "}")):
        if text.startswith(opening) and text.endswith(closing) and len(text) > len(opening) + len(closing) - 1:
            text = text[len(opening) : -len(closing)].strip(" ")
    value = text.removesuffix("%").removesuffix("\\").strip(" ")
    unit = _NO_UNIT if value == text else frozenset({"percent"})
    if not unit and grade.spelled_number(_DEGREES.sub("", text)) is not None and _DEGREES.search(text):
        value, unit = _DEGREES.sub("", text), frozenset({"degree"})
    plain = re.sub(r"\\[,;! ]", " ", value)
    if not _ASCII.fullmatch(plain) or re.search(r"[0-9.] +[0-9.]", plain) or not _strict_words(plain):
        return None
    number = grade.spelled_number(value)
    tree = notation.read(value) if number is None else _number(decimal.Decimal(number))
    return None if tree is None else Expression(text, tree, unit=unit)


def _strict_words(text: str) -> bool:
    if not _COMMANDS.issuperset(re.findall(r"\\([A-Za-z]+)", text)):
        return False
    words = re.findall(r"[A-Za-z]{2,}", re.sub(r"\\[A-Za-z]+", " ", text))
    known = ("pmatrix", "bmatrix", "pi", "sqrt", *notation.FUNCTIONS)
    return all(word in known or (len(word) == 2 and word.islower()) for word in words)


# --- comparing, by the worker in a locked copy of a process of its own -----------------------------------------------


def prepare() -> None:
    """Load and warm up what comparisons need."""
    for gold, answer in (
        (r"\frac{1}{2} x", "x/3"),
        ("x^2+2x+1", "(x+1)^2"),
        (r"\sin^2 x", r"1-\cos^2 x"),
        (r"\sqrt{6}", r"\sqrt{2}\sqrt{3}"),
        (r"\sqrt{5+2\sqrt{6}}", r"\sqrt{2}+\sqrt{3}"),
        (r"\ln 8", r"3\ln 2"),
    ):
        compare(gold, answer)


def compare(gold: str, answer: str, strict: str = "") -> str:
    """ "same" or "different"."""
    right, given = expression(gold, bool(strict)), expression(answer, bool(strict))
    if right is None or given is None:
        return "different"
    sides = [given.tree]
    if not strict and right.tree[0] not in COLLECTIONS and given.tree[0] == "relation" and set(given.tree[1]) == {"="}:
        sides = given.tree[2]  # 3/4 = 0.75: each side is an answer
    return "same" if all(_same(right.tree, side, not strict) for side in sides) else "different"


def _same(gold: Tree, answer: Tree, lenient: bool) -> bool:
    """Whether an answer is what the gold answer is; lenient, a list may stand for a set."""
    kinds = gold[0], answer[0]
    unordered = {"set", "plusminus", "list"} if lenient else {"set"}
    if kinds[0] in ("set", "plusminus") and kinds[1] in unordered | {kinds[0]}:
        return _matched(gold[1], answer[1], lenient)
    if kinds == ("list", "plusminus") and lenient:
        return _matched(gold[1], answer[1], lenient)
    if kinds[0] != kinds[1] and not {*kinds}.isdisjoint(COLLECTIONS):
        return False
    if kinds[0] in ("union", "meet"):
        return _matched(gold[1], answer[1], lenient)
    if kinds[0] == "list":
        return _parts_same(gold[1], answer[1], lenient)
    if kinds[0] == "bracket":
        return gold[1] == answer[1] and _parts_same(gold[2], answer[2], lenient)
    if kinds[0] == "matrix":
        shapes = [[len(row) for row in tree[1]] for tree in (gold, answer)]
        return shapes[0] == shapes[1] and all(
            _parts_same(*rows, lenient) for rows in zip(gold[1], answer[1], strict=True)
        )
    if kinds[0] == "relation":
        return _same_relation(gold, answer, lenient)
    return _equal(gold, answer)


def _same_relation(gold: Tree, answer: Tree, lenient: bool) -> bool:
    (signs, sides), (others, other_sides) = gold[1:], answer[1:]
    if signs == others and _parts_same(sides, other_sides, lenient):
        return True
    flipped = tuple(notation.FLIPPED.get(sign, "") for sign in reversed(others))
    return signs == flipped and _parts_same(sides, tuple(reversed(other_sides)), lenient)


def _parts_same(gold: tuple[Tree, ...], answer: tuple[Tree, ...], lenient: bool) -> bool:
    same = functools.partial(_same, lenient=lenient)
    return len(gold) == len(answer) and all(map(same, gold, answer))


def _matched(gold: tuple[Tree, ...], answer: tuple[Tree, ...], lenient: bool) -> bool:
    """The same parts in some order."""
    rest = list(answer)
    for part in gold:
        match = next((at for at, other in enumerate(rest) if _same(part, other, lenient)), None)
        if match is None:
            return False
        rest.pop(match)
    return not rest


def _equal(gold: Tree, answer: Tree) -> bool:
    right, given = _value(gold), _value(answer)
    if right is None or given is None:
        return False
    import sympy

    if right.is_infinite or given.is_infinite:
        return right == given
    difference = right - given
    if difference.is_Rational or difference.has(sympy.nan, sympy.zoo):
        return difference == 0
    return not _apart(right, given) and _vanishes(difference)


# Values of the letters where two expressions are compared first; some negative, for sqrt(x^2) is not x.
_PROBES = ((3, 7), (-5, 11), (13, -17), (-19, -23))


def _apart(right, given) -> bool:
    """Whether two expressions plainly differ at some place, to twenty digits: no proof has to be looked for then."""
    import sympy

    difference = right - given
    letters = sorted(difference.free_symbols, key=str)
    for above, below in _PROBES if letters else ((0, 1),):
        places = {letter: sympy.Rational(above + 2 * at, below + at) for at, letter in enumerate(letters)}
        if any(letter.is_positive and value < 0 for letter, value in places.items()):
            continue
        apart, right_size, given_size = (abs(value.subs(places).evalf(30)) for value in (difference, right, given))
        # A difference without a known digit may be zero.
        known = apart.is_Float and apart._prec > 1 and right_size.is_number and given_size.is_number
        if known and apart > sympy.Float("1e-20") * sympy.Max(right_size, given_size):
            return True
    return False


def _vanishes(difference) -> bool:
    """Whether a difference is zero, by one of sympy's exact rewritings."""
    import sympy

    for rewritten in (
        sympy.expand,
        lambda d: sympy.cancel(sympy.together(d)),
        lambda d: sympy.expand_log(sympy.expand(d), deep=True),
        sympy.simplify,
        lambda d: sympy.trigsimp(sympy.expand_trig(d)),
        lambda d: sympy.simplify(sympy.expand_log(d)),
        lambda d: sympy.simplify(sympy.expand(d.rewrite(sympy.exp))),
    ):
        if rewritten(difference) == 0:
            return True
    return not difference.free_symbols and _algebraic_zero(difference)


def _algebraic_zero(difference) -> bool:
    """Whether an algebraic number is zero: its minimal polynomial is x."""
    import sympy

    letter = sympy.Symbol("x")
    roots = [power.exp.q for power in difference.atoms(sympy.Pow) if power.exp.is_Rational]
    if max(roots, default=1) > HIGHEST_ROOT:
        return False
    try:
        return sympy.minimal_polynomial(difference, letter) == letter
    except (sympy.polys.polyerrors.NotAlgebraic, NotImplementedError):
        return False


def _value(tree: Tree):
    """A sympy expression with a value, or None."""
    import sympy

    if _holds(tree, _INFINITY) and tree not in (_INFINITY, ("neg", _INFINITY)):
        return None  # nothing is computed with it
    try:
        value = _built(tree)
    except ZeroDivisionError:
        return None
    return (
        None if value.has(sympy.nan, sympy.zoo) or value.has(sympy.oo, -sympy.oo) != _holds(tree, _INFINITY) else value
    )


_INFINITY = ("const", "oo")


def _built(tree: Tree):
    """A tree as sympy has it. ZeroDivisionError where a part has no value."""
    import sympy

    kind, parts = tree[0], tree[1:]
    if kind == "num":
        return sympy.Rational(parts[0].numerator, parts[0].denominator)
    if kind == "sym":
        return sympy.Symbol(parts[0])
    if kind == "const":
        return {"e": sympy.E, "i": sympy.I, "pi": sympy.pi, "oo": sympy.oo}[parts[0]]
    if kind == "fn":
        return _function(parts[0], _built(parts[1]))
    values = [_built(part) for part in (parts[0] if kind in ("add", "mul") else parts)]
    if kind in ("div", "pow"):
        below, exponent = (values[1], -1) if kind == "div" else values
        if below == 0 and sympy.sympify(exponent).is_positive is not True:
            raise ZeroDivisionError
    if (kind == "fact" and values[0].is_Integer and values[0] > LARGEST_FACTORIAL) or (
        kind == "binom" and values[1].is_Integer and values[1] > LARGEST_FACTORIAL
    ):
        raise ZeroDivisionError  # minutes of multiplying
    if kind == "root":
        degree, value = values
        if value.is_negative and degree.is_Integer and degree % 2:
            return -((-value) ** (1 / degree))
        return value ** (1 / degree)
    if kind == "log":
        return sympy.log(values[1]) / sympy.log(values[0])
    return {
        "add": sympy.Add, "mul": sympy.Mul, "neg": lambda value: -value, "abs": sympy.Abs, "fact": sympy.factorial,
        "div": lambda above, below: above / below, "pow": sympy.Pow, "binom": sympy.binomial,
    }[kind](*values)  # fmt: skip


def _function(name: str, value):
    import sympy

    if name == "log":  # of a base that is not said
        return sympy.log(value) / sympy.log(sympy.Symbol("base", positive=True))
    names = {"ln": "log", "arcsin": "asin", "arccos": "acos", "arctan": "atan"}
    return getattr(sympy, names.get(name, name))(value)


def is_value_of(text: str, letters: tuple[str, ...]) -> bool:
    """Whether an expression as Python spells it has a value and no other letters than these. It is evaluated."""
    import sympy

    names = {letter: sympy.Symbol(letter) for letter in letters}
    value = sympy.parse_expr(text, local_dict=names)
    return value.free_symbols <= set(names.values()) and not value.has(sympy.nan, sympy.zoo, sympy.oo)
