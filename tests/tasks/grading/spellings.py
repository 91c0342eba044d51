# ruff: noqa: RUF001  (characters that look like others are the point)
"""Right answers in many spellings, by gold answer: what graders read, and what stays refused and why.

Every spelling is a right answer to its gold answer as a reader would judge it. `wrong` are answers that differ in one
thing. Used by the tests and by `experiments/checks/right_spellings.py`, which prints both rates.
"""

import dataclasses
import importlib.util

from qstar.tasks.grading import grade, symbolic

HASH = grade.Declared("#### ")


@dataclasses.dataclass(frozen=True)
class Spelled:
    kind: str  # of grader
    gold: str
    right: tuple[str, ...]
    refused: tuple[tuple[str, str], ...] = ()  # (spelling, why it is not read)
    wrong: tuple[str, ...] = ()
    options: tuple[str, ...] = ()  # of a choice, where they are known


def grader(kind: str, strict: bool = False) -> grade.Grader:
    kinds = {"numeric": grade.Numeric, "exact": grade.Exact, "choice": grade.Choice, "symbolic": symbolic.Symbolic}
    return kinds[kind](HASH, strict=strict)


def gold(spelled: Spelled) -> str:
    return grader(spelled.kind).with_options(spelled.gold, spelled.options) if spelled.options else spelled.gold


def correct(spelled: Spelled, text: str, strict: bool = False) -> bool:
    """Whether the grader takes an answer; False where it does not even read the gold answer."""
    judge, right = grader(spelled.kind, strict), gold(spelled)
    try:
        judge.canonical(right)
    except ValueError:
        assert strict
        return False
    return judge(f"so\n#### {text}\n", right).correct


def table() -> list[Spelled]:
    """Without the symbolic ones where sympy is not installed."""
    return [*NUMERIC, *EXACT, *CHOICE, *(SYMBOLIC if importlib.util.find_spec("sympy") else ())]


NOUN = "a noun that is no unit of measure: a dozen, a pair or a half would change the number"
WORDS = "a number in words"
ALONE = "brackets around a number mean its negative in accounts"
DECIMAL = "a comma may separate thousands or decimals"
COMPUTED = "nothing is computed where a number is expected"
SCRIPT = "digits of other scripts and superscripts can look like other numbers"
SENTENCE = "a sentence about the answer can take it back"
CONVERTED = "units are not converted"
AMBIGUOUS = "there are two usual readings"
NOTATION = "a notation that is not read"
ORDER = "a list without brackets may be in order"
UNKNOWN = "without the options a text beside the letter may be another option's"

