# ruff: noqa: RUF001  (a minus sign and other signs that look like ASCII)
"""Pairs of answers that are equal by construction, and pairs that differ by construction, for every kind of grader.

Equal: a random expression is rewritten by identities and spelled in another style; numbers, letters and texts are
spelled in another style. Different: one digit, sign, index, row, letter, bracket or exponent is changed, or something
is added. A changed expression counts as different only where this module's own evaluation says so. A pair is a function
of the kind, the number and whether it is equal. Used by the tests and by `experiments/checks/fuzz_graders.py`.
"""

import cmath
import dataclasses
import functools
import math
import random
from fractions import Fraction

import spellings

KINDS = ("numeric", "choice", "exact", "symbolic", "collection")
OPTIONS = ("vitamin a", "not sure", "a pen or ink", "none of these", "plan b")
NAMES = ("x", "y", "a", "n", "t", "X", "x_1", "x_2")


@dataclasses.dataclass(frozen=True)
class Pair:
    kind: str  # of KINDS
    gold: str
    answer: str
    equal: bool

    @property
    def grader(self) -> str:
        return "symbolic" if self.kind == "collection" else self.kind


def correct(pair: Pair, grader) -> bool:
    return grader(f"so\n#### {pair.answer}\n", gold(pair)).correct


def gold(pair: Pair) -> str:
    return choice_gold(pair.gold) if pair.kind == "choice" else pair.gold


@functools.cache
def choice_gold(letter: str) -> str:
    return spellings.grader("choice").with_options(letter, OPTIONS)


def pair(kind: str, number: int, equal: bool) -> Pair:
    rng = random.Random(f"{kind} {number} {equal}")
    made = {"numeric": numeric, "choice": choice, "exact": exact, "symbolic": symbolic, "collection": collection}[kind]
    return Pair(kind, *made(rng, equal), equal)


# --- numbers, letters, texts ------------------------------------------------------------------------------------------


def grouped(digits: str, separator: str) -> str:
    """Digits with a separator between thousands."""
    return f"{int(digits):,}".replace(",", separator) if digits[0] != "0" or len(digits) == 1 else digits


def spelled_number(value: Fraction, rng: random.Random) -> str:
    """A number whose decimals end, in some style."""
    text = decimal(abs(value))
    whole, _, part = text.partition(".")
    whole = grouped(whole, rng.choice(["", ",", " ", r",\!", "{,}", r"\,", "\u202f", "\u00a0"]))
    part += rng.choice(["", "", "0", "00"])
    text = f"{whole}.{part}" if part else whole
    sign = rng.choice(["-", "−", "- "]) if value < 0 else rng.choice(["", "", "+"])
    currency = rng.choice(["", "", "", "$", r"\$", "€"])
    text = f"{sign}{currency}{text}" + (
        rng.choice(["", "", " cm", " dollars", "%"]) if not currency and abs(value) > 1 else ""
    )
    text = rng.choice(
        ["{}", "{}", "**{}**", "= {}", r"\boxed{{{}}}", "{}.", "`{}`", r"\({}\)", "the answer is: {}"]
    ).format(text)
    return text


def decimal(value: Fraction) -> str:
    places = next(places for places in range(12) if (value * 10**places).denominator == 1)
    digits = str(int(value * 10**places)).rjust(places + 1, "0")
    return f"{digits[:-places]}.{digits[-places:]}" if places else digits


def numeric(rng: random.Random, equal: bool) -> tuple[str, str]:
    value = Fraction(
        rng.randint(-(10 ** rng.randint(1, 9)), 10 ** rng.randint(1, 9)), 10 ** rng.choice([0, 0, 0, 1, 2])
    )
    gold = ("-" if value < 0 else "") + decimal(abs(value))
    if equal:
        return gold, spelled_number(value, rng)
    if rng.random() < 0.6:
        return gold, spelled_number(changed_number(value, rng), rng)
    junk = rng.choice(
        ["{}1", "{} 1", "{}..", "{}x", "{} or 3", "not {}", "{}?", "{}°1", "{}e3", "--{}", "{}%%", "{} thousand",
        "{}/7", "{}k",
         "{}, 5", "x{}", "({})x", "{}\u0301", "{}\u200b1", "{} dozen", "{}!", "{}^2", "{}²", "≈{}", "{} apples",
         "{}-", "1{}"]
    )  # fmt: skip
    if junk == "1{}" and gold.startswith("-"):
        junk = "{}x"
    return gold, junk.format(gold)


