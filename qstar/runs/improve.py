"""One self-training run from its configuration to its table: sampling, selection and training, iteration by iteration.

A run directory holds improve.yaml, rationales/ (every sample, `data/rationales.py`), wrong_hints/ (the same of what was
sampled with a wrong hint, never trained on), a folder for each iteration with the examples it trained on and its
training, a run like any other (iteration_3 can be evaluated by qstar-evaluate or be a model.source), iterations.jsonl
(a line for each that is done) and summary.md. An iteration is a function of the weights before it, the store and the
seed: batches that are stored are not drawn again, training resumes from its checkpoint; a run that was killed anywhere
ends with the same results. Several processes divide the batches of questions, and train together on the mesh of all.
"""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jax

from qstar import advice, files, paths, processes, sharding
from qstar.config import ImproveConfig, TrainConfig
from qstar.data import examples as example_files
from qstar.data import rationales
from qstar.data.examples import ExamplesText
from qstar.data.from_file import FileData
from qstar.data.pairs import PairsText
from qstar.data.rationales import Store
from qstar.data.tokenizer import Tokenizer
from qstar.evals.suite import NoEval
from qstar.methods.dpo import DPO
from qstar.models import cost
from qstar.models import lm as language_models
from qstar.models.cost import Cost
from qstar.policy import Policy
from qstar.recipes import catalog
from qstar.recipes.kept import Kept, Preferred
from qstar.recipes.recipe import Recipe, Training
from qstar.recipes.training_set import examples, fitting
from qstar.reports import summaries
from qstar.runs import answering, asking, identity, iterations, load, train
from qstar.runs.asking import Sampling
from qstar.runs.iterations import Policies, joined
from qstar.sharding import MeshConfig
from qstar.tasks import problem as problems_of
from qstar.tasks.grading import sandbox
from qstar.tasks.problem import Problem
from qstar.training import checkpoint, console, layout, metrics
from qstar.training.optim import OptimConfig

VERIFIER, PAIRS, EXAMPLES = "verifier.jsonl", "pairs.jsonl", "examples.jsonl"
DEV_SEED = 20_220_328


class NothingRight(ValueError):  # noqa: N818 (it is what is said)
    """No rationale that could be trained on."""


@dataclass(frozen=True)
class Job:
    """What all iterations of a run share."""

    cfg: ImproveConfig
    recipe: Recipe
    directory: Path
    base: Policy
    problems: Sequence[Problem]  # training questions
    dev: Sequence[Problem]
    left: dict[str, int]  # dev questions that are left out
    policies: Policies
    mesh: jax.sharding.Mesh | None  # on which this process samples; None: its first device


def run(cfg: ImproveConfig, directory: Path) -> list[dict]:
    """Train in iterations; returns the lines of iterations.jsonl.

    Raises NothingRight where an iteration has nothing to train on; ValueError and its like for what cannot work, before
    the first compile; `loop.Interrupted` as training does.
    """
    paths.check_folder("run_dir", directory)
    sandbox.configure(cfg.sandbox)
    with processes.together():
        job = _prepared(cfg, directory)
    with processes.locked(directory):
        processes.first_does(lambda: _claim(job))
        return _run(job)


def _claim(job: Job) -> None:
    """Write the configuration and what its files of questions hold, or check that the directory holds this run."""
    iterations.claim(job.cfg, job.directory)
    asked = {"training questions": job.problems, "dev questions": job.dev}
    sums = {name: identity.checksum(problems, identity.SHOWN) for name, problems in asked.items()}
    identity.claim(job.directory, sums, "rationales of other questions")


def _run(job: Job) -> list[dict]:
    cfg, directory, store = job.cfg, job.directory, None
    if job.recipe.asks_itself:
        store = answering.opened_store(directory / rationales.FOLDER, job.base, cfg.task)
    done = len(_lines(directory))
    if done:
        iterations.train_again(directory, done - 1, cfg.mesh)
    else:
        _finish(directory, _before(job))
    for iteration in range(done or 1, job.recipe.iterations + 1):
        _finish(directory, _iteration(job, store, iteration))
    lines = _lines(directory)
    if cfg.test and "test" not in lines[-1]:
        lines[-1] = joined(lines[-1], _tested(job, lines[-1]["iteration"]))
        processes.first_does(lambda: iterations.rewrite(directory, lines))
    processes.first_does(lambda: _conclude(job, lines))
    return lines