NUMERIC = (
    Spelled(
        "numeric", "72",
        right=(
            "72", "72.", "72.0", "72.00", "072", "+72", "+ 72", "72%", "72 %", r"72\%", "72 percent", "$72", r"\$72",
            "$ 72",
            "$72.00", "72$", "72 $", "72 dollars", "72 USD", "USD 72", "US$72", "€72", "72 €", "72€", "72 euros",
            "£72",
            "72 pounds", "¥72", "₹72", "Rs. 72", "$72$", "$$72$$", r"\(72\)", r"\[72\]", r"\boxed{72}",
            r"$\boxed{72}$",
            r"\boxed{72}.", r"\boxed{\$72}", r"\boxed{72\text{ dollars}}", "**72**", "**72.**", "**$72**",
            "**72 dollars**",
            "*72*", "__72__", "`72`", '"72"', "'72'", "= 72", "=72", "= $72", ": 72", "Answer: 72",
            "The answer is 72.",
            "the final answer is: 72", "answer = 72", "Result: 72", r"\text{72}", r"\mathbf{72}", r"\textbf{72}",
            "72 cm", "72cm", "72 km", "72 miles", "72 feet", "72 inches", "72 hours", "72 minutes", "72 days",
            "72 years",
            "72 kg", "72 grams", "72 liters", "72 gallons", "72 mph", "72 km/h", "72 miles per hour",
            "72 square feet",
            "72 cm^2", "72 cm²", r"72 \text{ cm}^2", "72 cubic meters", "72 meters.", r"72\text{ hours}",
            r"72\,\text{km}",
            r"72~\mathrm{kg}", "72 degrees", "72°", r"72^\circ", "72 units", "\t72  ", "72.000000", "72 weeks",
            "72 months",
            "72 pounds.", "72 lbs", "72 oz", "72 yards", "72 seconds", "72 tons", "72 ml", "72 litres",
            "72 dollars per hour",
            "$72 per hour", "72 m/s", "72 Dollars", "x = 72", "x=72", "It is 72.", "it's 72", "72 is the answer",
            "72 dollars is correct.",
            # Dollars around a price, marks of Markdown and of other languages, labels, other spaces.
            r"$\$72$", r"$\boxed{\$72}$", r"\(\$72\)", r"$\$72.00$.", "‘72’", "«72»", "„72“", "_72_",
            "**Answer:** 72", "**Answer**: 72", "**Final answer:** $72$", "=> 72", "-> 72", "→ 72", "Ans: 72",
            "The best answer is 72", r"x = \boxed{72}", r"$x = 72$", r"x_1 = 72", r"\theta = 72^\circ", "AB = 72",
            "P(2) = 72",
            r"m\angle A = 72^\circ", "\u00a072", "72\u00a0", "72。", r"\underline{72}", r"\bold{72}", r"\texttt{72}",
            r"\displaystyle 72", r"\;72", "$72 a day", "72 dollars an hour", "72 miles an hour",
            "72 dollars each day", "$72 per day",
            "72 acres", "72 mg", "72 nm", "72 calories", "72 GB", "72 decades", "72 yuan", "INR 72", "72 bucks",
            "72º", r"72^ \circ",
            r"72^{ \circ }",
        ),
        refused=(
            ("72 apples", NOUN), ("72 people", NOUN), ("72 students", NOUN), ("seventy-two", WORDS), ("(72)", ALONE),
            ("144/2", COMPUTED), ("7.2e1", COMPUTED), ("7.2 x 10^1", COMPUTED), ("７２", SCRIPT), ("٧٢", SCRIPT),
            ("72 m", AMBIGUOUS), ("He has 72 dollars left", SENTENCE),
            ("40 + 32 = 72", COMPUTED), ("72 in total", SENTENCE),
            ("72 cents", CONVERTED), ("72!", "a factorial, perhaps"), ("72,00", DECIMAL), ("about 72", SENTENCE),
            ("72:00", NOTATION), ("72 dollars each", SENTENCE), ("72 N", AMBIGUOUS), ("72 kJ", "no unit of the list"),
        ),
        wrong=("73", "7", "720", "-72", "- 72", "72.01", "72 thousand", "7 2", "72 000", "72 or 73", "72..",
               "$72 000",
               "0.72", "72/1", "72 dozen", "72 hundred", "not 72", "x=y=72", "x==72", "x = = 72", "72 million",
               "7.2", "72 72", "1 072", "72 C", r"$\$72$ $73$", r"$\$72\$", r"$72\$73$", "**Answer:** 73",
               "**Wrong answer:** 72",
               "The worst answer is 72", "-> -72", "72 > 7", "x_1 = 73", "AB = -72", "72 an", "72 a b",
               "72 dollars a 73",
               r"x = \boxed{73}", r"x = = \boxed{72}", "x = the answer is 72", "72'000", "72’0",
               "72。73", "72 ^circ"),
    ),
    Spelled(
        "numeric", "-3",
        right=("-3", "- 3", "−3", "− 3", "-3.0", "-$3", "-$3.00", "$-3", "- $3", r"$-3$", r"\boxed{-3}", "**-3**",
               "= -3",
               "-3 degrees", "-03", "-3%", "-3.", "−3°", r"-\$3"),
        refused=(("negative 3", WORDS), ("minus 3", WORDS), ("(3)", ALONE), ("–3", "an en dash may be a dash")),
        wrong=("3", "+3", "--3", "- -3", "-3 -3", "-.3", "3-", "-30", "-4"),
    ),
    Spelled(
        "numeric", "1234567",
        right=("1234567", "1,234,567", "1 234 567", "1\u00a0234\u00a0567", "1\u202f234\u202f567",
               "1\u2009234\u2009567",
               r"1,\!234,\!567", "1{,}234{,}567", r"1\,234\,567", r"1\ 234\ 567", "1~234~567", "$1,234,567",
               "1,234,567.0",
               "**1,234,567**", "1,234,567 dollars", r"\$1{,}234{,}567", "+1,234,567", r"\boxed{1,234,567}",
               "1,234,567.00",
               "= 1,234,567", "1 234 567 km", "1'234'567", "1’234’567", "1\u2007234\u2007567", "1\u200a234\u200a567",
               "1\u205f234\u205f567", r"1,\! 234,\! 567", r"$\$1,234,567$"),
        refused=(("1.234.567", DECIMAL), ("1_234_567", NOTATION), ("1.234567 million", WORDS)),
        wrong=("1'234,567", "1'234’567", "1'2345'67", "1'234'56", "1,\u2009234,\u2009567", "12'34'567",
               r"1,\! 234,\! 56", "1,234,56", "1 234,567", "1,234 567", "1234,567", "12,34,567", "1, 234, 567",
               "1 234", "1,234,567,000",
               r"1,\!234,567.5", "1 2 3 4 5 6 7", "1,234,568"),
    ),
    Spelled(
        "numeric", "0.5",
        right=("0.5", ".5", "0.50", "$0.50", "00.5", "0.5 km", "+.5", r"\boxed{0.5}", "0.5.", "**0.5**", "$.50",
               "= .5"),
        refused=(("1/2", COMPUTED), ("½", COMPUTED), ("0,5", DECIMAL), ("50%", CONVERTED), ("half", WORDS),
                 ("0.5%", AMBIGUOUS), ("50 cents", CONVERTED)),
        wrong=("5", "0.05", "-.5", "0. 5", "0.5.5", "1.5", "0.51"),
    ),
    Spelled(
        "numeric", "3 cm",
        right=("3 cm", "3", "3cm", "3.0 cm", "3 centimeters", r"3\text{ cm}", r"3\,\mathrm{cm}", "**3 cm**", "3 cm."),
        refused=(("0.03 m", CONVERTED), ("30 mm", CONVERTED)),
        wrong=("3 m", "3 km", "3 inches", "3 cm^2", "$3", "3%", "4 cm", "3 nm", "3 cm a day", "3 cm an hour"),
    ),
    Spelled(
        "numeric", "0",
        right=("0", "0.0", "-0", "$0", "0%", "0 %", r"0\%", "0 percent", "0.0%", "0 dollars", r"\boxed{0}", ".0"),
        refused=(("zero", WORDS), ("none", WORDS), ("0 cents", CONVERTED)),
        wrong=("O", "1%", "0.1%", "0/0", "00.1", "1e-400", "10%"),
    ),
    Spelled(
        "numeric", "$15 per hour",
        right=("$15 per hour", "15", "$15 an hour", "15 dollars an hour", "$15/hour", "15 dollars per hour",
               "$15 each hour",
               "$15 every hour", "15 dollars/hr", r"\$15 per hour"),
        refused=(("$15", "a price is no wage"), ("$360 a day", CONVERTED)),
        wrong=("$15 a day", "15 euros an hour", "$16 an hour", "15 hours", "15 miles an hour"),
    ),
)  # fmt: skip

