# ruff: noqa: RUF001  (signs of mathematics that look like letters)
r"""Mathematical notation, LaTeX or plain, read without leaving anything out: a text becomes a tree, or is unreadable.

Parsers for LaTeX skip what they do not know (`3\left`, a second number, the row break of a matrix), which turns wrong
answers into right ones. Here every character belongs to a rule or the text has no reading; a text with two usual
readings has none either: 1/2x, \sin x/2, 1e3. Names are one letter each; `e` and `i` are the constants.

A tree is a tuple: its kind, then its parts. Values are ("num", Fraction), ("sym", name), ("const", "e" | "i" | "pi" |
"oo"), ("add" | "mul", parts), ("neg" | "abs" | "fact", value), ("div" | "pow" | "root" | "binom" | "log", value, value)
and ("fn", name, value). What is no single value: ("list" | "set" | "plusminus", parts), ("bracket", "[)", parts),
("union" | "meet", parts), ("matrix", rows), ("relation", signs, sides).
"""

import cmath
import math
import operator
import re
from collections.abc import Callable
from fractions import Fraction

from qstar.tasks.grading import spelling

LONGEST = 300  # characters
DEEPEST = 40  # brackets within brackets
LARGEST_BITS = 20_000  # of numbers that are computed here
LARGEST_FACTORIAL = 500

Tree = tuple

FUNCTIONS = frozenset(
    "sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh coth ln log exp".split()
)  # fmt: skip
INVERSES = {"sin": "arcsin", "cos": "arccos", "tan": "arctan"}
TRIGONOMETRIC = frozenset("sin cos tan cot sec csc".split())
GREEK = frozenset(
    "alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi rho sigma tau phi "
    "varphi chi psi omega Gamma Delta Theta Lambda Xi Sigma Phi Psi Omega".split()
)
_MATRICES = frozenset("pmatrix bmatrix".split())
_PLAIN_WORDS = (
    "arcsin",
    "arccos",
    "arctan",
    "sinh",
    "cosh",
    "tanh",
    "sqrt",
    "sin",
    "cos",
    "tan",
    "log",
    "exp",
    "ln",
    "pi",
)
_RELATIONS = {
    "<": "<", ">": ">", "=": "=", r"\lt": "<", r"\gt": ">", r"\le": "<=", r"\leq": "<=", r"\ge": ">=", r"\geq": ">=",
    r"\leqslant": "<=", r"\geqslant": ">=", r"\ne": "!=", r"\neq": "!=", "<=": "<=", ">=": ">=",
}  # fmt: skip
FLIPPED = {"<": ">", ">": "<", "<=": ">=", ">=": "<=", "=": "=", "!=": "!="}
_UNICODE = {
    "\N{MINUS SIGN}": "-", "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "∙": r"\cdot ", "÷": r"\div ",
    "π": r"\pi ", "∞": r"\infty ", "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "±": r"\pm ", "∪": r"\cup ", "∩": r"\cap ",
    "∅": r"\emptyset ", "°": r"^\circ ", "θ": r"\theta ", "α": r"\alpha ", "β": r"\beta ", "γ": r"\gamma ",
    "δ": r"\delta ", "λ": r"\lambda ", "μ": r"\mu ", "σ": r"\sigma ", "φ": r"\phi ", "ω": r"\omega ", "∈": r"\in ",
    **dict.fromkeys(spelling.SPACES, " "), "⁄": "/", "∕": "/",
    "½": r"\frac{1}{2}", "⅓": r"\frac{1}{3}", "⅔": r"\frac{2}{3}", "¼": r"\frac{1}{4}", "¾": r"\frac{3}{4}",
    "⅕": r"\frac{1}{5}", "⅖": r"\frac{2}{5}", "⅗": r"\frac{3}{5}", "⅘": r"\frac{4}{5}", "⅙": r"\frac{1}{6}",
    "⅚": r"\frac{5}{6}", "⅛": r"\frac{1}{8}", "⅜": r"\frac{3}{8}", "⅝": r"\frac{5}{8}", "⅞": r"\frac{7}{8}",
}  # fmt: skip
_RAISED = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-", strict=True))
_LOWERED = dict(zip("₀₁₂₃₄₅₆₇₈₉", "0123456789", strict=True))
_TOKEN = re.compile(
    r"(?P<number>[0-9]+(?:(?:,\\! ?|\{,\})[0-9]{3})*(?:\.[0-9]+)?|\.[0-9]+)|(?P<space>(?:[ \t\r\n]|\\[,;:! ]|~)+)"
    r"|(?P<command>\\[A-Za-z]+)|(?P<row>\\\\)|(?P<brace>\\[{}])"
    r"|(?P<sign>\*\*|<=|>=|[-+*/^_=<>!|.,&{}()\[\]])|(?P<letter>[A-Za-z])"
)
_EXPONENT = re.compile(r"[0-9.] ?[eE][-+]?[0-9]")  # 1e3 and 1e-3 are a thousand and a thousandth, or e times something
# Runs of letters that are words, and not the products of their letters.
_WORDS = frozenset(
    "nan inf oo or and not no yes mod gcd lcm max min det deg dim lim sup sum the is are if in to by of any all cm mm "
    "km kg mg ml ft yd lb oz hr sec sgn abs div".split()
)
_FRACTIONS = (r"\frac", r"\dfrac", r"\tfrac", r"\cfrac")
_BINOMIALS = (r"\binom", r"\dbinom", r"\tbinom")


