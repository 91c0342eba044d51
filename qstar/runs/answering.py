"""Questions to a language model, its answers graded: what self-training stores, counts and reports of them."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np

from qstar import processes, sharding
from qstar.config import ImproveConfig
from qstar.data import overlong
from qstar.data.overlong import Question
from qstar.data.rationales import Sample, Store
from qstar.decoding import generate as decoding
from qstar.decoding import score
from qstar.decoding.generate import Written
from qstar.decoding.sampling import Sampling
from qstar.evals.intervals import wilson
from qstar.models import cost, lm
from qstar.models.cost import Cost, Pass
from qstar.policy import Policy
from qstar.tasks import leaks
from qstar.tasks.grading.grade import Verdict
from qstar.tasks.leaks import WronglyHinted
from qstar.tasks.problem import Problem, Task, graded
from qstar.training import console
from qstar.typing import Key

WRONG_HINT_SEED = 2022
SCORED = 64  # samples of an iteration whose log-probs the trainer computes again, or fewer where they are long
SCORED_TOKENS = 8192  # of all of them with their prompts


@dataclass(frozen=True)
class Answered:
    """Problems with what was written after their prompts, one after another."""

    prompts: list[str]
    written: Written
    verdicts: list[Verdict]


Prompts = Callable[[Sequence[Problem], int], Iterable[Sequence[str]]]
"""A batch of problems and its number -> the prompts that may be asked of each."""


def fitting(
    cfg: ImproveConfig, loaded: Policy, problems: Sequence[Problem], prompts: Callable[[], Prompts]
) -> tuple[list[Problem], list[Question]]:
    """The problems that the model can read and answer, and the others.

    Checked again after some were left out: the few-shot examples of a question may depend on its batch.
    """
    left: list[Question] = []
    while True:
        longer = list(_overlong(cfg, loaded, problems, prompts()))
        if not longer:
            return list(problems), left
        left += longer
        ids = {question.id for question in longer}
        problems = [problem for problem in problems if problem.id not in ids]


def _overlong(cfg: ImproveConfig, loaded: Policy, problems: Sequence[Problem], prompts: Prompts) -> Iterator[Question]:
    for number, batch in enumerate(batches(cfg, loaded, problems)):
        room = max(cfg.task.budget(problem, loaded.tokenizer) for problem in batch)
        for problem, texts in zip(batch, prompts(batch, number), strict=True):
            size = max(overlong.prompt_tokens(loaded.tokenizer, problem.id, text) for text in texts)
            if size + room > loaded.lm.max_len:
                yield Question(problem.id, size, room)


def check_fitting(cfg: ImproveConfig, loaded: Policy, split: str, count: int, left: Sequence[Question]) -> None:
    """Raise ValueError that names the overlong questions, unless they are to be left out and others remain."""
    ways = ways_out(
        cfg.task,
        "shorten them",
        "show fewer examples before them",
        "use a model with a longer context",
        "leave them out with overlong=skip",
    )
    place = f"the {loaded.lm.max_len} tokens that {loaded.name} was built for"
    overlong.check_questions(left, count, cfg.task.name, split, place, ways, skip=cfg.overlong == "skip")


def ways_out(task: Task, *ways: str) -> str:
    """What may be done about questions that are too long, as one phrase.

    A lower limit of answers comes first, where the task has one: others find it in the question.
    """
    limit = ["lower task.max_new_tokens"] if hasattr(task, "max_new_tokens") else []
    *others, last = [*limit, *ways]
    return f"{', '.join(others)}, or {last}" if others else last


def batches(cfg: ImproveConfig, loaded: Policy, problems: Sequence[Problem]) -> list[list[Problem]]:
    """The problems in batches whose answers take about as many tokens."""
    ordered = sorted(problems, key=lambda problem: cfg.task.budget(problem, loaded.tokenizer))
    return [ordered[i : i + cfg.sample_batch] for i in range(0, len(ordered), cfg.sample_batch)]


def opened_store(folder: Path, base: Policy, task: Task) -> Store:
    """The store of a run: the first process makes it and lists what all of them append."""
    about = (folder, base.fingerprint, task.name)
    return processes.first_does(lambda: Store.create(*about)) or Store.open(*about)


def fill(
    store: Store,
    iteration: int,
    count: int,
    ask: Callable[[int], list[Sample]],
    done: Callable[[int], None],
) -> None:
    """Append what `ask` gives of every batch that is not stored yet, each in one of the processes.

    Args:
        count: batches of the iteration.
        done: told the number of every batch that is there.
    """
    stored = set(store.batches(iteration))

    def answer_batch(number: int) -> None:
        if number not in stored:
            store.append(iteration, number, ask(number))
        done(number)

    processes.shared(count, answer_batch)
    with processes.together():
        store.collect(iteration, count)


def answer(
    cfg: ImproveConfig,
    sampler: Policy,
    batch: Sequence[Problem],
    shots: Sequence[Sequence[Problem]],
    hint: bool,
    samples: int,
    key: Key,
    greedy: bool = False,
) -> Answered:
    """What the model writes after the prompts of these problems, and the verdicts."""
    recipe, task, tokenizer = cfg.improve, cfg.task, sampler.tokenizer
    prompts = [(task.hinted if hint else task.prompt)(*pair) for pair in zip(batch, shots, strict=True)]
    sampling = Sampling(
        0.0 if greedy else recipe.temperature,
        0 if greedy else recipe.top_k,
        1.0 if greedy else recipe.top_p,
        max(task.budget(problem, tokenizer) for problem in batch),
        tuple(task.stop),
    )
    written = decoding.generate(
        sampler.definition,
        sampler.params,
        tokenizer,
        prompts,
        key,
        sampling,
        samples=samples,
        batch_size=sharding.full(cfg.sample_batch),
    )
    problems = [problem for problem in batch for _ in range(samples)]
    verdicts = [graded(task, *row) for row in zip(problems, written.text, written.finished, strict=True)]
    return Answered(prompts, written, verdicts)


def samples(
    cfg: ImproveConfig, sampler: Policy, batch: Sequence[Problem], answered: Answered, hint: bool
) -> list[Sample]:
    """Rows of the store."""
    recipe, per_problem = cfg.improve, len(answered.verdicts) // len(batch)
    fixed = {"split": "train", "seed": cfg.seed, "checkpoint": sampler.name}
    fixed |= {name: getattr(recipe, name) for name in ("temperature", "top_k", "top_p")}
    fixed |= {"grader": cfg.task.grader.name, "grader_version": cfg.task.grader.version}
    rows, written = [], answered.written
    # An end-of-text token is not part of the text: it takes the place of the stop.
    ended = [len(tokens) and int(tokens[-1]) in sampler.tokenizer.ends for tokens in written.tokens]
    for i, verdict in enumerate(answered.verdicts):
        problem = batch[i // per_problem]
        asked = {"problem": problem.id, "question": problem.question, "gold": problem.answer, "group": problem.group}
        asked |= {"prompt": answered.prompts[i // per_problem], "hint": problem.hint_text if hint else ""}
        tokens = {name: getattr(written, name)[i].tolist() for name in ("tokens", "logprobs", "margins")}
        counts = {"prompt_tokens": len(written.prompts[i]), "generated_tokens": len(written.tokens[i])}
        texts = {
            "written": written.text[i] + ("" if ended[i] else written.ending[i]),
            "stored": leaks.stored(cfg.task, problem, written.text[i], hint),
        }
        outcome = {"answer": verdict.answer, "correct": verdict.correct, "reason": verdict.reason}
        done = {"finished": bool(written.finished[i])}
        rows.append(Sample(**fixed, **asked, **tokens, **counts, **texts, **outcome, **done))
    return rows


COUNTED = (
    "hinted",
    "correct",
    "problem",
    "prompt",
    "stored",
    "tokens",
    "logprobs",
    "prompt_tokens",
    "generated_tokens",
)
"""Columns of the store that `counted` reads."""


def counted(cfg: ImproveConfig, sampler: Policy, rows: Sequence[dict], problems: Mapping[str, Problem]) -> dict:
    """Numbers of an iteration's samples; tokens and FLOPs are those of the samples, so the same after a kill."""
    free, hinted = [row for row in rows if not row["hinted"]], [row for row in rows if row["hinted"]]
    shape = sampler.lm
    line = {
        "sampled": len(free),
        "right": sum(row["correct"] for row in free),
        "hinted": len(hinted),
        "right_hinted": sum(row["correct"] for row in hinted),
        "ledger": {"sample": spent(shape, free, cfg.improve.samples), "hint": spent(shape, hinted, 1)},
    }
    return line | {"mismatch": _mismatch(cfg, sampler, rows), "stated": _stated(cfg.task, rows, problems)}