EXACT = (
    Spelled(
        "exact", "Lima",
        right=("Lima", "lima", "LIMA", "Lima.", " Lima ", "**Lima**", "**Lima.**", "*Lima*",
               "__Lima__", '"Lima"', '"Lima."',
               "“Lima”", "'Lima'", "‘Lima’", "`Lima`", r"\text{Lima}", r"$\text{Lima}$", r"\boxed{Lima}",
               r"\boxed{\text{Lima}}",
               r"\textbf{Lima}", "= Lima", ": Lima", "Answer: Lima", "The answer is: Lima", "It is Lima.",
               "Lima is the answer",
               "the final answer is **Lima**",
               r"\mathrm{Lima}", "‘Lima.’", "«Lima»", "„Lima“", "_Lima_", "**Answer:** Lima", "**Answer**: Lima",
               "→ Lima", "Ans: Lima", "the best answer is Lima", "\u00a0Lima", "Lima\u00a0", "Lima。",
               r"\underline{Lima}",
               r"\texttt{Lima}"),
        refused=(("- Lima", "a sign, perhaps"), ("So, Lima", SENTENCE), ("Lima, Peru", SENTENCE), ("Lima!", SENTENCE),
                 ("Lima (Peru)", SENTENCE),
                 ("the city of Lima", SENTENCE)),
        wrong=("Lime", "Lim", "Lima?", "not Lima", "Lima or Quito", "Lima..", "Li ma", "Limà", "\u0421ima", "Lіma",
               "Lima,", "**Wrong answer:** Lima", "the worst answer is Lima", "the best answer is not Lima",
               "→ Quito",
               "_Lima_ _Quito_", "«Lima» «Quito»", "**Answer:** Quito"),
    ),
    Spelled(
        "exact", "New York",
        right=("New York", "new york", "New\u00a0York", "New\u2009York", "**New York**", "“New York.”", "‘New York’"),
        refused=(("New-York", NOTATION), ("NYC", WORDS)),
        wrong=("NewYork", "New\u200bYork", "York", "New York or Boston", "York New"),
    ),
    Spelled(
        "exact", "Café",
        right=("Café", "Cafe\u0301", "café.", "**Café**", "CAFé", "CAFÉ", "“Cafe\u0301”"),
        refused=(("Cafe", "an accent may tell words apart"),),
        wrong=("Cafè", "Cafe\u0300", "Cafés", "Caf\u0435\u0301"),
    ),
    Spelled(
        "exact", "it’s 4 o’clock",
        right=("it’s 4 o’clock", "it's 4 o'clock", "It's 4 o'clock.", "it\u02bcs 4 o\u02bcclock", "IT’S  4\to’clock",
               "**it's 4 o'clock**"),
        refused=(("its 4 oclock", "an apostrophe may tell words apart"), ("it is 4 o'clock", SENTENCE)),
        wrong=("it's 5 o'clock", "its' 4 o'clock", "it's 4 o'clock?", "it isn't 4 o'clock"),
    ),
    Spelled(
        "exact", "1 0 5 4",
        right=("1 0 5 4", "1  0 5 4", "1\t0 5 4", "1 0 5 4.", "**1 0 5 4**", "= 1 0 5 4", "`1 0 5 4`"),
        refused=(("1054", "digits apart are the form that was asked for"), ("1,0,5,4", NOTATION)),
        wrong=("1 0 5 5", "1 0 5", "0 1 0 5 4", "1 0 54", "1 0 5 4 , C: 1", "1 0 4 5"),
    ),
    Spelled(
        "exact", "U.S.A.",
        right=("U.S.A.", "u.s.a.", "U.S.A", "**U.S.A.**", '"U.S.A."'),
        refused=(("USA", "a full stop within may tell words apart"),),
        wrong=("U.S.B.", "U.S.", "U.S.A..", "US.A."),
    ),
)  # fmt: skip

