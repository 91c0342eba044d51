"""One search from its configuration to its table: held-out questions, solved with a strategy and scorers.

A run directory holds solve.yaml, candidates/ (a store as `data/rationales.py` has it: a row for every prompt and every
step that was proposed, with its place in the tree, its scores and its tokens), identity.json (what these rows are a
function of), batches.jsonl (batches_1.jsonl, ... of further processes) and summary.md. A batch of questions is a
function of the weights and the seed, and those that are stored are not searched again: a run that was killed anywhere
ends with the same rows, whatever its number of processes.
Tables are made from the rows alone (`runs/replay.py`), at smaller budgets too.
"""

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np

from qstar import advice, files, paths, processes, sharding
from qstar import config as configs
from qstar.config import SolveConfig
from qstar.data import overlong, rationales
from qstar.data.rationales import Place, Sample, Store
from qstar.decoding import write
from qstar.decoding.sampling import Sampling
from qstar.decoding.session import Session
from qstar.models import cost
from qstar.models import lm as language_models
from qstar.models.cost import Pass
from qstar.models.lm import LMConfig
from qstar.policy import Policy
from qstar.reports import searches as report
from qstar.runs import answering, identity, judge, load, replay
from qstar.runs.kinds import Kind
from qstar.runs.proposing import Proposals, check_delimiters, stop_ids
from qstar.runs.replay import LOGPROB, NO_MODEL, ORACLE
from qstar.runs.scoring import Preference, Scores
from qstar.search import run as searches
from qstar.search.interface import Node, Solution, Value
from qstar.search.particles import ParticleFilter
from qstar.tasks import problem as problems_of
from qstar.tasks.grading import sandbox
from qstar.tasks.problem import Problem
from qstar.training import console, layout

KIND = Kind(
    "solve",
    "search",
    SolveConfig,
    "solve.yaml",
    groups=("model", "task", "search", "mesh"),
    free=("budgets", "subsets", "tables", "tree", "sandbox", "sinks", "mesh"),
)
OF_TABLES = ("tables", "tree", "budgets", "subsets", "search", "scorer", "max_tokens", "max_candidates")
"""Settings of a table that is made from stored rows; all others were those of the search."""
FOLDER = "candidates"
BATCHES = "batches.jsonl"
QUESTION_SEED = 20_240_806
CHECKED = 20  # solutions that come with the questions, in which delimiters are looked for


@dataclass(frozen=True)
class Job:
    """What all batches of a run share."""

    cfg: SolveConfig
    policy: Policy  # on the device
    problems: Sequence[Problem]
    scorers: dict[str, Scores | None]  # by name; None: oracle and logprob
    delimiters: tuple[str, ...]  # none: whole solutions are proposed
    mesh: jax.sharding.Mesh | None = None  # of this process's devices; None: its first one


def run(cfg: SolveConfig, directory: Path, policy: Policy | None = None) -> list[report.Line]:
    """Search all questions; returns the table. Of several processes each searches some; the first has the table.

    Args:
        policy: the model, where it is loaded already; without it that of the configuration is read.

    Raises ValueError and its like for what cannot work, before anything is generated.
    """
    paths.check_folder("run_dir", directory)
    sandbox.configure(cfg.sandbox)
    with processes.together():
        job = prepared(cfg, policy)
    with processes.locked(directory):
        _search_all(job, _opened(job, directory), directory)
        return processes.first_does(lambda: _written(cfg, directory)) or []


def _opened(job: Job, directory: Path) -> Store:
    """The store of a run, begun by the first process."""
    cfg = job.cfg

    def begin() -> None:
        KIND.claim(cfg, directory)
        if cfg.split == "test":
            problems_of.logged_test(cfg.task, directory, f"solve, {type(cfg.search).__name__}")
        identity.claim(directory, _identity(job), "candidates of another search")

    processes.first_does(begin)
    return answering.opened_store(directory / FOLDER, job.policy, cfg.task)


def _identity(job: Job) -> files.JsonObject:
    """What the rows are a function of besides the model, which the store has: nothing of it may be edited."""
    free = ("name", "run_dir", "resume", *KIND.free)
    settings = {key: value for key, value in configs.flat(job.cfg).items() if key.partition(".")[0] not in free}
    weights = {f"weights of {name}": scorer.digest for name, scorer in job.scorers.items() if scorer is not None}
    grader = f"{job.cfg.task.grader.name} {job.cfg.task.grader.version}"
    return settings | weights | {"questions asked": identity.checksum(job.problems), "grader": grader}