def _lines(directory: Path) -> list[dict]:
    """Of the iterations that are done, as the first process reads them."""
    return processes.gathered(iterations.lines(directory))[0]


def _finish(directory: Path, line: dict) -> None:
    processes.first_does(lambda: iterations.finish(directory, line))


def _conclude(job: Job, lines: Sequence[dict]) -> None:
    """Write what is made of all iterations."""
    directory = job.directory
    if job.recipe.verifier:
        prompts = {problem.id: job.cfg.task.prompt(problem) for problem in job.problems}
        examples = list(rationales.verifier_examples(Store.open(directory / rationales.FOLDER), prompts))
        example_files.write(directory / VERIFIER, examples)
        given = [
            {"prompt": prompts[one.problem], "completion": one.stored, "label": 1, "problem": one.problem}
            for one in job.recipe.given(job.cfg.task, job.problems)
        ]
        files.write_records(directory / PAIRS, list(rationales.preference_pairs([*given, *examples])))
    files.write(directory / "summary.md", summaries.iterations(lines) + summaries.tokenizer(job.base.tokenizer))


def _before(job: Job) -> dict:
    """The line of iteration 0: the model that is sampled first."""
    first = job.recipe.first(job.cfg.task, job.problems)
    line = {"iteration": 0}
    if first:
        line = joined(line, _train_on(job, 0, _examples(job, 0, first, job.base.tokenizer), {}))
    if job.left:
        line["overlong"] = job.left
    return joined(line, _evaluated(job, job.dev, "dev", 0))


def _iteration(job: Job, store: Store | None, iteration: int) -> dict:
    """Sample, keep, train, evaluate: the line with the results."""
    processes.first_does(lambda: files.make(iterations.folder(job.directory, iteration)))
    line, kept = _kept(job, store, iteration)
    line = joined(line, _train_on(job, iteration, kept, line.get("mismatch", {})))
    return joined(line, _evaluated(job, job.dev, "dev", iteration))


def _evaluated(job: Job, problems: Sequence[Problem], phase: str, iteration: int) -> dict:
    with sharding.on(job.mesh):
        return answering.evaluated(job.cfg, job.policies.after(iteration), problems, phase, iteration)


def _kept(job: Job, store: Store | None, iteration: int) -> tuple[dict, list[dict]]:
    """The results of asking, and the examples to train on."""
    cfg, recipe = job.cfg, job.recipe
    with sharding.on(job.mesh):
        policy = job.policies.after(iteration - 1) if store else job.base  # nothing is sampled without a store
    plan, left, samples = recipe.plan(iteration, len(job.problems), cfg.seed), dict(job.left), []
    asked = [job.problems[i] for i in plan.questions]
    if store:
        asked = asking.fitting_sampled(cfg, job.base, asked, iteration, left)
    line = {"iteration": iteration, "problems": len(asked)} | ({"overlong": left} if left else {})
    if store:
        sampler = Sampling(cfg, policy, job.base, store, plan, iteration)
        with sharding.on(job.mesh):
            line = joined(line, sampler.sample(asked))
            if cfg.wrong_hints:
                line = joined(line, sampler.mislead(job.problems))
        samples = asking.graded(store, iteration)
    kept = recipe.select(samples, iteration, cfg.seed) + recipe.given(cfg.task, asked)
    if store and not kept and not line["right"] and not line["right_hinted"]:
        raise NothingRight(_advice(cfg, iteration, line, job.directory))
    return line, _examples(job, iteration, kept, policy.tokenizer)


def _tested(job: Job, iteration: int) -> dict:
    """The test split, evaluated once; the directory records it."""
    cfg, left = job.cfg, {}
    why = f"accuracy after iteration {iteration}"
    logged = processes.first_does(lambda: problems_of.logged_test(cfg.task, job.directory, why))
    problems = cfg.task.problems("test") if logged is None else logged
    problems = asking.fitting_asked(cfg, job.base, problems, "test", left)
    line = _evaluated(job, problems, "test", iteration)
    test = {name: line[name] for name in line if name != "ledger"} | ({"overlong": left["test"]} if left else {})
    return {"test": test, "ledger": line["ledger"]}


# --- training -----------------------------------------------------------------------------------------------------


