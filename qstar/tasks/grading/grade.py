"""Is what a model wrote right? Graders that look at the declared answer only, and never raise or hang for a text.

A task says how an answer is declared (`Declared`: "#### 72", the line after </scratch>, "The answer is (c)."). All
that is declared is read: nothing, something unreadable or two different answers are wrong, whatever else is written.
No grader looks for the right answer inside what is written. What has one meaning is read however it is spelled
(`spelling.py`: \\boxed{72}, **C**, 72 dollars); what has two, or hedges, is unreadable. `strict` reads the plainest
spellings only. Digits and letters are ASCII: other scripts' digits, superscripts and invisible characters make an
answer unreadable. White space is space, tab, return and newline.
`numeric`, `exact` and `choice` are here, others in `symbolic.py`, `program.py` and `gym.py`.
"""

import dataclasses
import decimal
import functools
import re
import string
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from typing import ClassVar, Protocol

from qstar.tasks.grading import extract, spelling

LONGEST = 100_000  # characters of what is written; a generation of thousands of tokens has tens of thousands
LONGEST_ANSWER = 1000  # characters of one declared answer
MOST_SPELLINGS = 50  # of one answer; who declares more is not answering
SHOWN = 200  # characters of an answer that a verdict keeps
WHITE = spelling.WHITE
_SMALL = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What a grader found."""

    correct: bool
    answer: str  # what was declared, in the grader's canonical spelling; "" where there is none
    reason: str  # right | wrong | no answer | unreadable | several answers | too long | timeout | crashed | forbidden

    def __post_init__(self):
        # Half a surrogate pair, as a tokenizer's bytes may give, could not be stored.
        clean = self.answer[:SHOWN].encode("utf-8", "replace").decode("utf-8")
        object.__setattr__(self, "answer", clean)


class Grader(Protocol):
    """Compares what was written with a right answer."""

    name: ClassVar[str]
    version: ClassVar[int]  # goes up when a verdict may change; stored beside every verdict

    def canonical(self, gold: str) -> str:
        """The one spelling of a right answer. ValueError where it cannot be read."""
        ...

    def __call__(self, written: str, gold: str) -> Verdict:
        """The verdict; from any thread. Raises ValueError for a gold answer that cannot be read, for nothing else."""
        ...


@dataclasses.dataclass(frozen=True)
class Declared:
    """How an answer is marked: it stands between a prefix and a suffix, without a suffix the line's end.

    Capital or small ASCII letters are the same in both. A prefix that ends in a newline takes the line after it. A
    suffix that never comes leaves nothing declared.
    """

    prefix: str
    suffix: str = ""

    def __post_init__(self):
        if not self.prefix.strip(WHITE):
            raise ValueError(
                f"Declared.prefix = {self.prefix!r}: an answer needs a text in front of it, such as '#### '; without "
                "one every word would be an answer"
            )

    def answers(self, written: str, longest: int = LONGEST_ANSWER) -> list[str]:
        """All that is declared, in order, without the white space around it; of a longer one its first `longest` + 1.

        Linear in the length of what is written, however often the prefix stands in one line.
        """
        return list(self.each(written, longest))

    def each(self, written: str, longest: int = LONGEST_ANSWER) -> Iterator[str]:
        """The same, one after another."""
        prefix, suffix = _patterns(self.prefix, self.suffix)
        end = stop = -1  # of the suffix that comes next, and of what stands before it
        for match in prefix.finditer(written):
            if end < match.end():
                following = suffix.search(written, match.end())
                if following is None:
                    return
                end = stop = following.start()
                while stop > match.end() and written[stop - 1] in WHITE:
                    stop -= 1
            start = _FILLED.match(written, match.end(), max(stop, match.end())).end()
            yield written[start : min(stop, start + longest + 1)]


_FILLED = re.compile(r"[ \t\r\n]*")


@functools.cache
def _patterns(prefix: str, suffix: str) -> tuple[re.Pattern, re.Pattern]:
    flags = re.ASCII | re.IGNORECASE
    return re.compile(re.escape(prefix), flags), re.compile(re.escape(suffix) if suffix else r"\n|\Z", flags)


def settle(
    written: str, declared: Declared, canonical: Callable[[str], str | None], longest: int = LONGEST_ANSWER
) -> tuple[str, str]:
    """(the one declared answer in canonical spelling, ""), or ("" or what was unreadable, why there is none).

    `canonical` gives None for what it cannot read.
    """
    answers, problem = declarations(written, declared, longest)
    if problem:
        return "", problem
    read = {answer: canonical(answer) for answer in answers}
    if len({(answer if value is None else value, value is None) for answer, value in read.items()}) > 1:
        return "", "several answers"
    answer, value = next(iter(read.items()))
    return (answer, "unreadable") if value is None else (value, "")


def declarations(written: str, declared: Declared, longest: int = LONGEST_ANSWER) -> tuple[list[str], str]:
    """(the different texts that are declared, ""), or ([], why there is none). More than a few are several answers."""
    if len(written) > LONGEST:
        return [], "too long"
    texts: dict[str, None] = {}
    for answer in declared.each(written, longest):
        if len(answer) > longest:
            return [], "too long"
        texts[answer] = None
        if len(texts) > MOST_SPELLINGS:
            return [], "several answers"
    if not any(texts):
        return [], "no answer"
    return list(texts), ""


def _verdict(answer: str, gold: str) -> Verdict:
    return Verdict(answer == gold, answer, "right" if answer == gold else "wrong")


def one_space(text: str) -> str:
    """ASCII letters small, runs of white space one space, none around: the spelling that `Exact` compares."""
    return " ".join(re.split(r"[ \t\r\n]+", text.strip(WHITE))).translate(_SMALL)


@dataclasses.dataclass(frozen=True)
class Exact:
    """The same text: "Lima", "lima", "**Lima**" and "Lima." are, with curly or straight quotation marks and accents
    that are characters of their own or not, and Latin capitals as small letters.

    With `strict` as STaR compares the sums' last line (its checker: small letters, exact string).
    Differs from the official code: runs of white space count as one space, and only ASCII letters lose their size (the
    Kelvin sign is no k).
    """

    declared: Declared
    strict: bool = False
    name: ClassVar[str] = "exact"
    version: ClassVar[int] = 3

    def canonical(self, gold: str) -> str:
        if not one_space(gold):
            raise ValueError(f"gold answer {gold!r} is empty: an exact answer needs a text")
        return one_space(gold) if self.strict else one_space(same_text(gold))

    def __call__(self, written: str, gold: str) -> Verdict:
        gold = self.canonical(gold)
        answer, problem = settle(written, self.declared, lambda text: self._read(text, gold))
        return Verdict(False, answer, problem) if problem else _verdict(answer, gold)

    def _read(self, text: str, gold: str) -> str:
        """The gold answer's own spelling for one of its respellings, any other text in its own."""
        spelled = one_space(text) if self.strict else one_space(same_text(text))
        if self.strict or spelled == gold:
            return spelled
        return gold if _is_text(text, gold) else one_space(same_text(spelling.bare(text)))