def _stated(task: Task, rows: Sequence[dict], problems: Mapping[str, Problem]) -> dict[str, dict]:
    """Where right rationales state the answer, those with a hint apart; no entry where none declares one."""
    stated = {}
    for name, hinted in (("free", False), ("hinted", True)):
        kept = [row for row in rows if row["correct"] and row["stored"] and row["hinted"] == hinted]
        statements = [
            leaks.statement(task.reasons(row["stored"]), task.spellings(problems[row["problem"]])) for row in kept
        ]
        if any(statement is not None for statement in statements):
            stated[name] = dataclasses.asdict(leaks.statements(statements))
    return stated


def misled(problems: Sequence[Problem], count: int) -> list[WronglyHinted]:
    """`count` of the problems, with hints of other answers; every call returns the same ones."""
    rng = np.random.default_rng(WRONG_HINT_SEED)
    hinted = leaks.wrong_hints(problems, rng)
    return [hinted[i] for i in sorted(rng.permutation(len(hinted))[:count].tolist())]


FOLLOWED = ("problem", "answer", "gold", "prompt_tokens", "generated_tokens")
"""Columns of the store that `followed` reads."""


def followed(sampler: Policy, asked: Sequence[WronglyHinted], rows: Sequence[dict]) -> dict:
    """Counts of the answers to wrong hints, from the rows of their store."""
    hinted = {question.problem.id: question.hinted for question in asked}
    count = leaks.wrong_hint_count((row["answer"], hinted[row["problem"]], row["gold"]) for row in rows)
    line = {"wrong_hints": dataclasses.asdict(count) | {"share_followed": count.share_followed}}
    return line | {"ledger": {"wrong_hint": spent(sampler.lm, rows, 1)}}