class UnreadableError(Exception):
    """A text without a reading."""


class TooLargeError(Exception):
    """A number that is not computed here."""


def read(text: str) -> Tree | None:
    """The tree of a text, None where it has no reading."""
    if len(text) > LONGEST:
        return None
    try:
        return _Reader(_tokens(in_latex(text))).whole()
    except (UnreadableError, RecursionError):
        return None


def in_latex(text: str) -> str:
    """Signs of Unicode as commands: 2π, √2, x², ½, 30°. Characters without a meaning here stay, and are unreadable."""
    if text.isascii():
        return text
    text = re.sub(r"√ ?([0-9]+|[A-Za-z])(?![.])", r"\\sqrt{\1}", text)
    text = re.sub(r"√ ?(?=\()", r"\\sqrt ", text)
    raised = f"(?<=[\\w)}}\\]]) ?([{''.join(_RAISED)}]+)"
    text = re.sub(raised, lambda match: f"^{{{_spelled(match[1], _RAISED)}}}", text)
    text = re.sub(f"(?<=[A-Za-z])[{''.join(_LOWERED)}]+", lambda match: f"_{{{_spelled(match[0], _LOWERED)}}}", text)
    return "".join(_UNICODE.get(character, character) for character in text)


def _spelled(text: str, table: dict[str, str]) -> str:
    return "".join(table[character] for character in text)


def _tokens(text: str) -> list[str]:
    if _EXPONENT.search(text):
        raise UnreadableError("1e3")
    text = re.sub(r",([ \t]|\\[,;:! ])*\\q?quad(?![A-Za-z])", ",", text)
    text = re.sub(r"\\[bB]igg?[lrm]?(?= ?\\?[()\[\]{}|])", "", text)
    text = re.sub(r"\\math(?:rm|it) ?\{ ?([ie]) ?\}", r"{\1}", text)
    tokens, place = [], 0
    while place < len(text):
        match = _TOKEN.match(text, place)
        if match is None:
            raise UnreadableError(text[place])
        token = " " if match["space"] else "^" if match[0] == "**" else match[0]
        digits = _is_whole(token) and _takes_digits([part for part in tokens[-5:] if part != " "])
        tokens += [token[:1], *filter(None, [token[1:]])] if digits else [token]
        place = match.end()
    return tokens


def _takes_digits(before: list[str]) -> bool:
    r"""Whether the digits that follow are taken one by one: \frac12, \log_28."""
    return before[-1:] != [] and (before[-1] in _FRACTIONS + _BINOMIALS or before[-2:] == [r"\log", "_"])