def same_text(text: str) -> str:
    """With straight quotation marks, composed accents and small letters, as far as one letter becomes one letter."""
    return "".join(map(_small_letter, spelling.plain_spaces(spelling.plain_marks(spelling.composed(text)))))


def _small_letter(character: str) -> str:
    small = character if character.isascii() or character not in _LATIN_CAPITALS else character.lower()
    return small if len(small) == 1 else character


_LATIN_CAPITALS = frozenset(map(chr, range(0xC0, 0xDF)))  # À to Þ: not the Kelvin sign or a dotted I


def spelled_number(text: str) -> str | None:
    """The canonical spelling of a number, `extract.plain`; one final full stop belongs to the sentence."""
    value = extract.only_number(text)
    if value is None and text.endswith("."):
        value = extract.only_number(text[:-1])
    return None if value is None else extract.plain(value)


@dataclasses.dataclass(frozen=True)
class Numeric:
    """The same number: 72, 72.0, +72, $72, 72 dollars, 72%, 0072, \boxed{72}, and 1,000 = 1 000 = 1000; `- 3` is -3.

    Exact decimal arithmetic, no tolerance. Signs of currency and percent and units are never computed with (50% is 50);
    where the gold answer has one, another one is wrong (`spelling.agree`). All else is unreadable: words and nouns,
    fractions, exponents, nan and inf. Nothing is ever evaluated. `strict` reads no units and nothing around a number.
    """

    declared: Declared
    strict: bool = False
    name: ClassVar[str] = "numeric"
    version: ClassVar[int] = 3

    def canonical(self, gold: str) -> str:
        """The number; with its unit where that is neither a sign of currency nor of percent."""
        read = self._read(gold)
        if read is None:
            raise ValueError(f"gold answer {gold[:SHOWN]!r} is not a number: write it as 72, -1.5 or 1,000")
        spelled = spelled_number(gold)
        return spelled or (spelling.bare(gold) if read.unit else extract.plain(read.value))

    def __call__(self, written: str, gold: str) -> Verdict:
        right = self._read(gold)
        if right is None:
            self.canonical(gold)
        answers, problem = declarations(written, self.declared)
        if problem:
            return Verdict(False, "", problem)
        read = [self._read(answer) for answer in answers]
        if None in read:
            return Verdict(False, *((answers[0], "unreadable") if len(read) == 1 else ("", "several answers")))
        units = [reading.unit for reading in read if reading.unit]
        if len({reading.value for reading in read}) > 1 or (units and not frozenset.intersection(*units)):
            return Verdict(False, "", "several answers")
        value, unit = read[0].value, frozenset.intersection(*units) if units else frozenset()
        correct = value == right.value and (self.strict or spelling.agree(right.unit, unit, value))
        answer = self.canonical(answers[0]) if right.unit else extract.plain(value)
        return Verdict(correct, answer, "right" if correct else "wrong")

    def _read(self, text: str) -> spelling.Measured | None:
        if len(text) > LONGEST_ANSWER:
            return None
        if not self.strict:
            return spelling.measured(text)
        spelled = spelled_number(text)
        return None if spelled is None else spelling.Measured(decimal.Decimal(spelled))