def changed_number(value: Fraction, rng: random.Random) -> Fraction:
    """One digit, the sign or the point changed."""
    step = Fraction(rng.choice([1, 2, 5]), rng.choice([1, 1, 1, 10, 100])) * 10 ** rng.randint(0, 4)
    others = [value + step, value - step, -value, value * 10, value / 10]
    return rng.choice([other for other in others if other != value])


def choice(rng: random.Random, equal: bool) -> tuple[str, str]:
    letters = "ABCDE"
    right = rng.choice(letters)
    chosen = right if equal else rng.choice(letters.replace(right, ""))
    text, other = OPTIONS[letters.index(chosen)], OPTIONS[letters.index(right)]
    small = chosen.lower()
    ways = ["{c}", "({s})", "{c}.", "**{c}**", "option {c}", "({c}) {t}", "{c}. {t}", "{t} ({s})", "{t}", "{c}: {t}",
    "**{c}. {t}**",
            r"\boxed{{{c}}}", r"\text{{({c})}}", "the answer is {c}", "{c}) {t}", '"{t}"', "{c} - {t}"]  # fmt: skip
    if not equal:  # the right one within an answer that does not choose it
        ways += ["not {r}", "{r} or {c}", "({r}) {t}", "{r}. {t}", "{o} ({s})", "{r}?", "anything but ({r})",
        "isn’t ({r})", "[{s}] ({r})",
                 "wrong: ({r})", "{c}, not {r}", "({r}) ({s})", "{o}, {t}", "{r}. not {o}", "{t} or {o}",
                 "maybe {r}", "{r} {c}", "{o}?",
                 "never {o}", "({r}) isn't {o}"]  # fmt: skip
    return right, rng.choice(ways).format(c=chosen, s=small, t=text, o=other, r=right)


WORDS = ("lima", "Peru", "Café", "it’s", "O'Neill", "red", "3", "ab", "Zürich", "ice cream", "not", "x")


def exact(rng: random.Random, equal: bool) -> tuple[str, str]:
    words = rng.sample(WORDS, rng.randint(1, 3))
    gold = " ".join(words)
    if not equal:
        at = rng.randrange(len(words))
        others = [word for word in WORDS if word not in words]
        ways = [
            [*words[:at], rng.choice(others), *words[at + 1 :]],
            [*words, rng.choice(others)],
            [*words[:at], words[at] + rng.choice("sxz"), *words[at + 1 :]],
            [*words[:at], words[at].swapcase()[:-1] + rng.choice("qvж"), *words[at + 1 :]],
        ]
        words = rng.choice(ways)
    text = rng.choice([" ", " ", "  ", "\t"]).join(words)
    text = rng.choice(
        [text, text, text.replace("’", "'"), text.replace("é", "e\u0301"), text.upper() if text.isascii() else text]
    )
    style = rng.choice(
        ["{}", "{}", "**{}**", "{}.", '"{}"', "“{}”", r"\text{{{}}}", "= {}", "Answer: {}", "`{}`", " {} "]
    )
    if not equal and rng.random() < 0.2:
        return gold, rng.choice(
            ["not {}", "{}?", "{} or red", "{}..", "{}\u0338", "the wrong answer is {}", "{} {}"]
        ).format(gold, gold)
    return gold, style.format(text)


# --- expressions ------------------------------------------------------------------------------------------------------

# A tree: ("n", Fraction), ("v", name), ("pi",), operations "+" "*" "/" "^" of two, "-" "sqrt" "sin" "cos" "ln" of one.
Tree = tuple