def _written(cfg: SolveConfig, directory: Path) -> list[report.Line]:
    lines = tabulated(cfg, directory)
    files.write(directory / "summary.md", report.markdown(lines))
    return lines


def tabulated(cfg: SolveConfig, directory: Path) -> list[report.Line]:
    """The table of a run from what is stored, or of another strategy over it, whose seconds were not measured.

    Raises ValueError for settings that would be another search.
    """
    searched = configs.load(directory / KIND.file, schema=SolveConfig)
    same = {name: getattr(cfg, name) for name in (*OF_TABLES, *KIND.free)}
    changed = configs.changes(dataclasses.replace(searched, **same), cfg)
    if changed:
        raise ValueError(
            f"tables={directory} is made from what is stored there, and this would be another search:\n  "
            + "\n  ".join(changed)
            + f"\nleave that out, or start a search with it; of a table are {', '.join(OF_TABLES)}"
        )
    if cfg.search.guided and not cfg.scorer:
        raise ValueError(
            f"{configs.given('search', cfg.search)} ranks by a scorer, and {directory} was searched without one: "
            "search with scorer=RUN, or choose search=majority"
        )
    rows = _rows(directory)
    lines = replay.lines(cfg, rows, _batches_of(rows, directory))
    measured = searched.search == cfg.search
    return lines if measured else [*lines[:-1], dataclasses.replace(lines[-1], seconds=None)]


def batches(directory: Path) -> list[dict]:
    """The lines about batches of questions, of all processes."""
    return [
        line
        for file in sorted(directory.glob(f"{BATCHES.removesuffix('.jsonl')}*.jsonl"))
        for line in files.records(file, "a batch of questions", batch=int, seconds=float, most_tokens=int)
    ]


def stored(directory: Path) -> tuple[replay.Stored, dict[int, int]]:
    """The trees of a run by batch, and the tokens of the longest solution in each."""
    rows = _rows(directory)
    return replay.trees(rows), {line["batch"]: line["most_tokens"] for line in _batches_of(rows, directory)}


def _batches_of(rows: Sequence[dict], directory: Path) -> list[dict]:
    """The lines about the batches of these rows. Raises ValueError where there are none about one."""
    lines = batches(directory)
    missing = sorted({row["batch"] for row in rows} - {line["batch"] for line in lines})
    if missing:
        names = [rationales.part_name(0, number) for number in missing]
        raise ValueError(
            f"{directory / BATCHES} has no line about batch {', '.join(map(str, missing))}, of which "
            f"{directory / FOLDER} holds candidates: put back a copy of it, or remove these candidates and resume the "
            f"search, which asks their questions again:\n{rationales.forgetting(directory / FOLDER, names)}\n"
            + advice.resume("qstar-solve", directory)
        )
    return lines


def tree(directory: Path, problem: str) -> str:
    """All that was proposed for a question, as text. Raises ValueError where it was not searched."""
    known = questions(directory)
    if problem not in known:
        has = ", ".join(known[:8]) + (", ..." if len(known) > 8 else "")
        raise ValueError(f"tree = {problem!r} is not a question of {directory}, which has {has}")
    return report.tree([row for row in _rows(directory) if row["problem"] == problem])


def _rows(directory: Path) -> list[dict]:
    return Store.open(directory / FOLDER).rows(columns=list(replay.COLUMNS)).to_pylist()


def questions(directory: Path) -> list[str]:
    """Ids of the questions that were searched, in the order in which they were."""
    return list(dict.fromkeys(Store.open(directory / FOLDER).rows(columns=["problem"])["problem"].to_pylist()))


# --- before anything is written -----------------------------------------------------------------------------------