def _examples(job: Job, iteration: int, kept: Sequence[Kept] | Sequence[Preferred], tokenizer: Tokenizer) -> list[dict]:
    """What was kept, after its questions, and some of it after its hints."""
    task, names = job.cfg.task, {sample.problem for sample in kept}
    problems = [problem for problem in job.problems if problem.id in names]
    again = job.recipe.after_hints(kept, iteration, job.cfg.seed) if iteration else []
    spelled = (job.recipe.grouped and iteration > 0, tokenizer, task.stop)
    return [
        *examples(kept, {problem.id: task.prompt(problem) for problem in problems}, *spelled),
        *(examples(again, {problem.id: task.hinted(problem) for problem in problems}, *spelled) if again else ()),
    ]


def _train_on(job: Job, iteration: int, kept: Sequence[dict], mismatch: dict[str, float]) -> dict:
    """Train on those examples that fit into a row; the metrics begin with the sampler's mismatch."""
    fit = fitting(kept, job.base.tokenizer, job.cfg.length)
    line = {"examples": len(fit), "too_long": len(kept) - len(fit)}
    if not fit:
        return line
    folder, training = iterations.folder(job.directory, iteration), job.recipe.train(iteration)
    data = _data(folder, job.cfg.length, training)
    processes.first_does(lambda: _write_examples(Path(data.path), fit))
    with processes.together():
        files.await_all([Path(data.path)])
    before = iterations.trained(job.directory, iteration - 1) if training.go_on else None
    cfg = _training(job, folder, training, before, data)
    train.run(cfg, folder, {f"mismatch_{name}": value for name, value in mismatch.items()})
    with processes.together():
        files.await_all([folder / "config.yaml"])
    if iteration:
        line |= _carried(cfg.optim, training)
    return line | _cost(job, training, metrics.records(folder))


def _data(folder: Path, length: int, training: Training) -> FileData:
    """What it trains on: pairs, if that is what its method compares."""
    if isinstance(training.method, DPO):
        return PairsText(str(folder / PAIRS), length)
    return ExamplesText(str(folder / EXAMPLES), length, prompts_count=training.prompts_count)


def _write_examples(file: Path, fit: Sequence[dict]) -> None:
    files.make(file.parent)
    files.write_records(file, fit)


def _training(job: Job, folder: Path, training: Training, before: Path | None, data: FileData) -> TrainConfig:
    """A run like any other, from the base or from the run before."""
    cfg, optim = job.cfg, job.cfg.optim
    if training.schedule_steps:
        optim = dataclasses.replace(optim, schedule_steps=training.schedule_steps, steps_before=training.steps_before)
    # The moments of the fine-tuning before the first iteration are not those of self-training.
    if training.carry_moments and before is not None and before != iterations.folder(job.directory, 0):
        optim = dataclasses.replace(optim, moments_of=str(before))
    return TrainConfig(
        name=f"{cfg.name}_{folder.name.removeprefix('iteration_')}",
        run_dir=str(folder),
        seed=cfg.seed,
        steps=training.steps,
        batch_size=cfg.batch_size,
        micro_batches=cfg.micro_batches,
        log_every=cfg.log_every,
        save_every=cfg.save_every,
        keep=1,
        sample_every=0,
        model=cfg.model if before is None else iterations.pretrained(cfg, before),
        method=training.method,
        data=data,
        eval=NoEval(),
        optim=optim,
        mesh=cfg.mesh,
    )


def _carried(optim: OptimConfig, training: Training) -> dict:
    """Which optimiser state and which part of a schedule an iteration trained with."""
    first, last = optim.steps_before + 1, optim.steps_before + training.steps
    return {
        "optimizer": "carried" if optim.moments_of else "fresh",
        "schedule": "run" if training.schedule_steps else "iteration",
        "schedule_steps": [first, last, optim.schedule_steps or training.steps],
    }


def _cost(job: Job, training: Training, records: Sequence[dict]) -> dict:
    """Steps, the last loss, and what they cost; targets are counted where the method does."""
    cfg, units = job.cfg, training.steps * job.cfg.batch_size
    rows = 2 * units if isinstance(training.method, DPO) else units  # a pair takes two
    counts = "tokens" in records[-1]
    spent = Cost(
        trained_tokens=rows * cfg.length,
        target_tokens=_targets(records) if counts else 0,
        flops=units * cost.flops(job.base.lm, training.method.passes(cfg.length)),
    ).ledger("trained_tokens", *(["target_tokens"] if counts else []))
    loss = "nll" if "nll" in records[-1] else "loss"
    return {"steps": training.steps, loss: records[-1][loss], "ledger": {"train": spent}}