def tree(rng: random.Random, depth: int) -> Tree:
    if depth == 0 or rng.random() < 0.2:
        return rng.choice([integer(rng), integer(rng), ("v", rng.choice(NAMES)), ("v", rng.choice(NAMES)), ("pi",)])
    kind = rng.choice("+++***/^-") if rng.random() < 0.85 else rng.choice(["sqrt", "sin", "cos", "ln"])
    if kind == "^":
        return ("^", tree(rng, depth - 1), ("n", Fraction(rng.randint(2, 4))))
    if kind == "/":
        return (
            "/",
            tree(rng, depth - 1),
            ("n", Fraction(rng.randint(2, 9))) if rng.random() < 0.6 else ("v", rng.choice(NAMES)),
        )
    if kind == "sqrt":
        return ("sqrt", rng.choice([("n", Fraction(rng.randint(2, 40))), ("v", rng.choice(NAMES))]))
    if kind == "ln":
        return ("ln", ("n", Fraction(rng.randint(2, 20))))
    parts = (tree(rng, depth - 1),) if kind in ("-", "sin", "cos") else (tree(rng, depth - 1), tree(rng, depth - 1))
    return (kind, *parts)


def integer(rng: random.Random) -> Tree:
    return ("n", Fraction(rng.randint(1, 12) if rng.random() < 0.8 else rng.randint(13, 2000)))


def rewritten(one: Tree, rng: random.Random, times: int) -> Tree:
    """The same value: one identity at a random place, some times."""
    for _ in range(times):
        one = at_random_place(one, rng, identity)
    return one


def at_random_place(one: Tree, rng: random.Random, change) -> Tree:
    inner = [at for at, part in enumerate(one) if isinstance(part, tuple)]
    if inner and rng.random() < 0.6 and not (one[0] == "^" and rng.random() < 0.5):
        at = inner[0] if one[0] == "^" else rng.choice(inner)
        return (*one[:at], at_random_place(one[at], rng, change), *one[at + 1 :])
    return change(one, rng)


def identity(one: Tree, rng: random.Random) -> Tree:
    small = ("n", Fraction(rng.randint(2, 9)))
    ways = [("+", one, ("n", Fraction(0))), ("*", ("n", Fraction(1)), one), ("+", ("+", one, small), ("-", small))]
    ways += [("/", ("*", small, one), small), ("-", ("-", one)), ("/", one, ("n", Fraction(1)))]
    if one[0] in "+*":
        ways += [(one[0], one[2], one[1])] * 3
    if one[0] == "*" and one[2][0] == "+":
        ways += [("+", ("*", one[1], one[2][1]), ("*", one[1], one[2][2]))] * 3
    if one[0] == "n" and one[1] > 1:
        less = Fraction(rng.randint(1, max(1, int(one[1]) - 1)))
        ways += [
            ("+", ("n", less), ("n", one[1] - less)),
            ("/", ("n", one[1] * small[1]), small),
            ("^", ("sqrt", one), ("n", Fraction(2))),
        ]
    if one[0] == "^" and one[2] == ("n", Fraction(2)):
        ways += [("*", one[1], one[1])] * 3
    if one[0] == "sin":
        ways += [("-", ("sin", ("-", one[1])))]
    if one[0] == "ln":
        ways += [
            ("-", ("ln", ("/", ("n", Fraction(1)), one[1]))),
            ("/", ("ln", ("^", one[1], ("n", Fraction(2)))), ("n", Fraction(2))),
        ]
    if one[0] == "sqrt" and one[1][0] == "n":
        ways += [("/", ("sqrt", ("n", one[1][1] * small[1] ** 2)), small), ("/", one[1], one)] * 2
    return rng.choice(ways)


def mutated(one: Tree, rng: random.Random) -> Tree:
    """One digit, sign, letter, index, exponent or operation changed."""
    if one[0] == "n":
        return (
            "n",
            rng.choice(
                [
                    one[1] + 1,
                    one[1] + 10,
                    one[1] * 10,
                    one[1] + rng.randint(1, 5),
                    Fraction(one[1], 7),
                    one[1] + Fraction(1, 100),
                ]
            ),
        )
    if one[0] == "v":
        return ("v", rng.choice([name for name in NAMES if name != one[1]]))
    if one[0] == "^":
        return ("^", one[1], ("n", one[2][1] + rng.choice([1, -1])))
    if one[0] in ("+", "*"):
        return rng.choice([({"+": "*", "*": "+"}[one[0]], one[1], one[2]), (one[0], one[1], ("-", one[2]))])
    if one[0] == "/":
        return rng.choice([("*", one[1], one[2]), ("/", one[2], one[1])])
    if one[0] == "pi":
        return ("n", Fraction("3.14159265358979323846264338327950288419716939937510582097494459230781640628620899"))
    return rng.choice([one[1], ("-", one)])


