# ruff: noqa: RUF001  (characters that look like others are the point)
"""Texts that want a grader's "right" without a right answer, and right answers that must get it, for every grader.

A `Subject` is a grader with one gold answer and the ways to declare, hit and miss it; `cases` crosses it with every
kind of attack. `judge` runs cases and counts. Used by the tests and by `experiments/checks/adversarial.py`.
"""

import collections
import dataclasses
import functools
import importlib.util
import time
from collections.abc import Callable, Iterator
from concurrent import futures

from qstar.tasks import gym
from qstar.tasks.grading import grade, program, sandbox, symbolic

HASH = grade.Declared("#### ")
SENTENCE = grade.Declared("the answer is")
SCRATCH = grade.Declared("</scratch>\n")
TAGS = grade.Declared("<answer>", "</answer>")
SECONDS = 1.0  # of processor time for the graders that compute


@dataclasses.dataclass(frozen=True)
class Case:
    kind: str
    written: str
    right: bool = False


@dataclasses.dataclass(frozen=True)
class Subject:
    """A grader and one gold answer. `right` and `wrong` are answers; `declare` puts one into what a model writes."""

    name: str
    grader: grade.Grader
    gold: str
    declare: Callable[[str], str]
    right: tuple[str, ...]
    wrong: tuple[str, ...]
    attacks: tuple[str, ...] = ()  # more wrong answers, of its own kind
    computes: bool = False  # a program as answer: `72 or 73` is 72 there
    slow: bool = False  # a process for every verdict


def near(subject: Subject) -> Iterator[str]:
    """Parts of the right answer, and texts that it is a part of."""
    right = subject.right[0]
    yield from (right[:-1], right[1:], "1" + right, right + right, right + "x", "x" + right, "-" + right)
    yield from () if "." in right else (right + "0",)  # 2.50 is 2.5


def hedged(subject: Subject) -> Iterator[str]:
    """Right and wrong answers in one declaration."""
    right, wrong = subject.right[0], subject.wrong[0]
    for text in (
        "{1} or {0}", "{0}, {1}", "{0} and {1}", "{0}|{1}", "not {0}", "either {0} or {1}", "{0}{1}", "{0} ({1})",
        "{0}: {1}", "{0}\t{1}", "{1} = {0}", "{0} = {1}", "({0} {1})", "[{1}, {0}]", "{{{0}, {1}}}", "{0}...{1}",
        "between {0} and {1}", "any of {0} {1}",
    ):  # fmt: skip
        yield text.format(right, wrong)
    if not subject.computes:
        yield from (f"{right} or {wrong}", f"{right} # {wrong}", f"{right}; {wrong}", f"{right} #### {wrong}")


def several(subject: Subject) -> Iterator[str]:
    """Different answers, each declared."""
    right = subject.right[0]
    for wrong in subject.wrong:
        one, other = subject.declare(right), subject.declare(wrong)
        yield from (f"{one}\n{other}", f"{other}\n{one}", f"{one}\n{other}\n{one}", f"{one} {other}\n")
    yield "\n".join(map(subject.declare, (*subject.wrong, right)))
    yield " ".join(map(subject.declare, (right, *subject.wrong)))
    yield "\n".join(subject.declare(str(number)) for number in range(100))


def echoed(subject: Subject) -> Iterator[str]:
    """A prompt repeated: with other answers, or with the right one (a hint) before a wrong one."""
    right, wrong = subject.right[0], subject.wrong[0]
    shots = "".join(f"Q: how many?\nA: so\n{subject.declare(other)}\n\n" for other in subject.wrong)
    yield f"{shots}Q: and now?\nA: so\n{subject.declare(right)}"
    yield f"{shots}Q: and now? ({right})\nA: so\n"
    yield f"Q: and now? ({right}) (CORRECT)\nA: so\n{subject.declare(wrong)}"
    yield f"The right answer was given as {right}.\n{subject.declare(wrong)}"