def prepared(cfg: SolveConfig, policy: Policy | None = None) -> Job:
    """The model, the questions and the scorers of a run, checked."""
    _check_budget(cfg)
    if cfg.search.guided and not cfg.scorer:
        raise ValueError(
            f"{configs.given('search', cfg.search)} ranks by a scorer: give scorer=RUN, the directory of a run of "
            "method=orm, prm or dpo, or scorer=logprob, or scorer=oracle for the ceiling; search=majority needs none"
        )
    delimiters = _delimiters(cfg)
    with console.phase("reading the questions"):
        problems = problems_of.drawn(cfg.task.problems(cfg.split), cfg.questions, QUESTION_SEED)
    if not problems:
        raise ValueError(problems_of.no_questions(cfg.task.name, cfg.split))
    with console.phase("loading the model"):
        base = policy or load.initial_model(cfg.model, cfg.seed)
        scorers = {name: _scorer(name, cfg, base) for name in cfg.scorer}
    _check_oracle(cfg, problems)
    if delimiters:
        check_delimiters(base.tokenizer, delimiters, _solutions(cfg))
    fit, over = answering.fitting(cfg, base, problems, lambda: lambda batch, number: _prompts(cfg, batch))
    answering.check_fitting(cfg, base, cfg.split, len(problems), over)
    if over:
        console.say(overlong.told(over, len(problems), f"the {base.lm.max_len} tokens of {base.name}"))
    _check_budget(cfg, max(cfg.task.budget(problem, base.tokenizer) for problem in fit))
    _check_attempts(cfg, base, fit)
    _check_scorers(cfg, base, scorers, fit)
    mesh = layout.sampling(cfg.mesh, language_models.definition(base.lm), cfg.sample_batch)
    with sharding.on(mesh):
        return Job(cfg, base.plain(), fit, scorers, delimiters, mesh)


def _check_budget(cfg: SolveConfig, most: int = 0) -> None:
    """That of tokens as well where those of the longest solution are given."""
    try:
        replay.budget(cfg, most or cfg.step_tokens, cfg.max_tokens if most else 0).check(cfg.search.branching)
    except ValueError as error:
        limit = str(error).replace("budget.", "max_")
        raise ValueError(f"{limit}; raise it (0: no limit), or lower the search's branching") from error


def _delimiters(cfg: SolveConfig) -> tuple[str, ...]:
    if not cfg.search.stepwise:
        return ()
    delimiters = cfg.delimiters or cfg.task.delimiters
    if not delimiters:
        raise ValueError(
            f"{cfg.task.name} has no steps, and {configs.given('search', cfg.search)} searches step by step: give the "
            "texts that end a step with delimiters=[TEXT], or choose search=best_of_n or search=majority"
        )
    return tuple(delimiters)


def _scorer(name: str, cfg: SolveConfig, base: Policy) -> Scores | None:
    if name in NO_MODEL:
        return None
    return judge.opened(name, base.tokenizer, cfg.aggregate)


def _check_oracle(cfg: SolveConfig, problems: Sequence[Problem]) -> None:
    guides = cfg.search.guided and cfg.search.stepwise and cfg.scorer[0] == ORACLE
    if guides and cfg.task.truth(problems[0], ()) is None:
        raise ValueError(
            f"scorer=oracle: {cfg.task.name} does not know which prefixes of a solution are right, so its gold "
            "answers can score whole solutions only: choose search=best_of_n for the ceiling"
        )


def _check_scorers(
    cfg: SolveConfig, base: Policy, scorers: Mapping[str, Scores | None], problems: Sequence[Problem]
) -> None:
    """That they can read every solution whole, and that the first gives the search what it needs."""
    guide = scorers[cfg.scorer[0]] if cfg.search.guided and cfg.scorer else None
    if isinstance(guide, Preference) and isinstance(cfg.search, ParticleFilter):
        raise ValueError(
            f"search=particles draws by probabilities, and the scores of {cfg.scorer[0]} (method=dpo) are log-ratios: "
            "give search=best_of_n search.select=max or search.select=vote"
        )
    if isinstance(guide, Preference) and cfg.search.select in ("weighted", "hierarchical"):
        raise ValueError(
            f"search.select = {cfg.search.select!r} adds up scores, and those of {cfg.scorer[0]} (method=dpo) are "
            "log-ratios, which only rank: give search=best_of_n search.select=max or search.select=vote"
        )
    sizes = [
        len(base.tokenizer.encode_prompt(cfg.task.prompt(problem))) + cfg.task.budget(problem, base.tokenizer)
        for problem in problems
    ]
    for name, scorer in scorers.items():
        if scorer and not scorer.reads_text and max(sizes) > scorer.policy.lm.max_len:
            raise ValueError(
                f"scorer {name} reads {scorer.policy.lm.max_len} tokens, a question with its solution may have "
                f"{max(sizes)}: {answering.ways_out(cfg.task, 'use a reward model with a longer context')}"
            )