def value(one: Tree, places: dict[str, complex]) -> complex:
    kind, parts = one[0], [value(part, places) for part in one[1:] if isinstance(part, tuple)]
    if kind == "n":
        return complex(one[1])
    if kind == "v":
        return places[one[1]]
    if kind == "pi":
        return complex(math.pi)
    return {
        "+": lambda a, b: a + b, "*": lambda a, b: a * b, "/": lambda a, b: a / b, "^": lambda a, b: a ** int(b.real),
        "-": lambda a: -a, "sqrt": cmath.sqrt, "sin": cmath.sin, "cos": cmath.cos, "ln": cmath.log,
    }[kind](*parts)  # fmt: skip


def differ(one: Tree, other: Tree) -> bool:
    """Whether two expressions have values that are far apart at both of two places, and are of a modest size."""
    for shift in (0.31, 0.77):
        places = {name: complex(1.1 + shift + 0.43 * at, 0.21 * at - shift) for at, name in enumerate(NAMES)}
        try:
            first, second = value(one, places), value(other, places)
        except (ArithmeticError, ValueError):
            return False
        if max(abs(first), abs(second)) > 1e12 or abs(first - second) < 1e-6 * max(1.0, abs(first)):
            return False
    return True


def spelled(one: Tree, rng: random.Random, latex: bool, level: int = 0) -> str:
    """Levels: 0 where a sum may stand, 1 a factor that does not come first, 2 what has an exponent."""
    text, own = _spelled(one, rng, latex)
    if own >= level:
        return text
    if latex and rng.random() < 0.3:
        return rf"\left({text}\right)"
    return f"({text})"


def _spelled(one: Tree, rng: random.Random, latex: bool) -> tuple[str, int]:
    kind = one[0]
    space = rng.choice(["", "", " "])
    if kind == "n":
        return number_text(one[1], rng, latex)
    if kind == "v":
        name, mark, index = one[1].partition("_")
        return name + (rng.choice([f"_{index}", f"_{{{index}}}"]) if mark else ""), 2
    if kind == "pi":
        return (rng.choice([r"\pi ", "π"]) if latex else rng.choice(["pi", "π"])), 2
    if kind == "+":
        if one[2][0] == "-":
            return (
                spelled(one[1], rng, latex) + space + rng.choice("--−") + space + spelled(one[2][1], rng, latex, 1),
                0,
            )
        right = spelled(one[2], rng, latex, 0)
        right = f"({right})" if right[:1] in "-−" else right
        return f"{spelled(one[1], rng, latex)}{space}+{space}{right}", 0
    if kind == "-":
        return f"-{spelled(one[1], rng, latex, 1)}", 0
    if kind == "*":
        left, right = spelled(one[1], rng, latex, 1), spelled(one[2], rng, latex, 1)
        signs = [rf"\cdot {right}", rf" \times {right}", f"·{right}"] if latex else [f"*{right}", f" * {right}"]
        if one[1][0] in ("n", "v") and one[2][0] == "v" and left[-1] != "}" and (latex or left.isdigit()):
            signs += [f" {right}"] * 4
        return left + rng.choice(signs), 1
    if kind == "/":
        if latex and rng.random() < 0.7:
            name = rng.choice([r"\frac", r"\dfrac", r"\frac "])
            return f"{name}{{{spelled(one[1], rng, latex)}}}{{{spelled(one[2], rng, latex)}}}", 1
        return f"({spelled(one[1], rng, latex, 1)}{space}/{space}{spelled(one[2], rng, latex, 2)})", 2
    if kind == "^":
        exponent = str(one[2][1])
        ways = (
            [f"^{exponent}", f"^{{{exponent}}}"]
            + ([f"**{exponent}"] if not latex else [])
            + (["²"] if exponent == "2" else [])
        )
        return spelled(one[1], rng, latex, 2) + rng.choice(ways), 1
    name = {"sqrt": "sqrt", "sin": "sin", "cos": "cos", "ln": "ln"}[kind]
    inner = spelled(one[1], rng, latex)
    if kind == "sqrt" and latex:
        return rf"\sqrt{{{inner}}}", 2
    return f"\\{name}({inner})" if latex else f"{name}({inner})", 1