@dataclasses.dataclass(frozen=True)
class Choice:
    """The same letter: C, c, (C), c), C., **C**, option C, and `(C) ink`, `C. ink` with a text that does not hedge.

    The gold answer is a letter, or a letter and the options (`with_options`). Then a text beside the letter has to be
    that option's text, whatever words it has, and the text alone is read too. Without the options a text must name no
    other letter, and hold no word that judges, denies or compares ("not", "anything but", "wrong", "rather").
    With `labelled` a text may stand before a letter in brackets too, as in STaR's "The answer is ink (c).".
    `strict` reads the letter alone, and such a text where `labelled`.
    """

    declared: Declared
    letters: str = "ABCDE"
    labelled: bool = False
    strict: bool = False
    name: ClassVar[str] = "choice"
    version: ClassVar[int] = 3

    def __post_init__(self):
        if len(set(self.letters)) != len(self.letters) or not set(self.letters) <= set(string.ascii_uppercase):
            raise ValueError(f"Choice.letters = {self.letters!r}: expected different capital letters A to Z")

    def with_options(self, gold: str, options: Sequence[str]) -> str:
        """A gold answer that knows the options' texts, in the order of the letters."""
        if len(options) > len(self.letters):
            raise ValueError(f"{len(options)} options: there are {len(self.letters)} letters, {self.letters}")
        listed = [f"({letter}) {one_line(option)}" for letter, option in zip(self.letters, options, strict=False)]
        return "\n".join([self.canonical(gold), *listed])

    def canonical(self, gold: str) -> str:
        """The letter."""
        letter = self._letter(gold.strip(WHITE).partition("\n")[0])
        if letter is None or gold.strip(WHITE).count("\n") != len(_options(gold)):
            raise ValueError(f"gold answer {gold[:SHOWN]!r} is none of the letters {self.letters}")
        return letter

    def __call__(self, written: str, gold: str) -> Verdict:
        options = _options(gold)
        answer, problem = settle(written, self.declared, lambda text: self._read(text, options))
        return Verdict(False, answer, problem) if problem else _verdict(answer, self.canonical(gold))

    def _read(self, text: str, options: dict[str, str]) -> str | None:
        """The letter that a declared answer chooses."""
        if self.strict:
            return self._letter(text) or self._labelled_letter(text, options)
        named = _chosen(text, options)
        called = not any(_chosen(word, options) for word in _NAMES.split("|"))
        readings = (self._named_letter(unwrapped, options, called) for unwrapped in spelling.unwrapped(text))
        letter = next(filter(None, readings), None)
        if letter is None:
            return named[0] if len(named) == 1 else None
        return letter if named in ([], [letter]) else None  # a letter may be the text of another option

    def _named_letter(self, text: str, options: dict[str, str], called: bool) -> str | None:
        return self._letter(text, called) or self._lettered(text, options) or self._labelled_letter(text, options)

    def _letter(self, text: str, called: bool = True) -> str | None:
        """The letter that stands alone; also after the word "option" and its like, where no option is `called` that."""
        name = "" if self.strict or not called else rf"(?:(?:the )?(?:{_NAMES}) )?"
        letter = f"[{self.letters}{self.letters.lower()}]"
        bold = r"\*\*" if not self.strict else "(?!)"
        match = re.fullmatch(
            rf"(?i:{name})(?:\((?P<bracketed>{letter})\)|{bold}\(?(?P<bold>{letter})\)?{bold}|(?P<bare>{letter})\)?)\.?",
            text,
            re.ASCII,
        )
        if match is None and not self.strict:
            match = re.fullmatch(rf"\[(?P<bare>{letter})\]", text, re.ASCII)
        return None if match is None else next(filter(None, match.groups())).upper()

    def _lettered(self, text: str, options: dict[str, str]) -> str | None:
        """The letter of "(C) ink", "C. ink", "C) ink", "C: ink"."""
        letter = f"[{self.letters}{self.letters.lower()}]"
        mark = rf"(?:\((?P<bracketed>{letter})\)[:.]?|(?P<bare>{letter})(?:[.):]|\.\)))"
        name = rf"(?:(?:the )?(?:{_NAMES}) )?"
        text = spelling.plain_spaces(text)
        text = re.sub(rf"\A(?:\*\*|\\text(?:bf)?\{{) ?({mark})(?:\*\*| ?\}})(?:\\ )?", r"\1 ", text)
        text = re.sub(rf"\A\*\*({letter})\*\*:?(?= )", r"\1:", text)
        match = re.fullmatch(
            rf"(?i:{name})(?:{mark}|(?P<apart>{letter})(?= [-\u2013\u2014] ))(?: [-\u2013\u2014])?[ \t]+(?P<label>.+)",
            text,
        )
        if match is None and options:
            match = self._beside_option(text)
            match = None if match is None or _chosen(text, options) else match  # "a bank" may be an option's text
        return None if match is None else self._with_label(match, options)

    def _beside_option(self, text: str) -> re.Match | None:
        """A letter and a text, whatever joins them: the text has to be this letter's option."""
        letter, joint = f"[{self.letters}{self.letters.lower()}]", r"[ .,:=\u2013\u2014\\-]*"
        first = rf"(?:\((?P<bracketed>{letter})\)|\[(?P<bare>{letter})\]|(?P<apart>{letter})(?=[^\w'])\)?){joint}"
        last = rf"{joint}(?:\((?P<bracketed>{letter})\)|\[(?P<bare>{letter})\]|(?<=[^\w'])(?P<apart>{letter}))"
        return re.fullmatch(rf"{first}(?P<label>[^ ].*)", text) or re.fullmatch(
            rf"(?P<label>.*[^ ,:=-]){last}\.?", text
        )

    def _labelled_letter(self, text: str, options: dict[str, str]) -> str | None:
        """The letter of "ink (c)"."""
        if not self.labelled and (self.strict or not options):
            return None
        match = re.fullmatch(rf"(?P<label>.*\S)\s?\((?P<bracketed>[{self.letters}{self.letters.lower()}])\)\.?", text)
        return None if match is None else self._with_label(match, options)

    def _with_label(self, match: re.Match, options: dict[str, str]) -> str | None:
        letter = next(filter(None, (match.groupdict().get(name) for name in ("bracketed", "bare", "apart")))).upper()
        if options:
            return letter if letter in _chosen(match["label"], options) else None
        return letter if self._is_label(match["label"], letter) else None

    def _is_label(self, label: str, letter: str) -> bool:
        """Whether a text beside a letter leaves no doubt that this letter is chosen. "a" is an article there."""
        label = spelling.plain_marks(label)
        near = rf"[\w{extract.APOSTROPHES}]"
        others = string.ascii_letters.translate({ord(character): "" for character in f"aI{letter}"})
        named = re.search(rf"(?<!{near})[{others}](?!{near})", label) or _OPEN.search(label)
        short = len(label.split(" ")) <= LONGEST_LABEL and _LABEL.fullmatch(label)
        return bool(short) and not named and not _HEDGES.search(without_accents(label))