def _check_attempts(cfg: SolveConfig, base: Policy, problems: Sequence[Problem]) -> None:
    """That the model can read the attempts that are shown before a solution."""
    if not cfg.search.shown:
        return
    sizes = [
        len(base.tokenizer.encode_prompt(prompt)) + _longest(cfg, base, cfg.task.budget(problem, base.tokenizer))
        for problem, (prompt,) in zip(problems, _prompts(cfg, problems), strict=True)
    ]
    if max(sizes) > base.lm.max_len:
        raise ValueError(
            f"search.context = {cfg.search.context}: a question with {cfg.search.shown} attempts and a revision may "
            f"have {max(sizes)} tokens, and {base.name} reads {base.lm.max_len}: "
            f"{answering.ways_out(cfg.task, 'show fewer with search.context')}"
        )


def _solutions(cfg: SolveConfig) -> list[str]:
    """Texts with delimiters as they occur in solutions, up to the stop; none where the questions have none."""
    known = [problem for problem in cfg.task.problems("dev") if problem.rationale][:CHECKED]
    whole = [cfg.task.completion(problem.rationale, problem) for problem in known]
    return [text.split(stop)[0] for text in whole for stop in cfg.task.stop[:1]]


def _prompts(cfg: SolveConfig, batch: Sequence[Problem]) -> list[list[str]]:
    """The prompt of each, with examples that depend on the question alone."""
    prompts = []
    for problem in batch:
        rng = np.random.default_rng((cfg.seed, *problem.id.encode()))
        prompts.append([cfg.task.prompt(problem, cfg.task.shots(problem, rng) if cfg.few_shot else ())])
    return prompts


# --- the search ---------------------------------------------------------------------------------------------------


def _search_all(job: Job, store: Store, directory: Path) -> None:
    """The batches that are not stored yet, each in one of the processes."""
    batches = answering.batches(job.cfg, job.policy, job.problems)
    layers = functools.cache(lambda: write.unrolled(job.policy.definition, job.policy.params))
    costs = directory / (BATCHES if processes.first() else BATCHES.replace(".", f"_{jax.process_index()}."))
    what = f"{configs.choice('search', type(job.cfg.search))} over {len(job.problems)} questions"
    with sharding.on(job.mesh), console.counting(what) as progress:

        def search(number: int) -> list[Sample]:
            begun = time.monotonic()
            samples = searched(job, batches[number], number, layers())
            took = {"seconds": time.monotonic() - begun, "most_tokens": _most(job, batches[number])}
            files.append(costs, [{"batch": number} | took])
            return samples

        def done(number: int) -> None:
            progress(sum(map(len, batches[: number + 1])), len(job.problems))

        answering.fill(store, 0, len(batches), search, done)


def _most(job: Job, batch: Sequence[Problem]) -> int:
    """Tokens of a solution."""
    return max(job.cfg.task.budget(problem, job.policy.tokenizer) for problem in batch)


def searched(job: Job, batch: Sequence[Problem], number: int, layers: tuple | None = None) -> list[Sample]:
    """The trees of a batch of questions, as rows of the store."""
    cfg, policy = job.cfg, job.policy
    most = _most(job, batch)
    longest = _longest(cfg, policy, most)
    sampling = Sampling(cfg.temperature, cfg.top_k, cfg.top_p, longest, tuple(cfg.task.stop))
    prompts = [prompt for (prompt,) in _prompts(cfg, batch)]
    size = sharding.full(cfg.sample_batch)
    session = Session(policy.definition, policy.params, policy.tokenizer, prompts, sampling, layers=layers, size=size)
    limits = replay.budget(cfg, most, cfg.max_tokens)
    proposals = Proposals(session, cfg.task, batch, policy.tokenizer, job.delimiters, limits.step_tokens, most)
    solved = searches.search(
        cfg.search, proposals.prompts, proposals.propose, values(job, proposals), proposals.answer,
        (cfg.seed, number), limits,
    )  # fmt: skip
    return [
        _sample(job, proposals, solution, node, prompts[problem])
        for problem, solution in enumerate(solved)
        for node in solution.nodes
        if not node.attempts  # a prompt that shows attempts is no step: its revision is stored after the last of them
    ]