CHOICE = (
    Spelled(
        "choice", "C",
        right=(
            "C", "c", "C.", "c.", "(C)", "(c)", "(C).", "C)", "c)", "C).", "**C**", "**c**", "**(C)**", "**C.**",
            "**C**.", "*C*", "__C__",
            "`C`", '"C"', "“C”", "'C'", "$C$", "$(C)$", r"\boxed{C}", r"$\boxed{C}$", r"\boxed{\text{C}}",
            r"\boxed{(C)}",
            r"\text{C}", r"\text{(C)}", r"\textbf{C}", r"\mathrm{C}", r"\textbf{(C)}", "[C]", "option C", "Option C",
            "option (C)",
            "Option C.", "choice C", "choice (c)", "letter C", "answer C", "the answer is C", "The answer is (C).",
            "Answer: C",
            "answer: (c)", "= C", ": C", ": (C)", "(C) ink", "(c) ink", "(C) ink.", "C. ink", "C. Ink", "C) ink",
            "C: ink",
            "c. ink", "C - ink", "C – ink", "**C. ink**", "**C.** ink", "**(C)** ink", "**C)** ink",
            r"\textbf{(C) } ink",
            r"\textbf{(C)} ink", "(C) black ink", "(C) a pen's ink", "C. $5", "C. 50 km", "C) New York",
            "(C) rock and roll",
            "(C) mother-in-law", "(C) café", "(C) the ink in a pen", "Option C: ink", "option (C) ink",
            "Option C. ink",
            "(C): ink", "(C). ink", "C is correct", "(C) is the correct answer.", "It's C", "the option C", " C ",
            "C\t", "‘C’", "_C_", "C。", "C\u00a0", r"\underline{C}", "**Answer:** C", "**Answer**: (C)",
            "The correct option is C",
            "the correct choice is (C).", "The best answer is C", "my choice is C", "Ans: C", "→ (C)", "-> C",
            "**C**: ink",
            "**C** ink", "C.\u00a0ink", "(C)\u00a0ink", r"\textbf{(C)}\ ink", r"\displaystyle C",
        ),
        refused=(
            ("ink (c)", UNKNOWN), ("ink", UNKNOWN), ("C ink", "C may be a word"), ("C, ink",
            NOTATION), 
            ("C!", SENTENCE), ("(C) all of the above", UNKNOWN), ("(C) vitamin d", UNKNOWN),
            ("I choose C", SENTENCE), ("C only", SENTENCE), ("C.ink", UNKNOWN), ("[C] ink", UNKNOWN),
            ("((C))", NOTATION), ("{C}", NOTATION), ("Ⓒ", SCRIPT), ("Ｃ", SCRIPT), ("the third one",
            SENTENCE), ("(C) [ink]", UNKNOWN),
        ),
        wrong=("D", "(b)", "A.", "C or D", "not C", "(C) (D)", "C?", "wrong: C", "anything but C", "B, not C",
               "isn’t C", "[a] (c)",
               "C, D", "neither C", "С", "C. D", "(C) is wrong", "not C is correct", "C is not the answer",
               "if C is correct", "C is the wrong answer", "It's not C", "option D", "(C) not ink", "C. no", "CD",
               "maybe C", "The wrong option is C", "the correct option is D", "the second best answer is C",
               "the best answer is D",
               "my choice is not C", "**Wrong answer:** C", "**C**: no", "**C** **D**", "**C** or ink", "-> D",
               "C -> D", "C = D",
               "«C» «D»", "I rule out C", "not only C"),
    ),
    Spelled(
        "choice", "C", options=("vitamin a", "not sure", "vitamin d", "anything but (b)", "all of the above"),
        right=(
            "C", "(c)", "C.", "option C", "vitamin d", "Vitamin D", "vitamin d.", "**vitamin d**", '"vitamin d"',
            r"\text{vitamin d}",
            "vitamin d (c)", "vitamin d (C).", "Vitamin D (C)", "(C) vitamin d", "(c) Vitamin D.", "C. vitamin d",
            "C) vitamin d",
            "C: vitamin d", "C - vitamin d", "**C. vitamin d**", "**(C)** vitamin d", "Option C: vitamin d",
            r"\boxed{\text{vitamin d}}",
            "(C) **vitamin d**", "(C) vitamin  d", "the answer is: vitamin d",
            "C vitamin d", "C, vitamin d", "C.vitamin d", "C)vitamin d", "(C)vitamin d", "[C] vitamin d",
            "C = vitamin d",
            "vitamin d [C]", "vitamin d, C", "vitamin d: (c)", "vitamin d - C", "**C**: vitamin d",
            "**C** – vitamin d",
            "C\u00a0vitamin\u00a0d", "‘vitamin d’", "**Answer:** vitamin d",
        ),
        refused=(("vitamin-d", "compared with the option's text"), ("the vitamin d",
        "compared with the option's text"),
                 ("d (the vitamin)", "compared with the option's text")),
        wrong=("vitamin a", "vitamin a (c)", "(C) vitamin a", "not sure (c)", "not vitamin d", "vitamin d (d)",
               "wrong: (c)",
               "vitamin d or vitamin a", "D", "d", "vitamin", "vitamin d (c) (d)", "isn’t (c)", "vitamin d?",
               "C vitamin a", "C, not vitamin d", "C = not sure", "vitamin d, not C", "vitamin a: C",
               "not vitamin d - C",
               "D vitamin d", "vitamin d, D", "C vitamin d or D", "C.not sure", "A vitamin d"),
    ),
    Spelled(
        "choice", "E", options=("vitamin a", "not sure", "vitamin d", "anything but (b)", "all of the above"),
        right=("E", "all of the above", "all of the above (e)", "(E) all of the above", "E. All of the above.",
               "e) all of the above"),
        wrong=("all of the above (d)", "not all of the above (e)", "none of the above (e)", "anything but (b)", "D"),
    ),
    Spelled(
        "choice", "D", options=("vitamin a", "not sure", "vitamin d", "anything but (b)", "all of the above"),
        right=("D", "anything but (b)", "anything but (b) (d)", "(D) anything but (b)", "D. Anything but (b)."),
        wrong=("anything but (b) (c)", "(b)", "anything but (d)", "but (b) (d)", "vitamin d"),
    ),
    Spelled(
        "choice", "A", options=("what is right", "what", "it is blue"),
        right=("A", "what is right", "what is right (a)", "(A) what is right.", "A. what is right"),
        wrong=("what", "what (a)", "what is right (b)", "(B) what is right", "(A) what", "right (a)", "what is (a)",
               "it is blue", "blue (c)", "it is blue (a)"),
    ),
    Spelled(
        "choice", "C", options=("what is right", "what", "it is blue"),
        right=("C", "it is blue", "It is blue.", "it is blue (c)", "(C) it is blue"),
        wrong=("blue", "blue (c)", "(C) blue", "is blue (c)", "it is", "what is right"),
    ),
    Spelled(
        "choice", "A", options=("initiate", "option", "mortal", "answer", "mortal"),
        right=("A", "(a)", "initiate", "initiate (a)", "the answer is A", "Answer: (A)", "The correct option is A"),
        refused=(("answer (a)", "one option is called that"), ("option A", "one option is called that")),
        wrong=("answer", "answer (d)", "option", "option (b)", "mortal", "mortal (c)", "answer B"),
    ),
    Spelled(
        "choice", "E", options=("initiate", "option", "mortal", "answer", "mortal"),
        right=("E", "(E) mortal", "mortal (e)", "E. mortal"),
        refused=(("mortal", "two options have this text"),),
        wrong=("C", "(C) mortal", "mortal (c)", "(E) answer", "answer (e)"),
    ),
    Spelled(
        "choice", "B", options=("bank", "a bank", "a"),
        right=("B", "a bank", "a bank (b)", "B a bank", "B, a bank", "(B) a bank"),
        wrong=("bank", "A bank (a)", "a", "C", "b bank", "bank, B", "A, a bank"),
    ),
    Spelled(
        "choice", "B", options=("yes", "not sure", "no"),
        right=("B", "not sure", "not sure (b)", "(B) not sure", "B. Not sure", "**Not sure**"),
        wrong=("sure (b)", "yes (b)", "no", "not sure (a)", "(B) yes", "not", "A"),
    ),
)  # fmt: skip