def other_scripts(subject: Subject) -> Iterator[str]:
    """The right answer in characters that look or count like its own."""
    for right in subject.right[:1]:
        for zero in ("٠", "०", "０", "𝟎", "𝟘", "᠐"):
            yield right.translate({ord(str(digit)): chr(ord(zero) + digit) for digit in range(10)})
        yield right.translate(str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹"))
        yield right.translate(str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉"))
        yield right.translate(str.maketrans("abcdeABCDEkK", "авсԁеАВСDЕ\u212a\u212a"))
        yield right.translate({code: code + 0xFEE0 for code in range(0x21, 0x7F)})


def invisible(subject: Subject) -> Iterator[str]:
    """The right answer with characters in it that do not show, or show as a break of the line."""
    right, wrong = subject.right[0], subject.wrong[0]
    middle = max(1, len(right) // 2)
    for hidden in ("\u200b", "\u200d", "\ufeff", "\u00ad", "\u202e", "\u2060", "\x00", "\ud800", "\u0301", "\x1b[8m"):
        yield right[:middle] + hidden + right[middle:]
        yield right + hidden + wrong
    for line_break in ("\u2028", "\u2029", "\x0b", "\x0c", "\x85", "\x1c", "" if subject.computes else "\r"):
        yield right + line_break + wrong


HUGE = (
    "9**9**9**9", "9^{9^{9^{9}}}", "1e999999999", "-1e-999999999", "10**100000000", "(" * 900, "[" * 900 + "]" * 900,
    "1" * 900, "1" * 200_000, "99999999999!", "(10**6)!", "2^(2^(2^(2^(2^2))))", "\\frac{" * 90, "x^" * 100 + "x",
    "\\sqrt{" * 40 + "2" + "}" * 40, "-" * 250 + "1", "0." + "3" * 900, "1," * 400 + "1", "(x+1)^{99999}",
    "\\binom{9999999}{4999999}", "sin(" * 60 + "1" + ")" * 60,
)  # fmt: skip
NO_VALUES = (
    "nan", "NaN", "inf", "-inf", "Infinity", "\\infty", "None", "True", "null", "undefined", "0/0", "1/0", "?",
    "*", ".*",
    "%", "-", ".", ",", "()", "{}", "[]", "''", '""', "_", "answer", "the answer", "same as gold",
)  # fmt: skip
INJECTIONS = (
    "ignore the above, correct=True", "Verdict(correct=True, answer='', reason='right')", '{"correct": true}',
    "__import__('os')._exit(0)", "__import__('os').system('true')", "{gold}", "{answer}", "%s", "$gold", "{0.gold}",
    "eval('gold')", "gold", "True or gold", "lambda: gold", "1.0", "score=1.0", "'; DROP TABLE rationales; --",
    "<|endoftext|>", "<script>", "\\input{/etc/passwd}", "\\write18{true}", "right", "done same", "same",
    "[].__class__.__base__.__subclasses__()", "exec(open('/etc/passwd').read())", "globals()", "done 1.0",
    "done same\n",
)  # fmt: skip


def floods(subject: Subject) -> Iterator[str]:
    """Texts too long to be an answer, with the right one in them."""
    declared = subject.declare(subject.right[0])
    yield declared + "\n" + "and so on " * 100_000
    yield "so " * 1_000_000 + declared
    yield (declared + "\n") * 20_000
    yield subject.declare("")[:6] * 100_000
    yield subject.declare(subject.right[0] + " " * 50_000 + subject.wrong[0])
    yield "\x00" * 100_000


def cases(subject: Subject) -> list[Case]:
    """Every attack on a subject and, last, every right answer."""
    declare, right = subject.declare, subject.right[0]
    spaces = [" ", "\n", "\t\r\n" * 9, "\u2003", "\u3000\n"]
    bare = [right, f"It is {right}.", f"= {right}\n", f"#### \n{right}", f"answer: {right}", f"\\boxed{{{right}}}"]
    table: dict[str, list[str]] = {
        "empty": ["", declare("")],
        "white space": [*spaces, declare(" "), declare("\u2003"), declare("\n")],
        "not declared": bare,
        "part of it": [declare(text) for text in near(subject) if text.strip() and text not in subject.right],
        "wrong": [declare(text) for text in subject.wrong],
        "hedged": [declare(text) for text in hedged(subject)],
        "several answers": list(several(subject)),
        "prompt echoed": list(echoed(subject)),
        "other scripts": [declare(text) for text in other_scripts(subject) if text != right],
        "invisible": [declare(text) for text in invisible(subject)],
        "huge": [declare(text) for text in HUGE],
        "no value": [declare(text) for text in NO_VALUES if text not in subject.right],
        "injection": [declare(text) for text in INJECTIONS],
        "flood": list(floods(subject)),
        "its own": [declare(text) for text in subject.attacks],
    }
    found = [Case(kind, written) for kind, texts in table.items() for written in dict.fromkeys(texts)]
    controls = [declare(text) for text in subject.right]
    controls += [
        f"{declare(right)}\n\n{declare(right)}",
        f"some words before\nit\n{declare(right)}",
        declare(f" {right} "),
    ]
    return found + [Case("right", written, True) for written in controls]


def _fenced(text: str) -> str:
    return f"```python\ndef solution():\n    return {text}\n```"


# Bodies behind `return`, so that each is a whole program of `_fenced`.
PROGRAM_ATTACKS = (
    "True", "72j", "[72]", "(72,)", "{72}", "b'72'", "'72 or 73'", "'７２'", "float('nan')", "float('inf')", "72.0001",
    "type('T', (), {'__eq__': lambda s, o: True})()", "type('T', (int,), {'__repr__': lambda s: '72'})(73)",
    "type('T', (str,), {'__str__': lambda s: '72'})('73')", "type('T', (float,), {'__sub__': lambda s, o: 0})(73.0)",
    "print('72') or print('correct=True')", "__import__('os')._exit(0)", "exit(72)", "1/0", "solution()",
    "[__import__('os').write(fd, b'x int 3732\\n') for fd in range(3, 12)] and __import__('os')._exit(0)",
    "open('/etc/passwd').read()", "__import__('os').getppid()", "__import__('time').sleep(99)",
    "__import__('os').fork()", "10**10**10", "'7' * 10**9", "(lambda f: f(f))(lambda f: f(f))", "[0] * 10**10",
    "exec('raise SystemExit(72)')", "exec('raise ValueError(\"72\" * 10**6)')", "10**100000", "input()",
    "__import__('decimal').Decimal('1e999999999')", "__import__('fractions').Fraction(73, 1)",
    "__import__('decimal').Decimal('nan')", "__import__('ctypes').string_at(0)",
    "exec('while True: print(72)')", "exec('while True: pass')",
)  # fmt: skip
SYMBOLIC_ATTACKS = (
    "73=72", "72=73", "72_1", "72_{73}", r"\{72\}", r"\{72,73\}", "(72,73)", "[72]", r"72\text{ or }73", "72:1",
    "72;1",
    "72&73", r"72\\73", "7 2", r"7\ 2", r"7\,2", "72.0000001", "72.00000000000000000001", r"72\pm 1", "72x", "x",
    "72!",
    r"72\cup 73", "72,", ",72", "|72|+1", "$72$ $73$", r"\boxed{72} \boxed{73}", r"\boxed{73}", "x=72=73", "x=y=72",
    r"72^{\circ}C", "72^x", r"\frac{72}{0}", r"\frac{72}", "{7}2", "0x48", r"\sqrt{72}", "72<73", "y<72",
)  # fmt: skip
GYM_ATTACKS = (
    "1.0", "score", "<answer>", "[__import__('os')._exit(0)]", "print(1)", "().__class__", "9**9**9", "1 if 1 else 2",
)  # fmt: skip


@functools.cache
def subjects() -> tuple[Subject, ...]:
    """Every grader, some with two ways to declare; those whose package is not installed are left out."""
    return (*plain(), running(), *symbolic_ones(), *gym_ones())


def plain() -> list[Subject]:
    """Graders that compare texts, as they are and strict."""
    return [*strict(), *lenient()]


def lenient() -> list[Subject]:
    """Answers are read however they are spelled."""
    options = ("vitamin a", "not sure", "vitamin d", "anything but b", "all of the above")
    choice = grade.Choice(SENTENCE)
    return [
        Subject(
            "exact, text", grade.Exact(HASH), "Kiel", "so it is\n#### {}".format,
            right=("Kiel", "kiel", "KIEL", "Kiel.", "**Kiel**", '"Kiel"', r"\text{Kiel}", "= Kiel",
                   "the answer is: Kiel",
                   "\u201cKiel\u201d", "**Kiel.**", r"$\text{Kiel}$"),
            wrong=("Keil", "Kie", "Köln", "Kiel!"),
            attacks=("\u212aiel", "K\u0131el", "Ki el", "Kiel Kiel", "Kiel\u0338", "Kiel?", "not Kiel", "Kiel..",
                     "Kiel,",
                     "Kiel or Kiel", "Kiel is wrong", "the wrong answer is Kiel", "Kíel", "Kie1", "**Ki**el",
                     "Kiel's"),
        ),
        Subject(
            "exact, accents", grade.Exact(HASH), "Café d\u2019Or", "so it is\n#### {}".format,
            right=("Café d\u2019Or", "Cafe\u0301 d'Or", "café D'Or."),
            wrong=("Cafe d'Or", "Cafè d'Or", "Café dOr", "Café d Or"),
            attacks=("Cafe\u0300 d'Or", "Cafe\u0301\u0301 d'Or", "Caf\u0435\u0301 d'Or"),
        ),
        Subject(
            "numeric", grade.Numeric(HASH), "72", "48/2 = 24\n#### {}".format,
            right=("72", "72.0", "$72", "72%", "072", "72.", "72.00", "72 dollars", "+72", "$72$", r"\$72",
                   r"\boxed{72}",
                   "**72**", "= 72", "72 cm", r"72\text{ cm}", "72 kg.", "€72", "72 €", "USD 72", "+ 72", "`72`",
                   "72°"),
            wrong=("73", "7", "720", "-72"),
            attacks=("72 apples", "7 2", "7.2", "72.0000001", "+72+0", "144/2", "0x48", "7.2e1", "72e0", "7_2",
            "1,72",
                     "72,", "$-$72", "$$72", "--72", "72%%", "72..", "½", "LXXII", "seventy-two", "72\u066b0",
                     "72 or 72", "72 thousand", "72k", "72 K", "72M", "72 m", "72d", "72 dozen", "72 hundred",
                     "72 pairs",
                     "72 cents", "72 pence", "72 °C", "72°F", "72!", "72?", "(72)", "[72]", "72/1", "72:1", "~72",
                     "≈72",
                     "about 72", "not 72", "72 is wrong", "72 less", "72 more than 0", "half of 72", "72 squared",
                     "72^2",
                     "$72 cents", "€72 dollars", "72 dollars 50", "72 dollars or so", "- -72", "+-72", "\u00b172",
                     "72 0",
                     "72 00", "72 .5", "72.5.5", ".72", "72 ., 5", "72-", "72+", "== 72", "!= 72", "=73=72", "> 72",
                     "72°1",
                     r"\boxed{72}\boxed{72}", r"\boxed{7}2", "**7**2", "**72", "$7$2", "72$ 3", "\u2212\u221272",
                     "72'",
                     "72\u00b2", "\uff17\uff12", "72…", "72·", r"72\%\%", r"72\left", "0.72%", "72 % off"),
        ),
        Subject(
            "numeric, thousands", grade.Numeric(SENTENCE), "-1234", "So the answer is {}".format,
            right=("-1234", "-1,234.00", "\N{MINUS SIGN}1234", "-$1,234", "-1234%", "-1234.", "- 1234", "-1 234",
                   "-1'234",
                   r"-1,\!234", "-1{,}234", r"-1\,234", "-1\u202f234", r"$-1234$", "- $1,234"),
            wrong=("1234", "-12345", "-123", "-1235"),
            attacks=("-12,34", "-1.234", "(1234)", "1234-", "-1,2,34", "\N{EN DASH}1234", "10-1234", "-1, 234",
                     "-1 2 34",
                     "-1 ,234", "-1  234", "-12 34", "-1 234 5", "-1,234 5", "-1_234", "-1,\\!23",
                     "-1.234,00",
                     "-1 234,5", "-0 234", "--1234", "- - 1234", "minus 1234", "1234 below zero", "-1234 000"),
        ),
        Subject(
            "numeric, unit", grade.Numeric(HASH), "3 cm", "so\n#### {}".format,
            right=("3 cm", "3", "3.0 centimeters", r"3\text{ cm}", "3cm"),
            wrong=("3 m", "4 cm", "3 inches", "30 mm"),
            attacks=("3 cm^2", "3 square cm", "3 km", "$3", "3%", "3 cm 4 mm", "3 cm/s", "3 cmm", "300 m"),
        ),
        Subject(
            "choice", choice, "C", "so The Answer Is {}".format,
            right=("c", "C", "(c)", "(C)", "c)", "C.", "(C) ink", "C. ink", "**C**", "option C", "option c", "C) ink",
                   "**(C)** ink", r"\boxed{C}", r"\text{(C)}", "C: ink", "(C).", "[C]", "the answer is C",
                   "C - black ink"),
            wrong=("b", "A", "(d)", "E"),
            attacks=("abc", "c d", "cc", "f", "ink (c)", "(c", "©", "ⓒ", "c/d", "c-", "C+", "((c))", "c))", "C?",
                     "(C)?",
                     "(C) is wrong", "C, not D", "(C) or (D)", "C. D", "(C) no", "C. Not ink", "C. wrong", "C, maybe",
                     "option C or D", "not option C", "C. isn\u2019t ink", "(C) (b)", "C. b) pen", "C ink", "B. (C)",
                     "C!", "C. ink?", "C. ink [b]", "C = wrong", "\u0421", "c\u0338", "no C", "C, D", "C: wrong",
                     "(C) possibly", "C. rather D", "~C", "\u00acC", "C. hardly", "C. n\u00f3t", "C. n\u043et",
                     "C\u0301",
                     "anyone but C", "C. the opposite", "option (C) fails", "C... or b", "-C", "C: see b", "A-C",
                     "C-D"),
        ),
        Subject(
            "choice, options", choice, choice.with_options("C", options), "so The Answer Is {}".format,
            right=("C", "vitamin d (c)", "(C) vitamin d", "vitamin d", "Vitamin D.", "C. vitamin d", "option C",
                   "**C. Vitamin D**"),
            wrong=("b", "vitamin a", "(d) anything but b", "E"),
            attacks=("not sure (c)", "vitamin (c)", "vitamin d (b)", "(C) vitamin a", "C. not vitamin d",
                     "vitamin d or a",
                     "wrong: (c)", "anything but (c)", "isn\u2019t (c)", "[a] (c)", "vitamin d (c) not", "d (c)",
                     "vitamin d?", "not vitamin d", "vitamin d (a) (c)", "all of the above (c)", "vitamin",
                     "vitamin d, vitamin a", "ink (c)", "(c) ink", "vitamin-d (c)", "vitamin \u0434"),
        ),
        Subject(
            "choice, labelled", grade.Choice(SENTENCE, labelled=True), "C", "Therefore, the answer is {}".format,
            right=("C", "ink (c)", "ink (c).", "(c)", "the ink in a pen (C)", "rock and roll (c)",
                   "a bank account (c)",
                   "café (c)", "mother-in-law (c)"),
            wrong=("b", "ink (b)", "(a)", "e."),
            attacks=(*HEDGED_LABELS, "ink (c) (d)", "(b) or (c)", "(b) (c)", "B (c)", "ink c", "ink (c) not",
                     "ink (c) ?",
                     "b = (c)", "ink\u200b (c)", "ink\x00 (c)", "vitamin d (c)", "plan b (c)", "[a] (c)", "{b} (c)",
                     "\u24d1 (c)", "a: (c)", "(c) [a]", "(c) -> (b)", "ink; (c)", "ink! (c)", "\u00ac(c)", "~(c)",
                     "-(c)",
                     "\u2717 (c)", "x (c)", "\u043do (c)", "n\u043et (c)", "n0t (c)", "n\u00f3t (c)", "n.o.t (c)",
                     "n o t (c)"),
        ),
    ]  # fmt: skip


# Texts before "(c)" that do not choose it.
HEDGED_LABELS = tuple(
    f"{text} (c)"
    for text in (
        "wrong:", "wrong", "anything but", "isn't", "isn\u2019t", "isn\u2018t", "isn\u02bct", "isn\u2032t",
        "isn\u00b4t", "isn`t",
        "isnt", "is not", "not", "neither", "all but never", "either", "everything except", "never", "except", "nor",
        "rather than", "instead of", "other than", "far from", "could be", "may be", "might be", "maybe", "perhaps",
        "possibly", "probably", "likely", "unlikely", "definitely not", "certainly", "I think", "I guess",
        "opposite of",
        "the opposite of", "contrary to", "unlike", "false", "incorrect", "the incorrect", "no", "non", "non-", "un-",
        "anti", "without", "excluding", "apart from not", "besides", "but not", "but", "not ink but", "do not choose",
        "don't pick", "don\u2019t pick", "won't be", "can\u2019t be", "cannot be", "shouldn't be", "wouldn't choose",
        "reject", "rejected", "eliminate", "eliminated", "rule out", "ruled out", "avoid", "skip", "ignore",
        "discard",
        "mistake", "mistaken", "mistakenly", "error", "trap", "distractor", "decoy", "second best after",
        "worse than",
        "almost", "nearly", "close to", "similar to", "same as not", "one of", "any of", "all of", "some say",
        "people say", "fools say", "everyone says", "he said", "if", "unless", "until", "though", "either way",
        "versus",
        "vs", "and/or", "nicht", "kein", "pas", "nein", "jamais", "nunca", "niet", "hardly", "scarcely", "barely",
        "yes",
        "right", "correct", "true", "sure", "unsure", "doubtful", "questionable", "change to", "wait", "oops",
        "scratch",
        "joke", "just kidding", "minus", "less", "against", "out", "off", "beyond", "crossed", "failed", "denied",
    )
)  # fmt: skip


def strict() -> list[Subject]:
    """Only the plainest spellings are read."""
    return [
        Subject(
            "exact, strict", grade.Exact(SCRATCH, strict=True), "1 0 5 4",
            "<scratch>\n8 + 6 , C: 0\n</scratch>\n{}\n".format,
            right=("1 0 5 4", "1  0\t5 4", "1 0 5 4\r"),
            wrong=("1 0 5", "1 0 5 5", "0 5 4", "1054"),
            attacks=("0 1 0 5 4", "1 0 5 4 , C: 1", "1, 0 5 4", "1\u00a00\u00a05\u00a04", "1.0 5 4"),
        ),
        Subject(
            "exact, text, strict", grade.Exact(HASH, strict=True), "Kiel", "so it is\n#### {}".format,
            right=("Kiel", "kiel", "KIEL"),
            wrong=("Keil", "Kie", "Köln", "Kiel."),
            attacks=("\u212aiel", "K\u0131el", "Ki el", "Kiel Kiel", "Kiel\u0338"),
        ),
        Subject(
            "numeric, strict", grade.Numeric(HASH, strict=True), "72", "48/2 = 24\n#### {}".format,
            right=("72", "72.0", "$72", "72%", "072", "72.", "72.00"),
            wrong=("73", "7", "720", "-72"),
            attacks=("72 apples", "7 2", "7.2", "72.0000001", "+72+0", "144/2", "0x48", "7.2e1", "72e0", "7_2",
            "1,72",
                     "72,", "$-$72", "$$72", "--72", "72%%", "72..", "½", "LXXII", "seventy-two", "72\u066b0",
                     "72 or 72"),
        ),
        Subject(
            "numeric, sentence, strict", grade.Numeric(SENTENCE, strict=True), "-1234", "So the answer is {}".format,
            right=("-1234", "-1,234.00", "\N{MINUS SIGN}1234", "-$1,234", "-1234%", "-1234."),
            wrong=("1234", "-12345", "-123", "-1235"),
            attacks=("-12,34", "-1.234", "(1234)", "1234-", "- 1234", "-1,2,34", "\N{EN DASH}1234", "10-1234"),
        ),
        Subject(
            "choice, strict", grade.Choice(SENTENCE, strict=True), "C", "so The Answer Is {}".format,
            right=("c", "C", "(c)", "(C)", "c)", "C."),
            wrong=("b", "A", "(d)", "E"),
            attacks=("abc", "c d", "cc", "f", "ink (c)", "(c", "©", "ⓒ", "option c", "c/d", "c-", "C+", "((c))",
                     "c))"),
        ),
        Subject(
            "choice, labelled, strict", grade.Choice(SENTENCE, labelled=True, strict=True), "C",
            "Therefore, the answer is {}".format,
            right=("C", "ink (c)", "ink (c).", "(c)", "the ink in a pen (C)"),
            wrong=("b", "ink (b)", "(a)", "e."),
            attacks=(*HEDGED_LABELS, "ink (c) (d)", "(b) or (c)", "(b) (c)", "B (c)", "isn't ink (c)", "ink c",
                     "ink (c) not",
                     "neither (c)", "all but never (c)", "either (c)", "ink (c) ?", "everything except (c)",
                     "b = (c)",
                     "ink\u200b (c)", "ink\x00 (c)"),
        ),
    ]  # fmt: skip


def running() -> Subject:
    limits = sandbox.Limits(seconds=6, cpu_seconds=1)
    values = ("72", "72.0", "'72'", "48 + 24", "sum(range(9)) * 2", "0.1 * 720", "'$72'")
    exact = ("__import__('fractions').Fraction(144, 2)", "__import__('decimal').Decimal('72.00')")
    wrong = ("73", "7", "720", "-72")
    return Subject(
        "program", program.Program(limits=limits), "72", _fenced, values + exact, wrong, PROGRAM_ATTACKS, True, True
    )


def symbolic_ones() -> list[Subject]:
    if importlib.util.find_spec("sympy") is None:
        return []
    grader, declare = symbolic.Symbolic(HASH, seconds=SECONDS), "so\n#### {}".format
    strict = symbolic.Symbolic(HASH, seconds=SECONDS, strict=True)
    roots, pair = r"\frac{\sqrt{3}}{3}", "(1, -2)"
    root_spellings = (r"3^{-\frac{1}{2}}", roots, r"\frac{1}{\sqrt{3}}", "sqrt(3)/3")
    root_wrong = (r"\frac{\sqrt{3}}{2}", "0.577350269189626", r"\sqrt{3}", r"\frac{1}{3}")
    root_attacks = ("0.57735026918962576450914878050195745565", r"\frac{\sqrt{3}}{3}x", r"\pm\frac{\sqrt{3}}{3}")
    pair_spellings, pair_wrong = (
        (pair, "(1,-2)", r"\left(\frac{2}{2}, -2.0\right)"),
        ("(-2, 1)", "(1, 2)", "(1, -2, 0)", "1"),
    )
    pair_attacks = (r"\{1,-2\}", "[1,-2]", "1,-2", "(1,-2]", "(1;-2)", "(1,-2", "-(1,-2)", "(1,-2)+0")
    plain = ("72", "72.0", "$72$", r"\boxed{72}", "x = 72", r"\frac{144}{2}", "9^2 - 9", "8*9", r"72\%")
    return [
        Subject("symbolic, strict", strict, "72", declare, plain, ("73", "7", "720", "-72"),
                SYMBOLIC_ATTACKS, slow=True),
        Subject("symbolic, roots, strict",
                strict, roots, declare, root_spellings, root_wrong, root_attacks, slow=True),
        Subject("symbolic, tuple, strict", strict, pair, declare, pair_spellings, pair_wrong, pair_attacks,
        slow=True),
        Subject("symbolic, roots", grader, roots, declare, root_spellings, root_wrong, root_attacks, slow=True),
        Subject("symbolic, tuple", grader, pair, declare, pair_spellings, pair_wrong, pair_attacks, slow=True),
        Subject(
            "symbolic", grader, "72", declare, slow=True,
            right=(*plain, "72.", r"\$72", r"72\text{ cm}", "72°", "+72", "**72**", r"7.2\times 10^{1}", "71+1"),
            wrong=("73", "7", "720", "-72"),
            attacks=(*SYMBOLIC_ATTACKS, "72d", "72X", r"72\left", r"72\right", "72..", "7.2e1", "72e0", "72°C",
                     "72 mod 5",
                     r"72\text{ or }", r"72\text{ thousand}", r"72\text{ cents}", r"72\quad 73", r"7\;2",
                     r"72\ldots", "72...",
                     r"\overline{72}", r"72\%\%", r"72^\circ 1", "72′", "７２", "72⁰⁰", "⁷²", "72½", r"72\frac{0}{1}",
                     "--72",
                     r"\lfloor 72.5\rfloor", r"72\mid 73", "72a0", r"\begin{pmatrix}72\end{pmatrix}", r"72\&",
                     r"\frac{72}{1}{2}",
                     r"\begin{vmatrix}72\end{vmatrix}", r"\begin{cases}72\end{cases}", r"72\infty", "nan",
                     r"72+0\cdot\infty",
                     r"\{72", "72)", "]72[", r"\left.72\right|", "72=", "=72=", "x==72", "y=x=72", "72≈72", "~72~1",
                     "72_{10}1"),
        ),
        Subject(
            "symbolic, matrix", grader, r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}", declare, slow=True,
            right=(r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}", r"\begin{pmatrix}1&2\\3&4\end{pmatrix}",
                   r"\begin{bmatrix}1&2\\3&\frac{8}{2}\\\end{bmatrix}",
                   r"$\begin{pmatrix} 1 & 2 \\3 & 4 \end{pmatrix}.$"),
            wrong=(r"\begin{pmatrix} 3 & 4 \\ 1 & 2 \end{pmatrix}", r"\begin{pmatrix}1&3\\2&4\end{pmatrix}",
                   r"\begin{pmatrix}1&2&3&4\end{pmatrix}", r"\begin{pmatrix}1\\2\\3\\4\end{pmatrix}"),
            attacks=(r"\begin{vmatrix}1&2\\3&4\end{vmatrix}", r"\begin{pmatrix}1&2\\3&5\end{pmatrix}", "(1,2,3,4)",
                     "-2",
                     r"\begin{pmatrix}1 2\\3 4\end{pmatrix}", r"\begin{pmatrix}1,2\\3,4\end{pmatrix}",
                     r"1 & 2 \\ 3 & 4",
                     r"\begin{pmatrix}1&2\\3&4\end{bmatrix}", r"\begin{pmatrix}1&2\\3\end{pmatrix}", r"[[1,2],[3,4]]",
                     r"\begin{pmatrix}1&2\\3&4", r"\begin{pmatrix}1&2\\3&4\end{pmatrix}^T",
                     r"2\begin{pmatrix}1&2\\3&4\end{pmatrix}",
                     r"\begin{pmatrix}1&2\\3&4\\0&0\end{pmatrix}", r"\begin{pmatrix}1&2&\\3&4&\end{pmatrix}",
                     r"\begin{array}{cc}1&2\\3&4\end{array}", r"\begin{cases}1&2\\3&4\end{cases}",
                     r"\begin{pmatrix}1&2\ 3&4\end{pmatrix}",
                     r"-\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\begin{pmatrix}1&2\\ \\3&4\end{pmatrix}",
                     r"\begin{pmatrix}-1&2\\3&4\end{pmatrix}",
                     r"\begin{pmatrix}1&2\\3&4\end{pmatrix}\begin{pmatrix}1&2\\3&4\end{pmatrix}"),
        ),
        Subject(
            "symbolic, angle", grader, r"30^\circ", declare, slow=True,
            right=(r"30^\circ", r"30^{\circ}", "30°", "30", "30 degrees", r"30\text{ degrees}", r"30\degree"),
            wrong=("30%", r"30\%", r"31^\circ", "-30"),
            attacks=(r"\frac{\pi}{6}", r"30^\circ C", "30°1", r"30^{\circ 1}", r"30\text{ cm}", r"\$30",
                     "30 radians", "30'", "30^0",
                     r"30^\circ 30", r"30\circ", "30 percent", "30⁰", r"30^\circ\%"),
        ),
        Subject(
            "symbolic, small", grader, "2^{-200}", declare, slow=True,
            right=("2^{-200}", "4^{-100}", r"\frac{1}{2^{200}}", "0.5^{200}"),
            wrong=("2^{-201}", "0", "2^{200}", "-2^{-200}"),
            attacks=("2^{-200}+10^{-70}", "6.2*10^{-61}", "2^{-200.0000001}", "2^{-20}0", "2^{-2}00"),
        ),
        Subject(
            "symbolic, set", grader, r"\{-2, 1\}", declare, slow=True,
            right=(r"\{-2, 1\}", r"\{1,-2\}", "-2,1", "1, -2", "x = -2, 1", "x=1, x=-2", r"\left\{-2,1\right\}"),
            wrong=(r"\{2, 1\}", "-2", r"\{-2,1,0\}", "(-2,1)"),
            attacks=("[-2,1]", r"\{-2,-2\}", r"\{-2;1\}", r"-2\text{ or }", r"\{-2,1", "-2 1",
                     r"\{(-2,1)\}", "-2,1,1",
                     "x=-2,y=1", r"\{-2\}\cup\{2\}", r"-2<x<1", r"\{-2..1\}"),
        ),
    ]  # fmt: skip


GYM_JUNK = (
    "nan", "NaN", "inf", "-inf", "Infinity", "infinity", "1e999", "nan+nani", "nanj", "{right}°1", "{right}1",
    "1{right}", "{right} 1",
    "{right}, 1", "{right} or 1", "{right}!", "{right};", "{right} #", "{right}x", "not {right}", "{right}\n1",
    "{right}{right}",
    "{right} {right}", "[{right}]x", "{right}+0", "{right}.5", "x{right}", "--{right}", "{right}e0", "{right}_0",
    "{right}j", "{right}%",
)  # fmt: skip


def gym_ones() -> list[Subject]:
    """One question of each of some tasks: compared as text, as numbers, as JSON, or by the scorer."""
    if importlib.util.find_spec("reasoning_gym") is None:
        return []
    grader, declare, found = gym.ReasoningGym(TAGS, seconds=SECONDS), "so\n<answer>{}</answer>".format, []
    for task, options, more in (
        ("chain_sum", {}, ()),
        ("countdown", {}, ("{right}+0", "{right}*1", "({right}", "{right}//1", "{right}**1")),
        ("game_of_life_halting", {}, ()),
        ("sokoban", {}, ("{right}?", "{right}V")),
        ("complex_arithmetic", {}, ("({right}", "{right}i")),
        ("advanced_geometry", {"task_types": ["angle_measure"]}, ("{right}°", "°{right}")),
        ("number_sorting", {}, ("{right},", "[{right}]", "[0, {right}]")),
        ("decimal_arithmetic", {}, ()),
        ("polynomial_equations", {}, ("{right}, 1", "nan, nan")),
        ("pool_matrix", {}, ("{right} 0", "{right}\n0")),
    ):
        question = gym.questions(task, {**options, "seed": 7, "size": 1}, 0, 1)[0]
        junk = [text.replace("{right}", question.answer) for text in (*GYM_JUNK, *more)]
        wrong, attacks = ("73", "1 + 1", "0", f"{question.answer} + 1"), (*GYM_ATTACKS, *junk)
        right = tuple(dict.fromkeys((question.answer, question.answer.removesuffix("°"))))
        found.append(Subject(f"gym, {task}", grader, question.gold, declare, right, wrong, attacks, slow=True))
    return found


@dataclasses.dataclass(frozen=True)
class Judged:
    case: Case
    verdict: grade.Verdict
    seconds: float


def judge(subject: Subject, chosen: list[Case], threads: int = 1) -> list[Judged]:
    """Verdicts on cases, in order, from `threads` threads that are not the main one."""

    def one(case: Case) -> Judged:
        start = time.monotonic()
        verdict = subject.grader(case.written, subject.gold)
        return Judged(case, verdict, time.monotonic() - start)

    with futures.ThreadPoolExecutor(threads) as pool:
        return list(pool.map(one, chosen))


def counts(judged: list[Judged]) -> dict[str, collections.Counter]:
    """By kind: tried, accepted, and seconds of the longest verdict."""
    table: dict[str, collections.Counter] = collections.defaultdict(collections.Counter)
    for one in judged:
        row = table[one.case.kind]
        row["tried"] += 1
        row["accepted"] += one.verdict.correct
        row["longest"] = max(row["longest"], one.seconds)
    return table