def _longest(cfg: SolveConfig, policy: Policy, most: int) -> int:
    """Tokens after a prompt: a solution of `most` tokens, and the attempts that are shown before it."""
    if not cfg.search.shown:
        return most
    return most + cfg.search.shown * (most + len(stop_ids(policy.tokenizer, cfg.task)))


def values(job: Job, proposals: Proposals) -> dict[str, Value]:
    """The scorers of a run, by name."""
    own = {ORACLE: functools.partial(_truth, job, proposals), LOGPROB: _likelihood}

    def value(name: str, scorer: Scores | None) -> Value:
        score: Callable[[Node], float] | None = own.get(name)
        if scorer is None:
            return lambda nodes: np.array([score(node) for node in nodes])
        return scorer.value(proposals.texts if scorer.reads_text else proposals.spelled)

    return {name: value(name, scorer) for name, scorer in job.scorers.items()}


def _truth(job: Job, proposals: Proposals, node: Node) -> float:
    """Of a solution, whether it is right; of a prefix, whether the right answer can still be reached."""
    if node.finished:
        return float(proposals.verdict(node).correct)
    truth = job.cfg.task.truth(proposals.problems[node.problem], proposals.steps(node))
    return float(truth is not None and truth.reachable[-1:] == (True,))


def _likelihood(node: Node) -> float:
    """Geometric mean of the probabilities of the tokens, which were sampled or not, at temperature 1."""
    return math.exp(np.concatenate([step.candidate.logprobs for step in node.path]).mean())


# --- rows ---------------------------------------------------------------------------------------------------------


def _sample(job: Job, proposals: Proposals, solution: Solution, node: Node, prompt: str) -> Sample:
    cfg, problem, step = job.cfg, proposals.problems[node.problem], node.state.step
    shown = node.state.row.ids[: node.state.row.shown]
    verdict = proposals.verdict(node) if node.finished else None
    return Sample(
        problem=problem.id, split=cfg.split, question=problem.question, gold=problem.answer, group=problem.group,
        prompt=prompt + job.policy.tokenizer.decode(shown), hint="",
        temperature=cfg.temperature, top_k=cfg.top_k, top_p=cfg.top_p, seed=cfg.seed,
        checkpoint=job.policy.name, tokens=step.ids if step else (), logprobs=step.logprobs if step else (),
        margins=step.margins if step else (), written=step.text if step else "", stored=None,
        answer=verdict.answer if verdict else "", correct=bool(verdict and verdict.correct),
        reason=verdict.reason if verdict else "unfinished", grader=cfg.task.grader.name,
        grader_version=cfg.task.grader.version, prompt_tokens=len(proposals.session.prompts[node.problem]) + len(shown),
        generated_tokens=node.candidate.tokens, finished=node.state.row.finished,
        place=_place(job, proposals, solution, node),
    )  # fmt: skip


def _place(job: Job, proposals: Proposals, solution: Solution, node: Node) -> Place:
    read = len(proposals.session.prompts[node.problem]) + len(node.state.row.ids)
    writing = node.candidate.tokens * _flops(job.policy.lm, read, columns=1)
    if node.parent and node.parent.attempts:  # they are read first
        writing += _flops(job.policy.lm, read, columns=node.state.row.shown)
    scores = {name: float(of[node.id]) for name, of in solution.scores.items() if not math.isnan(of[node.id])}
    asked = [job.scorers[name].spent(read - node.state.row.shown) for name in scores if job.scorers[name] is not None]
    value = solution.value[node.id]
    return Place(
        node=node.id,
        parent=-1 if node.parent is None else node.parent.origin.id,
        draw=node.state.draw,
        final=node.finished,
        rollout=node.rollout,
        chosen=node is solution.chosen,
        scores=scores,
        value=None if math.isnan(value) else float(value),
        margin=node.candidate.margin,
        flops=_flops(job.policy.lm, read) if node.parent is None else writing,
        scored_tokens=sum(tokens for tokens, _ in asked),
        scoring_flops=sum(flops for _, flops in asked),
    )


def _flops(lm: LMConfig, keys: int, columns: int | None = None) -> int:
    """Of columns that attend to so many keys; of as many columns where that is not said: a text that is read."""
    return cost.flops(lm, [Pass(keys if columns is None else columns, keys, 1, gradient=False)])