def number_text(number: Fraction, rng: random.Random, latex: bool) -> tuple[str, int]:
    sign, number = ("-" if number < 0 else ""), abs(number)
    if number.denominator == 1:
        text = rng.choice([str(number), str(number), f"{number}.0"])
        return (sign + text, 2 if not sign else 0)
    ends = not (number.denominator % 3 == 0 or number.denominator % 7 == 0) and set(factors(number.denominator)) <= {
        2,
        5,
    }
    if ends and number.denominator < 10**9 and rng.random() < 0.5:
        return (sign + decimal(number), 2 if not sign else 0)
    if latex:
        return (rf"{sign}\frac{{{number.numerator}}}{{{number.denominator}}}", 1 if not sign else 0)
    return f"({sign}{number.numerator}/{number.denominator})", 2


def factors(number: int) -> list[int]:
    return [p for p in (2, 3, 5, 7, 11, 13) if number % p == 0]


def symbolic(rng: random.Random, equal: bool) -> tuple[str, str]:
    one = tree(rng, rng.randint(1, 3))
    other = rewritten(one, rng, rng.randint(1, 4))
    if not equal:
        if rng.random() < 0.15:
            gold = spelled(one, rng, latex=True)
            return gold, junk_behind(gold, rng)
        while not differ(one, other):  # some are too large for their difference to be told
            one = tree(rng, rng.randint(1, 3))
            other = at_random_place(one, rng, mutated)
        other = rewritten(other, rng, rng.randint(0, 2))
    text = spelled(other, rng, latex=rng.random() < 0.7)
    wrapped = rng.choice(["{}", "{}", "${}$", r"\boxed{{{}}}", "= {}", "**{}**", "{}.", r"\({}\)"])
    return spelled(one, rng, latex=True), text if "*" in text and "**" in wrapped else wrapped.format(text)


def junk_behind(gold: str, rng: random.Random) -> str:
    junk = [
        "..",
        r"\left",
        "°1",
        " or 4",
        "?",
        ", 5",
        "=7",
        r"\\",
        "&",
        "%%",
        "_",
        "^",
        "!2",
        r"\text{ or }",
        " 7",
        "{",
        ")",
        r"\cup",
        "<1",
        ";",
        "…",
    ]
    return gold + rng.choice(junk)


def collection(rng: random.Random, equal: bool) -> tuple[str, str]:
    """Tuples, lists, sets, intervals, matrices and relations of small parts."""
    kind = rng.choice(["tuple", "list", "set", "interval", "matrix", "relation", "matrix"])
    if kind == "matrix":
        return matrices(rng, equal)
    if kind == "relation":
        return relations(rng, equal)
    parts = distinct_parts(rng, 2 if kind == "interval" else rng.randint(2, 4))
    others = list(parts)
    brackets = {"tuple": "()", "list": "", "set": "{}", "interval": rng.choice(["[)", "(]", "[]"])}[kind]
    their_brackets = brackets
    if kind == "set" and equal:
        rng.shuffle(others)
    if not equal:
        at = rng.randrange(len(others))
        ways = (
            ["part", "part", "more", "less"]
            + (["order"] * 2 if kind != "set" else [])
            + (["bracket"] if brackets else [])
        )
        way = rng.choice(ways)
        if way == "part":
            others[at] = ("n", others[at][1] + rng.choice([1, -1, 10, Fraction(1, 2)]) + 5000)
        elif way == "more" or (way == "less" and len(others) < 3):
            others.append(("n", Fraction(rng.randint(6000, 7000))))
        elif way == "less":
            others.pop(at)
        elif way == "order":
            others[0], others[-1] = others[-1], others[0]
        else:
            their_brackets = rng.choice([other for other in ("()", "[]", "[)", "(]", "{}") if other != brackets])
    return listed(parts, brackets, rng, rewrite=False), listed(others, their_brackets, rng, rewrite=True)