_NAMES = "option|choice|letter|answer"  # of a letter

# "not (c)", "(b) or (c)" and "wrong: (c)" name a letter and do not choose it. Where the options are not known, a text
# with one of these words is not read; nor is a long one, nor one with brackets, colons or other signs that could take
# it back, digits within words, or letters that are not Latin.
LONGEST_LABEL = 6  # words
_LATIN = "A-Za-z\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u024f"
_LABEL = re.compile(
    rf"(?![^ ]*[{_LATIN}][0-9]|[^ ]*[0-9][{_LATIN}])[{_LATIN}0-9$](?:(?:[{_LATIN}]|[ '%&$-]|[0-9](?![{_LATIN}])|,(?= )"
    rf"|\.(?=[{_LATIN}0-9]))*[{_LATIN}0-9%])?"
)
# Words before a letter that belong to it ("one of (c)") are no text of an option.
_OPEN = re.compile(
    r"\b(?:of|to|than|for|with|by|from|in|on|at|as|and|the|an?|into|over|under|between|one|my|our|your|his|her|their|this"
    r"|after|before|beside|below|above|behind|beneath|past|next|following|preceding|previous|past"
    r"|that|these|those|it|its|so|because|when|while|where|which|what|who|why|how)\Z",
    re.ASCII | re.IGNORECASE,
)
_HEDGES = re.compile(
    r"""\b(?:
    no|not|nor|non|none|never|neither|nothing|nobody|nowhere|either|or|cannot|without|nope|nah|sans|minus|anti|ex
    |nicht|kein\w*|nein|nie|pas|ne|jamais|nunca|niet|geen|nao|falsch|faux|falso|ni|nem
    |is|are|was|were|be|been|being|isn\w*|aren|arent|wasn\w*|weren\w*|aint|dont|doesn\w*|didn\w*|cant|couldn\w*|wouldn\w*
    |wont|shouldn\w*|do|does|did|has|had|have|can|could|would|should|shall|will|may|might|must|ought
    |but|except\w*|exclud\w*|besides|barring|save|only|unless|until|if|though|although|however|instead|rather|than|versus
    |vs|others?|another|opposite|contrary|reverse|anything|everything|something|any|all|every|everyone|each|both|some
    |else|same|similar|like|unlike|far|least|less|hardly|barely|scarcely|almost|nearly|close|near
    |wrong\w*|incorrect\w*|fals\w*|untrue|invalid\w*|mis\w*|err|error\w*|bad|badly|worst|worse|unlikel\w*|impossib\w*
    |improbab\w*|reject\w*|eliminat\w*|rul(?:e|es|ed|ing)|discard\w*|dismiss\w*|den(?:y|ies|ied|ying)|refut\w*|avoid\w*
    |skip\w*|ignor\w*|omit\w*|drop\w*|cross\w*|fail\w*|lack\w*|contradict\w*|oppos\w*|disagree\w*|disprov\w*|distract\w*
    |trap|decoy|trick\w*|fool\w*|fake|bogus|nonsense|absurd\w*|silly|stupid\w*|irrelevant|inaccurate|inappropriate
    |maybe|perhaps|possib\w*|probab\w*|likely|likeliest|presumabl\w*|apparent\w*|suppos\w*|seem\w*|guess\w*|think\w*
    |thought|believe\w*|unsure|uncertain\w*|unclear|doubt\w*|sure|surely|certain\w*|unknown|depend\w*|tentativ\w*
    |arguabl\w*|debatabl\w*|questionabl\w*|ambiguous\w*|about|around|roughly|approximate\w*|second|runner|up
    |right|correct\w*|true|yes|answer\w*|option\w*|choices?|letters?|actually|wait|sorry|hmm|scratch|oops|kidding|joke
    |first|then|also|plus|alternative\w*|otherwise|yet|still|say|says|said|pick\w*|choose|chose|chosen|select\w*|claim\w*
    |call\w*|consider\w*|reconsider\w*|change\w*|ditch\w*|forget|remove\w*|strike|struck|against|out|off|beyond|outside
    |we|you|they|he|she|people|student\w*|model|refus\w*|declin\w*|abandon\w*|negat\w*|counter\w*|cancel\w*|veto\w*
    |forbid\w*|prohibit\w*|delet\w*|replac\w*|swap\w*|switch\w*|inferior|weak\w*|poor\w*|dubious|suspect\w*|lose|loser
    |implausib\w*|illogical|irrational|unsuit\w*|unsupport\w*|unreasonab\w*|improper|lesser|ban|banned|nix|void|null
    )\b|n't\b""",
    re.VERBOSE | re.IGNORECASE,
)