class _Reader:
    """Recursive descent over tokens. Spaces are tokens, for \\frac 1 2 and 2 1/2; most rules skip them."""

    def __init__(self, tokens: list[str]):
        self.tokens, self.at, self.depth, self.in_angle, self.in_bars = tokens, 0, 0, False, 0

    # --- tokens

    def skip(self) -> None:
        while self.at < len(self.tokens) and self.tokens[self.at] in (" ", r"\displaystyle"):
            self.at += 1

    def peek(self) -> str:
        """The next token that is no space; "" at the end."""
        self.skip()
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def take(self, token: str = "") -> str:
        taken = self.peek()
        if not taken or (token and taken != token):
            raise UnreadableError(taken)
        self.at += 1
        return taken

    def follows(self, *tokens: str) -> bool:
        """Whether these come next; then they are taken."""
        start = self.at
        for token in tokens:
            if self.peek() != token:
                self.at = start
                return False
            self.at += 1
        return True

    def opening(self) -> str:
        """The bracket that opens here, without taking it; with `\\left` where it has one. "" where none does."""
        start, token = self.at, self.peek()
        if token == r"\left":
            self.at += 1
            token = token + self.peek()
        self.at = start
        return token if token.removeprefix(r"\left") in ("(", "[", r"\{", "|", r"\lvert") else ""

    def open(self, bracket: str) -> None:
        if bracket.startswith(r"\left"):
            self.take(r"\left")
        self.take(bracket.removeprefix(r"\left"))
        self.depth += 1
        if self.depth > DEEPEST:
            raise UnreadableError("too deep")

    def close(self, bracket: str, *allowed: str) -> str:
        """The closing bracket, with `\\right` exactly where the opening one had `\\left`."""
        if bracket.startswith(r"\left"):
            self.take(r"\right")
        closing = self.take()
        if closing not in allowed:
            raise UnreadableError(closing)
        self.depth -= 1
        return closing

    # --- what a whole answer may be

    def whole(self) -> Tree:
        tree = self.statement()
        if self.peek():
            raise UnreadableError(self.peek())
        return tree

    def statement(self) -> Tree:
        """A relation, a list, a union of intervals, or what those have as parts."""
        parts = [self.relation()]
        while self.follows(","):
            parts.append(self.relation())
        return parts[0] if len(parts) == 1 else ("list", tuple(parts))

    def relation(self) -> Tree:
        sides, signs = [self.joined()], []
        while self.peek() in _RELATIONS or self.peek() == r"\in":
            sign = self.take()
            signs.append(_RELATIONS.get(sign, "in"))
            sides.append(self.joined())
        return sides[0] if not signs else ("relation", tuple(signs), tuple(sides))

    def joined(self) -> Tree:
        parts, kind = [self.part()], ""
        while self.peek() in (r"\cup", r"\cap"):
            sign = "union" if self.take() == r"\cup" else "meet"
            if kind not in ("", sign):
                raise UnreadableError(sign)
            kind = sign
            parts.append(self.part())
        if kind and any(part[0] not in ("set", "bracket", "sym") for part in parts):
            raise UnreadableError(kind)
        return parts[0] if not kind else (kind, tuple(parts))

    def part(self) -> Tree:
        """A value, or one thing in brackets that is none."""
        if self.peek() in (r"\emptyset", r"\varnothing"):
            self.take()
            return ("set", ())
        start, depth, in_angle, in_bars = self.at, self.depth, self.in_angle, self.in_bars
        if self.peek() == "{":
            braced = self.plain_set()
            if braced is not None:
                return braced
            self.at, self.depth, self.in_angle, self.in_bars = start, depth, in_angle, in_bars
        collection = self.collection()
        if collection is not None:
            return collection
        self.at, self.depth = start, depth
        return self.signed_sum()

    def collection(self) -> Tree | None:
        """A set, tuple, interval or matrix; None where a value begins."""
        if self.peek() == r"\begin":
            return self.matrix()
        bracket = self.opening()
        if bracket.removeprefix(r"\left") not in ("(", "[", r"\{"):
            return None
        kind = bracket.removeprefix(r"\left")
        self.open(bracket)
        if kind == r"\{" and self.peek() in (r"\}", r"\right"):
            self.close(bracket, r"\}")
            return ("set", ())
        parts = [self.element()]
        while self.follows(","):
            parts.append(self.element())
        if kind == r"\{":
            self.close(bracket, r"\}")
            return ("set", tuple(parts))
        closing = self.close(bracket, ")", "]")
        if kind + closing == "()" and len(parts) == 1:
            return None  # a value in brackets: the sum reads it again, with what follows
        if kind + closing != "[]" and len(parts) != 2 and kind + closing != "()":
            raise UnreadableError(closing)
        return ("bracket", kind + closing, tuple(parts))

    def plain_set(self) -> Tree | None:
        """{1, 2} without backslashes; None where the braces hold a value."""
        try:
            self.take("{")
            parts = [self.element()]
            while self.follows(","):
                parts.append(self.element())
            self.take("}")
        except UnreadableError:
            return None
        return ("set", tuple(parts)) if len(parts) > 1 else None

    def element(self) -> Tree:
        self.depth += 1
        if self.depth > DEEPEST:
            raise UnreadableError("too deep")
        part = self.part()
        self.depth -= 1
        return part

    def matrix(self) -> Tree:
        self.take(r"\begin")
        kind = self.word()
        if kind not in _MATRICES:
            raise UnreadableError(kind)
        rows: list[list[Tree]] = [[]]
        while True:
            rows[-1].append(self.signed_sum())
            if self.follows("&"):
                continue
            if self.follows(r"\\"):
                if self.peek() == r"\end":
                    break
                rows.append([])
                continue
            break
        self.take(r"\end")
        if self.word() != kind or len({len(row) for row in rows}) > 1:
            raise UnreadableError(kind)
        return ("matrix", tuple(map(tuple, rows)))

    def word(self) -> str:
        """The name in {pmatrix}."""
        self.take("{")
        letters = ""
        while self.peek() != "}":
            letters += self.take()
        self.take("}")
        return letters

    # --- values

    def signed_sum(self) -> Tree:
        """A sum; with one `\\pm` in it, both of its values."""
        start = self.at
        if r"\pm" not in self.tokens[start:]:
            return self.sum()
        place = self.tokens.index(r"\pm", start)
        values = []
        for sign in ("+", "-"):
            reader = _Reader([*self.tokens[:place], sign, *self.tokens[place + 1 :]])
            reader.at = start
            values.append(reader.sum())
        if reader.at <= place:  # it stands in another part
            return self.sum()
        if self.depth:
            raise UnreadableError(r"\pm")
        self.at = reader.at
        return ("plusminus", tuple(values))

    def sum(self) -> Tree:
        negative = self.follows("-")
        if not negative:
            self.follows("+")
        terms = [self.term(negative)]
        while self.peek() in ("+", "-"):
            terms.append(self.term(self.take() == "-"))
        return terms[0] if len(terms) == 1 else ("add", tuple(terms))

    def term(self, negative: bool = False) -> Tree:
        value, slashed = self.product(), False
        while self.peek() in (r"\cdot", r"\times", "*", "/", r"\div"):
            sign = self.take()
            divides = sign in ("/", r"\div")
            if slashed and sign in (r"\cdot", r"\times"):
                raise UnreadableError("a/b \\cdot c")
            right = self.factor_or_product(divides)
            value = ("div", value, right) if divides else ("mul", (value, right))
            slashed = divides
        return ("neg", value) if negative else value

    def factor_or_product(self, divides: bool) -> Tree:
        """What stands after a sign of multiplication or division: after "/" one factor, for 1/2x has two readings."""
        negative = self.follows("-")
        if not divides:
            right = self.product()
        else:
            right = self.factor()
            if self.begins_factor():
                raise UnreadableError("1/2x")
        return ("neg", right) if negative else right

    def product(self) -> Tree:
        """Factors side by side. A number stands first or after a sign only: no 7 2, x2, (2)3."""
        first = self.factor()
        mixed = self.mixed(first)
        factors = [first if mixed is None else mixed]
        while self.begins_factor():
            if _is_number(self.peek()) or (factors[-1] == ("sym", "d") and _is_name(self.peek())):
                raise UnreadableError(self.peek())  # dy/dx is no quotient of products
            factors.append(self.factor())
        return factors[0] if len(factors) == 1 else ("mul", tuple(factors))

    def mixed(self, first: Tree) -> Tree | None:
        r"""1\frac{1}{2} and 1 1/2: a whole number and a proper fraction. An improper one has no reading."""
        start = self.at
        spaced = self.tokens[start - 1] == " "
        if first[0] != "num" or not _is_whole(self.tokens[start - 2 if spaced else start - 1]):
            return None
        if self.peek() in (r"\frac", r"\dfrac", r"\tfrac"):
            fraction = self.factor()
            above, below = fraction[1:] if fraction[0] == "div" else (None, None)
        elif spaced and _is_whole(self.peek()):
            above = ("num", Fraction(self.take()))
            if not self.follows("/") or not _is_whole(self.peek()):
                raise UnreadableError("7 2")
            below = ("num", Fraction(self.take()))
        else:
            return None
        if not (above and above[0] == below[0] == "num"):
            self.at = start
            return None
        if not 0 < above[1] < below[1]:
            raise UnreadableError("improper mixed number")
        return ("add", (first, ("div", above, below)))

    def begins_factor(self) -> bool:
        token = self.peek()
        if token in ("(", "{", r"\left", "[", r"\lvert") or (token == "|" and not self.in_bars):
            return True
        if token.startswith("\\"):
            name = token[1:]
            known = name in FUNCTIONS or name in GREEK or name in ("pi", "infty", "frac", "dfrac", "tfrac", "cfrac")
            return known or name in ("sqrt", "binom", "dbinom", "tbinom")
        return bool(token) and (token.isalpha() or _is_number(token))

    def factor(self) -> Tree:
        """A value with the powers and marks after it."""
        base, function = self.value()
        if function:
            return base
        while True:
            if self.follows("^", r"\circ") or self.follows("^", "{", r"\circ", "}"):
                if not self.in_angle:
                    raise UnreadableError(r"^\circ")
                base = ("div", ("mul", (base, ("const", "pi"))), ("num", Fraction(180)))
            elif self.peek() == "^":
                base = ("pow", base, self.exponent())
                if self.peek() == "^":
                    raise UnreadableError("x^2^3")
            elif self.peek() == "!":
                self.take()
                if self.peek() in ("!", "="):
                    raise UnreadableError("!")
                base = ("fact", base)
            else:
                return base

    def exponent(self) -> Tree:
        self.take("^")
        if self.peek() == "{":
            return self.braced()
        if self.peek() == "(":
            return self.bracketed()
        negative = self.follows("-")
        token = self.take()
        if _is_number(token):
            value = _number(token)
        elif _is_group(token):
            self.at -= 1
            value = self.value()[0]
        else:
            value = self.name(token)
        return ("neg", value) if negative else value

    def braced(self) -> Tree:
        self.take("{")
        self.depth += 1
        if self.depth > DEEPEST:
            raise UnreadableError("too deep")
        value = self.sum()
        self.take("}")
        self.depth -= 1
        return value

    def bracketed(self) -> Tree:
        bracket = self.opening()
        if bracket.removeprefix(r"\left") not in ("(", "["):
            raise UnreadableError(bracket)
        self.open(bracket)
        value = self.sum()
        self.close(bracket, {"(": ")", "[": "]"}[bracket.removeprefix(r"\left")])
        return value

    def value(self) -> tuple[Tree, bool]:
        """(a value, whether it is a function's, whose powers stand before its argument)."""
        bracket = self.opening()
        if bracket.removeprefix(r"\left") in ("|", r"\lvert"):
            return self.absolute(bracket), False
        if bracket.removeprefix(r"\left") in ("(", "["):
            return self.bracketed(), False
        token = self.peek()
        if token == "{":
            return self.braced(), False
        if token.isalpha():
            return self.letters()
        token = self.take()
        if _is_number(token):
            return self.repeating(token), False
        name = token[1:] if token.startswith("\\") else ""
        if name in ("frac", "dfrac", "tfrac", "cfrac"):
            above = self.argument()
            return ("div", above, self.argument()), False
        if name in ("binom", "dbinom", "tbinom"):
            above = self.argument()
            return ("binom", above, self.argument()), False
        if name == "sqrt":
            return self.root(), False
        if name in FUNCTIONS:
            return self.function(name), True
        return self.name(token), False

    def repeating(self, token: str) -> Tree:
        r"""A number, with 0.1\overline{6} and 0.\overline{3}."""
        if self.follows(".", r"\overline", "{"):
            part = ""
        elif "." in token and self.follows(r"\overline", "{"):
            part = token.partition(".")[2]
        else:
            return _number(token)
        digits = self.take()
        if not _is_whole(digits):
            raise UnreadableError(digits)
        self.take("}")
        whole = _number(token)[1]
        return ("num", whole + Fraction(int(digits), (10 ** len(digits) - 1) * 10 ** len(part)))

    def absolute(self, bracket: str) -> Tree:
        self.open(bracket)
        self.in_bars += 1
        value = self.sum()
        self.in_bars -= 1
        self.close(bracket, {"|": "|", r"\lvert": r"\rvert"}[bracket.removeprefix(r"\left")])
        return ("abs", value)

    def argument(self) -> Tree:
        r"""Of \frac and its like: in braces, or one digit or letter."""
        if self.peek() == "{":
            return self.braced()
        token = self.peek()
        if _is_whole(token) and len(token) == 1:  # `_tokens` has taken the digits of \frac12 apart
            return ("num", Fraction(self.take()))
        if token.isalpha() or token == r"\pi" or token[1:] in GREEK:
            return self.name(self.take())
        raise UnreadableError(token)

    def root(self) -> Tree:
        degree: Tree = ("num", Fraction(2))
        if self.peek() == "[":
            self.take("[")
            degree = self.sum()
            self.take("]")
        if self.peek() in ("(", r"\left"):
            return ("root", degree, self.bracketed())
        token = self.peek()
        if _is_whole(token) and len(token) > 1:
            raise UnreadableError(rf"\sqrt{token}")
        return ("root", degree, self.argument())

    def letters(self) -> tuple[Tree, bool]:
        """A letter, or a function that is spelled without a backslash. Longer words are none."""
        start, word = self.at, ""
        while self.at < len(self.tokens) and self.tokens[self.at].isalpha() and len(self.tokens[self.at]) == 1:
            word += self.tokens[self.at]
            self.at += 1
        if word in _PLAIN_WORDS:
            if word == "pi":
                return ("const", "pi"), False
            return (self.root(), False) if word == "sqrt" else (self.function(word), True)
        if len(word) > 3 or (len(word) > 1 and not word.islower()) or word in _WORDS:
            raise UnreadableError(word)
        self.at = start + 1
        return self.name(word[0]), False

    def name(self, token: str) -> Tree:
        """A constant, or a variable with its index."""
        name = token.removeprefix("\\")
        if token == r"\infty":
            return ("const", "oo")
        if token == r"\pi":
            return ("const", "pi")
        if not (token.isalpha() and len(token) == 1) and not (token.startswith("\\") and name in GREEK):
            raise UnreadableError(token)
        if self.peek() == "_":
            return ("sym", f"{token}_{self.index()}")
        if token in ("f", "g", "h") and self.peek() in ("(", r"\left"):
            return ("sym", f"{token}({self.applied()})")
        return ("const" if token in ("e", "i") else "sym", token)

    def applied(self) -> str:
        """The single letter or number that a function without a meaning here is of: f(x) is not f times x."""
        bracket = self.opening()
        self.open(bracket)
        symbol = self.take()
        if not (symbol.isalpha() or _is_number(symbol)):
            raise UnreadableError(symbol)
        self.close(bracket, ")")
        return symbol

    def index(self) -> str:
        self.take("_")
        if self.peek() == "{":
            self.take("{")
            text = ""
            while self.peek() != "}":
                token = self.take()
                if not (token.isalnum() or token in ("+", "-", ",")):
                    raise UnreadableError(token)
                text += token
            self.take("}")
            return text
        token = self.take()
        if len(token) != 1 or not token.isalnum():
            raise UnreadableError(token)
        return token

    def function(self, name: str) -> Tree:
        r"""\sin x, \sin^2 x, \sin(x), \log_2 8, \ln 2. Where an argument without brackets ends must not be in doubt."""
        base = exponent = None
        if name == "log" and self.peek() == "_":
            self.take("_")
            base = self.braced() if self.peek() == "{" else self.argument()
        if self.peek() == "^":
            exponent = self.exponent()
        angle, self.in_angle = self.in_angle, name in TRIGONOMETRIC
        value = self.function_argument()
        self.in_angle = angle
        if exponent in (("neg", ("num", Fraction(1))), ("num", Fraction(-1))):
            if name not in INVERSES:
                raise UnreadableError(name)
            return ("fn", INVERSES[name], value)
        tree = ("log", base, value) if base else ("fn", name, value)
        if exponent is None:
            return tree
        if exponent[0] != "num" or exponent[1].denominator != 1:
            raise UnreadableError(name)
        return ("pow", tree, exponent)

    def function_argument(self) -> Tree:
        if self.opening().removeprefix(r"\left") == "(":
            value = self.bracketed()
            if self.peek() in ("^", "!"):
                raise UnreadableError("sin(x)^2")
            return value
        if self.peek() == "{":
            return self.braced()
        if self.opening():
            raise UnreadableError(self.opening())
        factors = []
        for kind in (_is_number, _is_constant, _is_name, _is_group):
            if kind(self.peek()) and not (kind is _is_group and factors):
                factors.append(self.factor())
        if not factors or self.begins_argument() or self.peek() in ("/", r"\div"):
            raise UnreadableError("argument")
        return factors[0] if len(factors) == 1 else ("mul", tuple(factors))

    def begins_argument(self) -> bool:
        """Whether a factor follows that could still belong to the argument: another function is none."""
        return self.begins_factor() and self.peek()[1:] not in FUNCTIONS