def spent(shape: lm.LMConfig, rows: Sequence[dict], samples: int) -> dict[str, int]:
    """Tokens read, written and graded, and their FLOPs; a prompt is read once for all its samples."""
    prompts, written = [row["prompt_tokens"] for row in rows], [row["generated_tokens"] for row in rows]
    reading = sum(cost.flops(shape, [Pass(size, size, 1, gradient=False)]) for size in prompts[::samples])
    writing = sum(
        max(new - 1, 0) * cost.flops(shape, [Pass(1, size + new, 1, gradient=False)])
        for size, new in zip(prompts, written, strict=True)
    )
    return Cost(
        prompt_tokens=sum(prompts[::samples]),
        generated_tokens=sum(written),
        graded_tokens=sum(written),
        flops=reading + writing,
    ).ledger("prompt_tokens", "generated_tokens", "graded_tokens")


def _mismatch(cfg: ImproveConfig, sampler: Policy, rows: Sequence[dict]) -> dict[str, float]:
    """How far the sampler's log-probs are from the trainer's, on some samples of the iteration."""
    written = [row for row in rows if row["tokens"]]
    if not written:
        return {}
    longest = max(row["prompt_tokens"] + row["generated_tokens"] for row in written)
    count = min(SCORED, max(SCORED_TOKENS // longest, 1))
    some = written[:: max(len(written) // count, 1)][:count]
    encode = sampler.tokenizer.encode_prompt
    again = score.score(
        sampler.definition, sampler.params, [encode(row["prompt"]) for row in some], [row["tokens"] for row in some],
        batch_size=sharding.full(min(cfg.sample_batch, count)),
    )  # fmt: skip
    gaps = np.concatenate([np.abs(np.subtract(row["logprobs"], new)) for row, new in zip(some, again, strict=True)])
    return {"mean": float(gaps.mean()), "largest": float(gaps.max())}


def evaluated(cfg: ImproveConfig, sampler: Policy, problems: Sequence[Problem], phase: str, iteration: int) -> dict:
    """Accuracy with the likeliest tokens, by group, and what it cost in this phase (dev or test).

    Several processes divide the batches of questions, and each of them has the whole result.
    Where the configuration asks for it also both accuracies, with few-shot examples and without.
    """
    answers = {shots: _asked(cfg, sampler, problems, shots, phase, iteration) for shots in ways(cfg)}
    right = answers[cfg.ask_few_shot].right
    groups = {
        name: _share(verdicts) for name, verdicts in sorted(right.items(), key=lambda group: (len(group[0]), group[0]))
    }
    rows = [row for way in answers.values() for row in way.rows]
    line = {"accuracy": answers[cfg.ask_few_shot].share, "groups": groups}
    if cfg.ask_both:
        line["ways"] = {"few-shot": answers[True].share, "zero-shot": answers[False].share}
    return line | {"ledger": {phase: spent(sampler.lm, rows, 1)}}


def asking_rng(cfg: ImproveConfig, phase: str) -> np.random.Generator:
    """Draws the examples before the questions of a phase: the same every time."""
    return np.random.default_rng((cfg.seed, *phase.encode()))


def asking(cfg: ImproveConfig, phase: str) -> Prompts:
    """The prompts of `evaluated`, batch by batch in their order."""
    streams = {few_shot: asking_rng(cfg, phase) for few_shot in ways(cfg)}

    def prompts(batch: Sequence[Problem], number: int) -> list[list[str]]:
        by_way = [
            [cfg.task.prompt(problem, cfg.task.shots(problem, rng) if few_shot else ()) for problem in batch]
            for few_shot, rng in streams.items()
        ]
        return list(zip(*by_way, strict=True))

    return prompts


def ways(cfg: ImproveConfig) -> tuple[bool, ...]:
    return (cfg.ask_few_shot, not cfg.ask_few_shot) if cfg.ask_both else (cfg.ask_few_shot,)


@dataclass(frozen=True)
class _Asked:
    right: dict[str, list[bool]]  # by group
    rows: list[dict]  # tokens read and written

    @property
    def share(self) -> dict[str, float]:
        return _share([verdict for verdicts in self.right.values() for verdict in verdicts])


def _asked(
    cfg: ImproveConfig, sampler: Policy, problems: Sequence[Problem], few_shot: bool, phase: str, iteration: int
) -> _Asked:
    rng = asking_rng(cfg, phase)
    parts = batches(cfg, sampler, problems)
    shots = [[cfg.task.shots(problem, rng) if few_shot else () for problem in batch] for batch in parts]
    with console.counting(f"iteration {iteration}: evaluating") as progress:

        def ask(number: int) -> list[tuple[bool, int, int]]:
            # Greedy decoding uses no randomness: any key will do.
            key = jax.random.key(cfg.seed)
            answered = answer(cfg, sampler, parts[number], shots[number], False, 1, key, greedy=True)
            progress(number + 1, len(parts))
            written = zip(answered.verdicts, answered.written.prompts, answered.written.tokens, strict=True)
            return [(bool(verdict.correct), len(prompt), len(new)) for verdict, prompt, new in written]

        answers = [graded for batch in processes.divided(len(parts), ask) for graded in batch]
    right: dict[str, list[bool]] = {}
    asked = [problem for batch in parts for problem in batch]
    for problem, (correct, _, _) in zip(asked, answers, strict=True):
        right.setdefault(problem.group, []).append(correct)
    rows = [{"prompt_tokens": prompt, "generated_tokens": new} for _, prompt, new in answers]
    return _Asked(right, rows)


def _share(right: Sequence[bool]) -> dict[str, float]:
    low, high = wilson(sum(right), len(right))
    return {"share": sum(right) / len(right), "low": low, "high": high, "n": len(right)}
