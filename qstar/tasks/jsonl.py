"""Your own questions and answers, a JSON object a line, as a task of self-training.

defaults: [base_jsonl]
path: capitals.jsonl        # {"question": "What is the capital of Peru?", "answer": "Lima"}
answers: exact              # exact, numeric, choice or symbolic
strict: false               # true: only the plainest spellings of an answer are right
dev: 0.1                    # shares of the file, by a hash of the question; or files: dev_path, test_path
shots_path: examples.jsonl  # few-shot examples: the same fields, and "rationale"
"""

import logging
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Annotated

from qstar import settings
from qstar.files import JsonObject
from qstar.settings import OneOf, Share, Whole
from qstar.tasks import conversation, lines, problem, worded
from qstar.tasks.grading import grade
from qstar.tasks.grading.grade import Choice, Grader
from qstar.tasks.grading.symbolic import Symbolic
from qstar.tasks.problem import Problem
from qstar.tasks.worded import Worded

ANSWERS = ("exact", "numeric", "choice", "symbolic")
LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class Jsonl(Worded):
    """Questions of files. Ids, hints, rationales and groups are read from the fields of that name, where they are.

    Questions of dev_path and test_path are left out of what `path` gives, those of test_path out of dev_path.
    """

    path: str = ""  # of the questions, a JSON object a line
    dev_path: str = ""  # dev questions; if given, none are taken from `path`
    test_path: str = ""  # test questions; if given, none are taken from `path`
    dev: Share = 0.1  # of `path`, where there is no dev_path
    test: Share = 0.1  # of `path`, where there is no test_path
    question_field: str = "question"  # of a line
    answer_field: str = "answer"  # of a line
    answers: Annotated[str, OneOf(ANSWERS)] = "exact"  # how answers are graded
    letters: str = "ABCD"  # of choices
    prompt_template: str = "Q: {question}\nA:"  # what the model continues
    hint_template: str = "Q: {question} ({hint})\nA:"  # the same with the hint
    shots_path: str = ""  # file of few-shot examples: the same fields, and "rationale"
    num_shots: Whole = 0  # few-shot examples before a question

    def __post_init__(self):
        settings.check(self, "task")
        for name, slots in (("prompt_template", ["{question}"]), ("hint_template", ["{question}", "{hint}"])):
            settings.check_line_breaks(f"task.{name}", getattr(self, name))
            for slot in slots:
                if slot not in getattr(self, name):
                    raise ValueError(
                        f"task.{name} = {getattr(self, name)!r} has no slot {slot}: put it where it belongs"
                    )
        if "{hint}" in self.prompt_template:
            raise ValueError(f"task.prompt_template = {self.prompt_template!r} shows the hint: only hint_template may")
        if self.dev + self.test >= 1:
            raise ValueError(
                f"task.dev = {self.dev} and task.test = {self.test}: expected shares that leave some to train"
            )
        if self.num_shots and not self.shots_path:
            raise ValueError(f"task.num_shots = {self.num_shots}, but task.shots_path names no file of examples")
        super().__post_init__()

    @property
    def name(self) -> str:
        return f"jsonl {self.path}"

    @property
    def grader(self) -> Grader:
        if self.answers == "choice":
            return grade.Choice(worded.DECLARED, self.letters, strict=self.strict)
        kind = {"exact": grade.Exact, "numeric": grade.Numeric, "symbolic": Symbolic}[self.answers]
        return kind(worded.DECLARED, strict=self.strict)

    @property
    def examples(self) -> Sequence[Problem]:
        return self._file(self.shots_path, "task.shots_path") if self.shots_path else ()

    def problems(self, split: str) -> Sequence[Problem]:
        files = {"dev": self.dev_path, "test": self.test_path}
        own = files.pop(problem.known(split), "")
        if own:
            found = self._file(own, f"task.{split}_path")
        else:
            found = [example for example in self._file(self.path, "task.path") if self._part(example) == split]
        if own and split == "test":  # stays whole
            return found
        return self._apart(split, found, {f"{other}_path": path for other, path in files.items() if path})

    def _apart(self, split: str, found: list[Problem], others: Mapping[str, str]) -> list[Problem]:
        """Those whose questions are in none of the other splits' files. Raises ValueError where all of them are."""
        elsewhere = {example.question for name, path in others.items() for example in self._file(path, f"task.{name}")}
        kept, named = [example for example in found if example.question not in elsewhere], " or ".join(others)
        if found and not kept:
            raise ValueError(f"task jsonl: all {len(found)} questions of {split} are in {named} too; give other files")
        if len(kept) < len(found):
            LOGGER.warning(
                "task jsonl: %d of %d questions of %s are in %s too, and are left out",
                *(len(found) - len(kept), len(found), split, named),
            )
        return kept

    def _part(self, example: Problem) -> str:
        """Questions that occur twice fall into the same split."""
        dev, test = (0 if file else part for file, part in ((self.dev_path, self.dev), (self.test_path, self.test)))
        place = problem.share(example.question)
        return "test" if place < test else "dev" if place < test + dev else "train"

    def _file(self, path: str, what: str) -> list[Problem]:
        file = lines.existing(path, what)
        problems = problem.checked(self._rows(file), self.grader)
        if isinstance(self.grader, Choice):
            problems = [problem.with_listed_options(example, self.grader) for example in problems]
        if not problems:
            raise ValueError(f"{file} holds no questions")
        return problems

    def _rows(self, file: Path) -> Iterator[tuple[str, Problem]]:
        for number, (where, record) in enumerate(lines.json_lines(file)):
            question = self._question(record, where)
            id, hint, rationale, group = (_text(record, name, where) for name in ("id", "hint", "rationale", "group"))
            answer = _text(record, self.answer_field, where, needed=True)
            yield (
                where,
                Problem(id or f"{file.stem}-{number}", question, answer, hint, worded.flattened(rationale), group),
            )

    def _question(self, record: JsonObject, where: str) -> str:
        """The text of a question; of `messages` the conversation that ends with it."""
        if record.get("messages") is not None:
            return conversation.spelled(conversation.checked(record["messages"], where, "user"))
        return lines.member(record, self.question_field, where).strip()

    def _asked(self, problem: Problem, shots: Sequence[Problem], hint: bool) -> str:
        """Of a conversation the examples are turns before its last message."""
        messages = conversation.parsed(problem.question)
        if messages is None:
            return super()._asked(problem, shots, hint)
        turns = []
        for shot in shots:
            asked = conversation.parsed(shot.question) or [{"role": "user", "content": shot.question}]
            turns.append({"role": "user", "content": self._with_hint(asked[-1]["content"], shot, hint)})
            turns.append({"role": "assistant", "content": self.completion(shot.rationale, shot).strip()})
        last = {"role": "user", "content": self._with_hint(messages[-1]["content"], problem, hint)}
        return conversation.spelled([*messages[:-1], *turns, last])

    def _with_hint(self, content: str, problem: Problem, hint: bool) -> str:
        return f"{content} {self.shown(problem).strip()}" if hint else content

    def ask(self, problem: Problem, hint: bool) -> str:
        template = self.hint_template if hint else self.prompt_template
        slots = {"question": problem.question, "hint": problem.hint_text}
        return re.sub(r"\{(question|hint)\}", lambda slot: slots[slot[1]], template)

    def shown(self, problem: Problem) -> str:
        """The hint with the text around it on its line in the template."""
        before, _, after = self.hint_template.partition("{hint}")
        before = before.rpartition("{question}")[2] if "{question}" in before else before
        around = before.rpartition("\n")[2], after.partition("{question}")[0].partition("\n")[0]
        return f"{around[0]}{problem.hint_text}{around[1]}"


def _text(record: JsonObject, name: str, where: str, needed: bool = False) -> str:
    """A text or a number, as text. What is not needed may be absent or null, or NaN, as data frames spell it."""
    value = record.get(name)
    if isinstance(value, str):
        return value.strip()
    absent = value is None or (isinstance(value, float) and math.isnan(value))
    if absent and not needed:
        return ""
    if isinstance(value, int | float) and not isinstance(value, bool):
        lines.member(record, name, where, float)
        return f"{Decimal(str(value)):f}"  # no exponent: 1e16 is a number that any grader reads
    return lines.member(record, name, where)