def _is_number(token: str) -> bool:
    return bool(token) and (token[0] in "0123456789" or (token[0] == "." and len(token) > 1))


def _is_whole(token: str) -> bool:
    return bool(token) and token.isascii() and token.isdigit()


def _is_constant(token: str) -> bool:
    return token == r"\pi"


def _is_name(token: str) -> bool:
    return (len(token) == 1 and token.isalpha()) or (token.startswith("\\") and token[1:] in GREEK)


def _is_group(token: str) -> bool:
    return token in (r"\frac", r"\dfrac", r"\tfrac", r"\sqrt")


def _number(token: str) -> Tree:
    return ("num", Fraction(re.sub(r",\\! ?|\{,\}", "", token)))


# --- values that are fractions --------------------------------------------------------------------------------------


def rational(tree: Tree) -> Fraction | None:
    """The value of a tree of rational numbers, None for any other. Raises ZeroDivisionError and TooLargeError."""
    kind, parts = tree[0], tree[1:]
    if kind == "num":
        return parts[0]
    if kind in ("add", "mul"):
        parts = parts[0]
    elif kind not in ("neg", "abs", "div", "pow", "fact", "binom"):
        return None
    values = [rational(part) for part in parts]
    if None in values:
        return None
    value = _OPERATIONS[kind](*values)
    if value is not None and value.numerator.bit_length() + value.denominator.bit_length() > LARGEST_BITS:
        raise TooLargeError
    return value