def _targets(records: Sequence[dict]) -> int:
    """Tokens that counted in the loss, from the lines of a training, which hold means over steps."""
    lines = [line for line in records if line["step"]]
    ends = [line["step"] for line in lines]
    counts = [end - start for start, end in zip([0, *ends[:-1]], ends, strict=True)]
    return sum(round(line["tokens"] * count) for line, count in zip(lines, counts, strict=True))


# --- before anything is written -----------------------------------------------------------------------------------


def _prepared(cfg: ImproveConfig, directory: Path) -> Job:
    """The model and the questions of a run, checked."""
    recipe, left = catalog.made(cfg.improve), {}
    with console.phase("reading the questions"):
        problems, dev = cfg.task.problems("train"), problems_of.drawn(cfg.task.problems("dev"), cfg.dev, DEV_SEED)
    if not problems or not dev:
        raise ValueError(problems_of.no_questions(cfg.task.name, "dev" if problems else "train"))
    with console.phase("loading the model"):
        # Earlier versions put no begin-of-text token before texts: a run of theirs continues without.
        base = load.as_begun(iterations.folder(directory, 1), load.initial_model(cfg.model, cfg.seed))
    if base.tokenizer.summary():
        console.console().print(f"tokenizer: {base.tokenizer.summary()}", markup=False, highlight=False)
    checkpoint.check_path(directory)
    _check(cfg, recipe, base, problems)
    dev = asking.fitting_asked(cfg, base, dev, "dev", left)
    if cfg.test:  # only the lengths of its questions are checked
        asking.fitting_asked(cfg, base, cfg.task.problems("test"), "test", {})
    if recipe.asks_itself:  # all, with the examples of the first iteration before them
        asking.fitting_sampled(cfg, base, problems, 1, {})
    mesh = _sampling_mesh(cfg, base)
    return Job(cfg, recipe, directory, base, problems, dev, left, Policies(cfg, directory, base), mesh)


def _sampling_mesh(cfg: ImproveConfig, base: Policy) -> jax.sharding.Mesh | None:
    """That of training, on the devices of this process; as mesh=auto where these are fewer."""
    mesh = cfg.mesh
    if not mesh.auto:
        sharding.check_rows(cfg.batch_size // cfg.micro_batches, sharding.make_mesh(mesh))
        if math.prod(max(size, 1) for size in (mesh.data, mesh.fsdp, mesh.tensor)) > jax.local_device_count():
            mesh = MeshConfig(auto=True)
    return layout.sampling(mesh, language_models.definition(base.lm), cfg.sample_batch)


def _check(cfg: ImproveConfig, recipe: Recipe, base: Policy, problems: Sequence[Problem]) -> None:
    recipe.check_questions(cfg.task.name, problems)
    numbers = (0, 1) if recipe.first(cfg.task, problems) else (1,)
    shortest = min(recipe.train(number).steps for number in numbers)
    if not recipe.train(1).schedule_steps and cfg.optim.warmup_steps > shortest:
        raise ValueError(
            f"optim.warmup_steps = {cfg.optim.warmup_steps}, but the schedule restarts in every iteration, the "
            f"shortest has {shortest} steps, and the learning rate would never be reached: shorten the warm-up, or "
            "give improve.schedule=run, one schedule for all iterations"
        )
    if cfg.length > base.lm.max_len:
        raise ValueError(f"length = {cfg.length} is longer than the context of {base.name}, {base.lm.max_len} tokens")
    if cfg.wrong_hints and not recipe.asks_itself:
        raise ValueError(f"wrong_hints = {cfg.wrong_hints}: nothing is sampled with improve.target={recipe.target}")
    if cfg.wrong_hints and not answering.misled(problems, 1):
        raise ValueError(
            f"wrong_hints = {cfg.wrong_hints}: no two questions of {cfg.task.name} in one group have different answers"
        )


def _advice(cfg: ImproveConfig, iteration: int, line: dict, directory: Path) -> str:
    sft = advice.command("qstar-train", "~experiments", "method=sft", "data=examples", "eval=none")
    lacking = "declares an answer" if cfg.improve.keep == "all" else "is right"
    return (
        f"iteration {iteration}: none of {line['sampled']} samples (and {line['hinted']} with a hint) of "
        f"{line['problems']} problems of {cfg.task.name} {lacking}, so there is nothing to train on. "
        "Self-training needs a start above chance: show examples (improve.few_shot=true), draw more samples "
        "(improve.samples=8 improve.temperature=0.7), start with easier problems, or train on a few rationales "
        f"first ({sft} data.path=FILE). All samples are in {directory / rationales.FOLDER}"
    )