SYMBOLIC = (
    Spelled(
        "symbolic", r"\frac{1}{2}",
        right=(r"\frac{1}{2}", r"\frac12", r"\frac 1 2", r"\frac{1} {2}", r"\frac1{2}", r"\frac{1}2",
               r"\dfrac{1}{2}", r"\tfrac12",
               r"\cfrac{1}{2}", "1/2", "1 / 2", "0.5", ".5", "0.50", r"\frac{2}{4}", "2^{-1}", "2^-1", r"1 \div 2",
               "1÷2", "½",
               r"$\frac{1}{2}$", r"$$\frac{1}{2}$$", r"\(\frac{1}{2}\)", r"\[\frac{1}{2}\]", r"\boxed{\frac{1}{2}}",
               r"\boxed{\frac12}.",
               r"**\frac{1}{2}**", r"= \frac{1}{2}", r"x = \frac{1}{2}", "y=1/2", r"\frac{1}{2}\text{ cm}",
               r"\frac{1}{2} \text{ hours}",
               r"\displaystyle\frac{1}{2}", r"\left(\frac{1}{2}\right)", "(1/2)", r"\sqrt{\frac{1}{4}}",
               r"\frac{\pi}{2\pi}", "+1/2",
               r"1-\frac{1}{2}", r"\sin 30^\circ", r"\cos\frac{\pi}{3}", r"\log_4 2", r"\frac{1}{\sqrt{4}}",
               r"\$0.50", r"\frac{1}{2}=0.5", r"0.5 = \frac12", r"x = \frac{2}{4} = \frac{1}{2}",
               r"P(A) = \frac{1}{2}",
               r"x = \boxed{\frac{1}{2}}", r"x_1 = \frac12", "1/2 cm", r"\frac12 hours", r"\frac{1}{2} cm",
               r"{\frac12}",
               r"\left(\frac12\right)", r"(\frac12)", r"$\displaystyle \frac12$", r"**Answer:** $\frac12$", "1∕2",
               r"\big(\frac12\big)"),
        refused=((r"\frac{1}{2}\text{ of it}", SENTENCE), (r"x \approx 0.5", SENTENCE), ("50%", CONVERTED),
                 ("one half", WORDS), ("1:2", NOTATION), (r"\frac{1}{2}\%", AMBIGUOUS), ("0,5",
        DECIMAL)),
        wrong=("2", "1/3", "0.49999", "0.05", "-1/2", r"1\frac{1}{2}", r"\frac{2}{1}", "(1,2)", r"\{1/2\}", "1/2x",
               r"0.5\%", "1 2",
               r"\frac{1}{2}{3}", r"\frac{1}{22}", r"\frac{1}{2}=0.6", r"0.6 = \frac12", r"x = \frac{1}{2} = 1",
               r"2x = \frac12",
               r"x^2 = \frac12", r"\frac12, 1 = 1", r"\frac12 = x", r"P(A) = \frac13", r"x = \boxed{2}", "1/2 cmx",
               r"\frac123",
               r"(\frac123)", r"\frac12 or", r"\frac12 not", r"x = y = \frac{1}{2}", r"\frac12 = \frac12 = 1"),
    ),
    Spelled(
        "symbolic", r"\frac{9}{4}",
        right=(r"\frac{9}{4}", r"(\frac32)^2", r"{\frac32}^2", r"\left(\frac32\right)^2", r"(2-\frac12)^2",
               r"\left(1+\frac12\right)^2",
               r"(\sqrt2+\frac14)-(\sqrt2-2)", r"(\binom32)^2/4", r"(\log_28)^2/4", r"(\frac1{2}+1)^2",
               r"(\frac{1}2+1)^2"),
        wrong=(r"(\frac32)^3", r"(\frac23)^2", r"(\frac322)", r"(\frac92)", r"(\log_82)^2/4", "9/4!"),
    ),
    Spelled(
        "symbolic", r"11,\! 111,\! 100",
        right=(r"11,\! 111,\! 100", "11111100", "11,111,100", r"11,\!111,\!100", "11{,}111{,}100", "11 111 100"),
        wrong=("11, 111, 100", r"11,\! 111,\! 10", "11,111", "1111110", "11111100!", r"\binom{11111100}{5555550}"),
    ),
    Spelled(
        "symbolic", "2^{-200}",
        right=("2^{-200}", "4^{-100}", r"\frac{1}{2^{200}}", "0.5^{200}",
               r"\frac{1}{1606938044258990275541962092341162602522202993782792835301376}"),
        wrong=("2^{-201}", "0", "2^{200}", r"2^{-200}+10^{-90}", "6.2*10^{-61}", "2^{-20}"),
    ),
    Spelled(
        "symbolic", "3",
        right=("3", "x+3-x", "x=3", "3.0", r"\sqrt{9}", "3."),
        wrong=("3d", "3x", r"3\left", r"3\right", "3..", "3,", "3\\\\", "3&", "3 or 4", "3, 4", r"3\pm 1", "30",
               "3_1", "3'", "3!", "3/0", "3\\%1"),
    ),
    Spelled(
        "symbolic", r"\frac{y}{x}",
        right=(r"\frac{y}{x}", "y/x", r"\frac{2y}{2x}", "yx^{-1}", r"\frac{ya}{xa}"),
        wrong=(r"\frac{dy}{dx}", "dy/dx", r"\frac{d y}{d x}", r"\frac{x}{y}", r"\frac{f(y)}{f(x)}", r"\frac{y'}{x'}",
               "y/xz"),
    ),
    Spelled(
        "symbolic", "0",
        right=("0", "0.0", r"\sin^2 x+\cos^2 x-1", r"\sqrt{2}-\sqrt{2}", "x-x", r"\sqrt{5+2\sqrt6}-\sqrt2-\sqrt3",
               r"\ln 1",
               r"e^{i\pi}+1", r"\$0", "-0"),
        wrong=("10^{-30}", r"\sqrt{2}-1.4142135623730950488016887242096980785697", "1", "0/0", "0^0", "x", r"\infty",
               "nan"),
    ),
    Spelled(
        "symbolic", "2f",
        right=("2f", "f+f", r"2\cdot f"),
        wrong=("f(2)", "f^2", r"f\left(2\right)", "2f(x)", "2F", "f(f)"),
    ),
    Spelled(
        "symbolic", "x",
        right=("x", "x+0", "1x", r"\frac{x}{1}", "x^1", "2x-x", r"\sqrt{x}^2", "f(x)=x", "y=x"),
        refused=(("dx/d", "differentials are no products"),),
        wrong=("X", "-x", "x_1", "x^2", r"\sqrt{x^2}", "|x|", "xd", "x+d", "x'", "1/x", "xx", "0x", "f(x)", "x(1)x",
               r"\frac{dx}{d y}"),
    ),
    Spelled(
        "symbolic", "10080",
        right=("10080", r"10,\!080", "10,080", "10{,}080", "10 080", r"10\,080", r"10\ 080", "10\u202f080",
               "10080.0", r"\$10,\!080",
               r"\$10,080", "10,080.", r"10{,}080\text{ minutes}", r"2^5 \cdot 3^2 \cdot 5 \cdot 7",
               r"1.008\times 10^4", "1.008*10^{4}",
               "10080 cm", r"\boxed{10,\!080}", r"$\$10,\!080$", r"$\boxed{\$10{,}080}$", "10'080", r"100.8\cdot 100",
               "x=10,080"),
        refused=(("1.008e4", AMBIGUOUS), ("10.080", DECIMAL), ("10_080", NOTATION)),
        wrong=("10, 80", "10, 080", "1080", "10,08", r"10,\!08", "10 08", r"10,\!0800", "100,80", "10,081",
               "(10,080)"),
    ),
    Spelled(
        "symbolic", "2+3i",
        right=("2+3i", r"2+3\cdot i", "3i+2", "2 + 3*i", "(2+3i)", r"2+\sqrt{-9}", r"$2+3i$",
               "z = 2+3i", "-(-2-3i)", "i*3+2",
               r"\frac{4+6i}{2}", r"2-3i^3", "2.0+3.0i", r"(2+3i)^{1}", r"2+3\mathrm{i}", r"2 + 3\mathit{i}",
               "2+3i = 3i+2"),
        refused=(("2+i3", "a number after a letter may be an index"), ("2+3j", "j may be a variable")),
        wrong=("2-3i", "3+2i", "2+3", "-2+3i", "2+3I", "2+4i", "(2,3)", "5i"),
    ),
    Spelled(
        "symbolic", "-5",
        right=("-5", "−5", "- 5", "-5.0", "−5.0", r"\boxed{-5}", "$-5$", "x=-5", "x = −5", "(-5)", r"-\frac{10}{2}",
               r"-\sqrt{25}", r"\sqrt[3]{-125}", "-|5|",
               "1-6", "-5."),
        refused=(("--(-5)", NOTATION), ("negative five", WORDS)),
        wrong=("5", "--5", "-5x", "-50", r"\pm 5", "|-5|", "–5"),
    ),
    Spelled(
        "symbolic", r"3\text{ cm}",
        right=(r"3\text{ cm}", "3", "3 cm", "3cm", r"3\,\text{cm}", r"3\mathrm{cm}", r"3\ \mathrm{ cm}",
               r"\frac{6}{2}\text{ cm}", "3.0 cm", r"$3\text{ cm}$",
               r"3\text{ centimeters}", "3 centimetres", "AB = 3", r"AB = 3\text{ cm}", "6/2 cm", "AB = 6/2 cm"),
        refused=(("30 mm", CONVERTED), (r"0.03\text{ m}", CONVERTED)),
        wrong=(r"3\text{ m}", "3 m", r"3\text{ cm}^2", "3%", r"\$3", "4 cm", r"3\text{ cn}", "3d"),
    ),
    Spelled(
        "symbolic", r"30^\circ",
        right=(r"30^\circ", r"30^{\circ}", "30°", "30 °", "30", "30 degrees", r"30\text{ degrees}", r"30 ^\circ",
               "30°.", r"$30^\circ$",
               r"\boxed{30^\circ}", r"\theta = 30^\circ", r"\angle ABC = 30^\circ", r"m\angle A = 30°",
               r"$\displaystyle 30^\circ$",
               r"30^ \circ", r"30^{ \circ}", "30º", "x = 30^\\circ"),
        refused=((r"\frac{\pi}{6}", CONVERTED), (r"\angle = 30", NOTATION)),
        wrong=(r"\theta = 31^\circ", r"\angle A = \angle B = 30^\circ", r"\theta \ne 30^\circ", "30%", r"30\%", "31°",
               r"3^\circ 0", r"60^\circ", r"30\text{ cm}", "-30°"),
    ),
    Spelled(
        "symbolic", r"2\pi",
        right=(r"2\pi", "2π", r"2 \pi", r"2\cdot\pi", "2*pi", "2pi", "2 π", r"\pi\cdot 2", r"\pi+\pi",
               r"\frac{4\pi}{2}", r"2\pi\text{ cm}",
               r"\boxed{2\pi}", "$2π$", r"6\pi/3", r"4\arcsin 1"),
        refused=((r"\tau", NOTATION), (r"360^\circ", CONVERTED)),
        wrong=("6.28318530717958647692", r"3\pi", r"\pi^2", r"2\pi r", r"-2\pi", r"2+\pi", r"\frac{\pi}{2}", r"2\Pi"),
    ),
    Spelled(
        "symbolic", r"\frac{\sqrt{3}}{3}",
        right=(r"\frac{\sqrt{3}}{3}", r"\frac{1}{\sqrt{3}}", "sqrt(3)/3", "√3/3", r"\frac{\sqrt3}3", r"3^{-1/2}",
               r"3^{-\frac12}", r"\sqrt{\frac{1}{3}}", r"\tan 30^\circ",
               r"\frac13\sqrt3", r"\frac{3}{3\sqrt{3}}", r"\frac{\sqrt{12}}{6}", r"\tan\frac{\pi}{6}"),
        refused=((r"\sqrt3\over3", NOTATION),),
        wrong=("0.5773502691896257645", r"\frac{\sqrt{3}}{2}", r"\frac{3}{\sqrt{3}}", r"\frac{\sqrt{2}}{3}",
               r"\frac{\sqrt[3]{3}}{3}"),
    ),
    Spelled(
        "symbolic", "x^2+2x+1",
        right=("x^2+2x+1", "(x+1)^2", "1+2x+x^2", "x^{2}+2x+1", "x**2+2*x+1", "x²+2x+1", r"(x+1)\cdot(x+1)",
               "(x+1)(x+1)", "x(x+2)+1", "x^2 + 2 x + 1",
               r"\left(x+1\right)^2", "y = x^2+2x+1", "f(x)=x^2+2x+1", "f(x) = (x+1)^2", r"\frac{x^3+2x^2+x}{x}",
               "x^2+x+x+1+0", "(-x-1)^2",
               r"$x^2+2x+1$", "x·x+2x+1"),
        refused=(("[x+1]^2", "square brackets mark an interval or a list"),),
        wrong=("X^2+2x+1", "x^2+2x-1", "x^2-2x+1", "y^2+2y+1", "x^2+2x", "x^3+2x+1", "(x+1)^3", "x = x^2+2x+1",
               "x_1^2+2x+1", "x^2+2x+1=0"),
    ),
    Spelled(
        "symbolic", r"\begin{pmatrix} 1 \\ 3 \end{pmatrix}",
        right=(r"\begin{pmatrix} 1 \\ 3 \end{pmatrix}", r"\begin{pmatrix}1\\3\end{pmatrix}",
               r"\begin{bmatrix} 1 \\ 3 \end{bmatrix}", r"\begin{pmatrix}1 \\3\\\end{pmatrix}",
               r"\begin{pmatrix} 1\\ 3 \end{pmatrix}", r"\begin{pmatrix} \frac{2}{2} \\ 3.0 \end{pmatrix}",
               r"$\begin{pmatrix}1\\3\end{pmatrix}$",
               r"\boxed{\begin{pmatrix}1\\3\end{pmatrix}}", r"v = \begin{pmatrix}1\\3\end{pmatrix}"),
        refused=(("(1,3)", "a tuple is no column"), (r"\left(\begin{array}{c}1\\3\end{array}\right)",
        NOTATION), (r"\begin{pmatrix}1&3\end{pmatrix}^T", NOTATION)),
        wrong=(r"\begin{pmatrix} 3 \\ 1 \end{pmatrix}", r"\begin{pmatrix}1&3\end{pmatrix}",
               r"\begin{pmatrix}1\\-3\end{pmatrix}", r"\begin{pmatrix}13\end{pmatrix}",
               r"\begin{pmatrix}1\\3\\0\end{pmatrix}", r"\begin{pmatrix}1 3\end{pmatrix}",
               r"\begin{vmatrix}1\\3\end{vmatrix}"),
    ),
    Spelled(
        "symbolic", r"\{-2, 1\}",
        right=(r"\{-2, 1\}", r"\{1,-2\}", r"\left\{-2,1\right\}", "-2,1", "1, -2", "-2, 1.0", "x=-2,1", "{-2, 1}",
               "{1,-2}", "x=1, x=-2",
               r"x\in\{-2,1\}", r"\{-2,\quad 1\}", r"\{−2,1\}",
               r"$\{-2,1\}$", r"-\frac{1}{2}\pm\frac{3}{2}"),
        refused=(("-2 and 1", SENTENCE), (r"-2\text{ or }1", SENTENCE), ("-2; 1", NOTATION)),
        wrong=(r"\{2,1\}", "-2", "(-2,1)", "[-2,1]", r"\{-2,1,0\}", r"\{-2,-2\}", "x=-2,y=1", r"\{-2\}", r"\{-2;1\}",
               "-2<x<1"),
    ),
    Spelled(
        "symbolic", "(1, 2)",
        right=("(1, 2)", "(1,2)", r"\left(1,2\right)", "( 1 , 2 )", r"(\frac{2}{2}, 2.0)", "$(1,2)$",
               r"\boxed{(1,2)}", r"(1,\,2)", r"(1,\quad 2)", "(1, 4/2)",
               "(1.0,2).", "(x,y)=(1,2)", "(x, y) = (1, 2)", r"\big(1,2\big)", r"(a,b)=\left(1,2\right)"),
        refused=(("x=1, y=2", NOTATION), ("(y,x)=(2,1)", NOTATION), ("(1; 2)", NOTATION), ("1, 2", ORDER)),
        wrong=("(y,x)=(1,2)", "(x,y)=(2,1)", "(x,x)=(1,2)", "(x,y)=(x,2)", r"(x,y)\ne(1,2)", "(2,1)", "(1,-2)",
               "[1,2]", "(1,2]", r"\{1,2\}", "(1,2,0)", "(12)", "1.2", "(1,2"),
    ),
    Spelled(
        "symbolic", "[0, 1)",
        right=("[0, 1)", "[0,1)", r"\left[0,1\right)", r"x\in[0,1)", "[0.0, 1.0)", r"[0,\frac{2}{2})", "$[0,1)$"),
        refused=(("0 <= x < 1", NOTATION), ("[0,1[", NOTATION)),
        wrong=("[0,1]", "(0,1)", "(0,1]", "[1,0)", "[0,1.1)", "[0,1"),
    ),
    Spelled(
        "symbolic", r"(-\infty, 3]",
        right=(r"(-\infty, 3]", r"(-\infty,3]", "(-∞, 3]", r"\left(-\infty,3\right]", r"x\in(-\infty,3]"),
        refused=((r"x\le 3", NOTATION),),
        wrong=(r"(\infty,3]", r"[-\infty,3]", r"(-\infty,3)", r"(-\infty,-3]", r"[3,-\infty)"),
    ),
    Spelled(
        "symbolic", r"[0,1]\cup[2,3)",
        right=(r"[0,1]\cup[2,3)", r"[2,3)\cup[0,1]", "[0,1]∪[2,3)", r"\left[0,1\right]\cup\left[2,3\right)",
               r"x \in [0,1] \cup [2,3)"),
        wrong=(r"[0,1]\cap[2,3)", r"[0,1]\cup[2,3]", "[0,1],[2,3)", r"[0,1]\cup(2,3)", "[0,1]"),
    ),
    Spelled(
        "symbolic", "x < 3",
        right=("x < 3", "x<3", "3>x", r"x\lt 3", r"3 \gt x", "x < 6/2", "$x<3$", r"x<\frac{9}{3}"),
        refused=((r"(-\infty,3)", NOTATION), ("x - 3 < 0", NOTATION)),
        wrong=("x>3", r"x\le 3", "3<x", "y<3", "x<4", "X<3", "x=3"),
    ),
    Spelled(
        "symbolic", "y = 2x+1",
        right=("y = 2x+1", "y=2x+1", "2x+1", "y=1+2x", "1+2x", r"y = 2\cdot x + 1", "y=2(x+1/2)"),
        refused=(("2x-y+1=0", NOTATION), ("y-1=2x", NOTATION)),
        wrong=("y=2x-1", "x=2y+1", "z=2x+1", "y=2X+1", "x = 2x+1", "y=x+1", "y<2x+1"),
    ),
    Spelled(
        "symbolic", r"\frac{1}{3}",
        right=(r"\frac{1}{3}", "1/3", r"0.\overline{3}", r"0.3\overline{3}", r"\frac{33}{99}", "3^{-1}", "⅓"),
        refused=(("0.333...", "how it goes on is not said"), (r"33\frac{1}{3}\%", CONVERTED)),
        wrong=("0.333333333333333333333", "0.3", "0.33", r"0.\overline{33}4", r"0.\overline{4}", "3"),
    ),
    Spelled(
        "symbolic", r"\frac{7}{4}",
        right=(r"\frac{7}{4}", r"1\frac{3}{4}", r"1 \frac{3}{4}", "1 3/4", r"1\frac34", "1.75", "7/4",
               r"1+\frac{3}{4}", r"\frac{7}{4}\text{ cups}", "x=7/4"),
        refused=(("1-3/4 cups", AMBIGUOUS), ("1 and 3/4", SENTENCE)),
        wrong=(r"\frac{3}{4}", "13/4", r"1\cdot\frac{3}{4}", r"-1\frac{3}{4}", r"1\frac{4}{3}", r"1\frac{7}{4}",
               "1.7"),
    ),
    Spelled(
        "symbolic", r"3\ln 2",
        right=(r"3\ln 2", r"\ln 8", r"3\cdot\ln(2)", r"\ln(8)", r"\ln 2^3", r"\ln 16 - \ln 2", r"3\ln{2}", "3ln(2)",
               r"\ln 4+\ln 2", r"\frac{3}{\log_2 e}"),
        refused=((r"\log 8", "a logarithm without a base has several usual bases"),),
        wrong=(r"2\ln 3", r"\ln 6", r"\log_2 8", "2.0794415416798357", r"\ln 2", r"(\ln 2)^3", r"\ln^3 2"),
    ),
    Spelled(
        "symbolic", r"1\pm\sqrt{2}",
        right=(r"1\pm\sqrt{2}", r"1 \pm \sqrt2", "1±√2", r"1+\sqrt{2}, 1-\sqrt{2}", r"1-\sqrt2,1+\sqrt2",
               r"\{1-\sqrt{2},1+\sqrt{2}\}", r"x=1\pm\sqrt{2}"),
        refused=((r"1+\sqrt2\text{ and }1-\sqrt2", SENTENCE),),
        wrong=(r"1+\sqrt{2}", r"-1\pm\sqrt{2}", r"1\pm\sqrt{3}", r"\pm\sqrt{2}", r"1+\sqrt2,1+\sqrt2"),
    ),
    Spelled(
        "symbolic", r"\sin 2x",
        right=(r"\sin 2x", r"\sin(2x)", "sin(2x)", r"2\sin x\cos x", r"2\sin(x)\cos(x)", r"\sin{2x}", r"-\sin(-2x)",
               r"\sin\left(2x\right)", r"2 \cos x \sin x"),
        wrong=(r"2\sin x", r"\sin x^2", r"\cos 2x", r"\sin 2y", r"\sin^2 x", r"\sin 2X", r"2\sin x\sin x"),
    ),
    Spelled(
        "symbolic", r"\emptyset",
        right=(r"\emptyset", r"\varnothing", r"\{\}", "∅", r"\{ \}", r"x\in\emptyset"),
        refused=(("no solution", WORDS),),
        wrong=("0", r"\{0\}", r"\{\emptyset\}", "()", "1"),
    ),
    Spelled(
        "symbolic", r"\frac{x+1}{x-1}",
        right=(r"\frac{x+1}{x-1}", "(x+1)/(x-1)", r"\frac{1+x}{-1+x}", r"1+\frac{2}{x-1}", r"\dfrac{x+1}{x-1}",
               r"\frac{-x-1}{1-x}", r"(x+1)(x-1)^{-1}"),
        wrong=(r"\frac{x-1}{x+1}", "x+1/x-1", "(x+1)/x-1", r"\frac{x+1}{1-x}", r"\frac{x+1}{x}", r"\frac{X+1}{x-1}"),
    ),
)  # fmt: skip