def _power(base: Fraction, exponent: Fraction) -> Fraction | None:
    if exponent.denominator != 1:
        return None
    if base == 0 and exponent <= 0:
        raise ZeroDivisionError
    if (base.numerator.bit_length() + base.denominator.bit_length()) * abs(exponent) > LARGEST_BITS:
        raise TooLargeError
    return base ** int(exponent)


def _factorial(value: Fraction) -> Fraction:
    if value.denominator != 1 or value < 0:
        raise ZeroDivisionError
    if value > LARGEST_FACTORIAL:
        raise TooLargeError
    return Fraction(math.factorial(int(value)))


def _binomial(above: Fraction, below: Fraction) -> Fraction:
    if above.denominator != 1 or below.denominator != 1 or min(above, below) < 0:
        raise ZeroDivisionError
    if above > LARGEST_FACTORIAL:
        raise TooLargeError
    return Fraction(math.comb(int(above), int(below)))


_OPERATIONS: dict[str, Callable[..., Fraction | None]] = {
    "add": lambda *values: sum(values, Fraction(0)),
    "mul": lambda *values: math.prod(values, start=Fraction(1)),
    "neg": operator.neg,
    "abs": abs,
    "div": operator.truediv,
    "pow": _power,
    "fact": _factorial,
    "binom": _binomial,
}