def without_accents(text: str) -> str:
    return "".join(
        character for character in unicodedata.normalize("NFD", text) if not unicodedata.combining(character)
    )


def _options(gold: str) -> dict[str, str]:
    """Texts by letter of a gold answer that knows them; empty where it is a letter alone."""
    lines = gold.strip(WHITE).split("\n")[1:]
    return {match[1]: match[2] for match in (re.fullmatch(r"\(([A-Z])\) (.*)", line) for line in lines) if match}


def listed(question: str, letters: str) -> tuple[str, ...]:
    """The options that a question lists on lines of their own: "(A) ...", "a) ..." or "A. ...", all of one form.

    Empty where it does not list each of the letters once, from the first to one of the others, in order.
    """
    for form in (r"\(({})\) (.*)", r"({})\) (.*)", r"({})\. (.*)", r"({}): (.*)"):
        for every in (letters, letters.lower()):
            matches = [re.fullmatch(form.format(f"[{every}]"), line.strip(WHITE)) for line in question.split("\n")]
            options = [match for match in matches if match is not None]
            if len(options) > 1 and [match[1] for match in options] == list(every[: len(options)]):
                return tuple(match[2] for match in options)
    return ()


def one_line(text: str) -> str:
    return " ".join(re.split(r"[ \t\r\n]+", text.strip(WHITE)))


def _chosen(text: str, options: dict[str, str]) -> list[str]:
    """The letters of the options whose text this is: as it stands, or else without what only marks an answer."""
    plain = one_space(same_text(spelling.without_stop(text)))
    whole = [letter for letter, option in options.items() if plain == one_space(same_text(option))]
    return whole or [letter for letter, option in options.items() if _is_text(text, option)]


def _is_text(text: str, expected: str) -> bool:
    """Whether a text is the expected one, with something around it that only marks an answer or without."""
    expected = one_space(same_text(expected))
    texts = [*spelling.unwrapped(text), *spelling.unwrapped(same_text(text))]
    plain = {one_space(same_text(variant)) for text in texts for variant in (text, spelling.without_stop(text))}
    return bool(expected) and not plain.isdisjoint((expected, spelling.without_stop(expected)))