def distinct_parts(rng: random.Random, count: int) -> list[Tree]:
    values = rng.sample([Fraction(top, below) for top in range(-9, 40) for below in (1, 2)], 2 * count)
    return [("n", value) for value in dict.fromkeys(values)][:count]


def listed(parts: list[Tree], brackets: str, rng: random.Random, rewrite: bool) -> str:
    texts = [spelled(rewritten(part, rng, rng.randint(0, 1)) if rewrite else part, rng, latex=True) for part in parts]
    text = rng.choice([", ", ",", r",\ ", ", "]).join(texts)
    if not brackets:
        return text.replace(",", ", ")  # 1,234 would be one number
    opening, closing = (r"\{", r"\}") if brackets == "{}" else brackets
    return rng.choice(
        [f"{opening}{text}{closing}", rf"\left{opening}{text}\right{closing}", f"{opening} {text} {closing}"]
    )


def matrices(rng: random.Random, equal: bool) -> tuple[str, str]:
    height, width = rng.choice([(2, 1), (3, 1), (2, 2), (2, 3), (3, 3)])
    parts = distinct_parts(rng, height * width)
    while len(parts) < height * width:
        parts = distinct_parts(rng, height * width)
    rows = [parts[at * width : (at + 1) * width] for at in range(height)]
    others = [list(row) for row in rows]
    if not equal:
        way = rng.choice(["rows", "part", "sign", "shape"])
        if way == "rows":
            first, second = rng.sample(range(height), 2)
            others[first], others[second] = others[second], others[first]
        elif way == "part":
            others[rng.randrange(height)][rng.randrange(width)] = ("n", Fraction(rng.randint(50, 90)))
        elif way == "sign":
            row, column = rng.randrange(height), rng.randrange(width)
            number = others[row][column][1]
            others[row][column] = ("n", -number if number else Fraction(1))
        else:
            others = (
                [[part for row in others for part in row]]
                if height * width == width or rng.random() < 0.5
                else others[:-1]
            )
    return matrix_text(rows, rng), matrix_text(others, rng)


def matrix_text(rows: list[list[Tree]], rng: random.Random) -> str:
    kind = rng.choice(["pmatrix", "bmatrix"])
    blank, between = rng.choice(["", " ", "  "]), rng.choice([r"\\", r" \\ ", r"\\ ", r" \\", "\\\\ \t"])
    text = between.join(f"{blank}&{blank}".join(spelled(part, rng, latex=True) for part in row) for row in rows)
    return rf"\begin{{{kind}}}{blank}{text}{rng.choice(['', '', between])}{blank}\end{{{kind}}}"


def relations(rng: random.Random, equal: bool) -> tuple[str, str]:
    signs = {"<": ["<", r"\lt "], ">": [">", r"\gt "], "<=": [r"\le ", r"\leq ", "≤"], ">=": [r"\ge ", r"\geq ", "≥"]}
    flipped = {"<": ">", ">": "<", "<=": ">=", ">=": "<="}
    name, sign, number = (
        rng.choice(["x", "y", "X"]),
        rng.choice(list(signs)),
        Fraction(rng.randint(-20, 40), rng.choice([1, 2, 3])),
    )
    gold = f"{name} {rng.choice(signs[sign])}{spelled(('n', number), rng, latex=True)}"
    if not equal:
        way = rng.choice(["name", "sign", "number"])
        if way == "name":
            name = rng.choice([other for other in ("x", "y", "X", "t") if other != name])
        elif way == "sign":
            sign = rng.choice([other for other in signs if other != sign])
        else:
            number += rng.choice([1, -1, Fraction(1, 2)])
    text = spelled(("n", number), rng, latex=True)
    if rng.random() < 0.4:
        return gold, f"{text} {rng.choice(signs[flipped[sign]])}{name}"
    return gold, f"{name}{rng.choice(signs[sign])} {text}"