# --- values in floating point ---------------------------------------------------------------------------------------

_PLACES = (0.734 + 0.411j, -0.529 + 0.873j)  # of the first letter; no real ones, where branches of functions meet
_STEP = 0.377 - 0.193j
_FAR = 1e-6  # of the largest number on the way; rounding is some 1e-15 of it
_FLOATS: dict[str, Callable[[complex], complex]] = {
    "sin": cmath.sin, "cos": cmath.cos, "tan": cmath.tan, "sinh": cmath.sinh, "cosh": cmath.cosh, "tanh": cmath.tanh,
    "arcsin": cmath.asin, "arccos": cmath.acos, "arctan": cmath.atan, "ln": cmath.log, "exp": cmath.exp,
    "cot": lambda x: 1 / cmath.tan(x), "sec": lambda x: 1 / cmath.cos(x), "csc": lambda x: 1 / cmath.sin(x),
    "coth": lambda x: 1 / cmath.tanh(x), "log": lambda x: cmath.log(x) / cmath.log(2.3),
}  # fmt: skip


def far_apart(first: Tree, second: Tree) -> bool:
    """Whether two values differ by far at some place of their letters. False where floating point cannot say."""
    letters = sorted(_letters(first) | _letters(second))
    for place in _PLACES if letters else (0j,):
        values = {letter: place + at * _STEP for at, letter in enumerate(letters)}
        try:
            largest = [1e-300]
            difference = abs(_float(first, values, largest) - _float(second, values, largest))
        except (ArithmeticError, ValueError, KeyError):
            return False
        if difference > _FAR * max(largest):  # false for nan
            return True
    return False


def _letters(tree: object) -> set[str]:
    if not isinstance(tree, tuple):
        return set()
    return {tree[1]} if tree[:1] == ("sym",) else set().union(*map(_letters, tree))


def _float(tree: Tree, values: dict[str, complex], largest: list[float]) -> complex:
    value = complex(_rounded(tree, values, largest))
    value = complex(value.real, value.imag or 0.0)  # the side of a branch that exact arithmetic takes
    largest.append(abs(value))
    return value


def _rounded(tree: Tree, values: dict[str, complex], largest: list[float]) -> complex:
    kind, parts = tree[0], tree[1:]
    if kind == "num":
        return complex(float(parts[0]))
    if kind == "sym":
        return values[parts[0]]
    if kind == "const":
        return {"e": cmath.e, "i": 1j, "pi": cmath.pi}[parts[0]]
    if kind == "fn":
        return _FLOATS[parts[0]](_float(parts[1], values, largest))
    numbers = [_float(part, values, largest) for part in (parts[0] if kind in ("add", "mul") else parts)]
    if kind == "root":
        degree, value = numbers
        if not value.imag and value.real < 0 and degree.real % 2 == 1:
            return -((-value) ** (1 / degree))
        return value ** (1 / degree)
    return {
        "add": sum, "mul": math.prod, "neg": lambda parts: -parts[0], "abs": lambda parts: abs(parts[0]),
        "div": lambda parts: parts[0] / parts[1], "pow": lambda parts: parts[0] ** parts[1],
        "log": lambda parts: cmath.log(parts[1]) / cmath.log(parts[0]),
    }[kind](numbers)  # fmt: skip
