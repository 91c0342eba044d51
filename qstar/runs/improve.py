"""One self-training run from its configuration to its table: STaR, and what only differs from it by a few fields.

A run directory holds improve.yaml, rationales/ (every sample, `data/rationales.py`), wrong_hints/ (the same of what was
asked with a wrong hint, never learnt), a folder for each iteration with the examples it trained on and its training, a
run like any other (iteration_3 can be asked by qstar-evaluate or be a model.source), iterations.jsonl (a line for each
that is done) and summary.md. An iteration is a function of the weights before it, the store and the seed: batches that
are stored are not drawn again, training goes on from its checkpoint; a run that was killed anywhere comes to the same
end.
"""

import dataclasses
import functools
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import numpy as np

from qstar import config as configs
from qstar import files, paths
from qstar.config import ImproveConfig, TrainConfig
from qstar.data import examples as example_files
from qstar.data import rationales
from qstar.data.examples import ExamplesText
from qstar.data.rationales import Sample, Store
from qstar.evals.suite import NoEval
from qstar.methods.sft import SFT
from qstar.models import cost
from qstar.policy import Policy
from qstar.recipes.selection import Graded, Kept, drawn, examples, selected, some
from qstar.reports import summaries, tables
from qstar.runs import answering, iterations, load, stored, train
from qstar.runs.answering import Overlong
from qstar.tasks import problem as problems_of
from qstar.tasks.grading import sandbox
from qstar.tasks.leaks import WronglyHinted
from qstar.tasks.problem import Problem
from qstar.training import checkpoint, console, metrics
from qstar.training.optim import OptimConfig
from qstar.typing import Key

WRONG_HINTS = "wrong_hints"
VERIFIER = "verifier.jsonl"
FREE, HINTED, MISLED = range(3)  # what a key is folded with
DEV_SEED = 20_220_328


class NothingRight(ValueError):  # noqa: N818 (it is what is said)
    """No rationale that could be trained on."""


def run(cfg: ImproveConfig, directory: Path) -> list[dict]:
    """Train in iterations; returns the lines of iterations.jsonl.

    Raises NothingRight where an iteration has nothing to train on; ValueError and its like for what cannot work, before
    the first compile; `loop.Interrupted` as training does.
    """
    paths.check_folder("run_dir", directory)
    sandbox.configure(cfg.sandbox)
    with console.phase("loading the model"):
        # Earlier versions put no begin-of-text token before texts: a run of theirs goes on without.
        base = load.as_begun(iterations.folder(directory, 1), load.initial_model(cfg.model, cfg.seed))
    if base.tokenizer.told():
        console.console().print(f"tokenizer: {base.tokenizer.told()}", markup=False, highlight=False)
    with console.phase("reading the questions"):
        problems, dev = cfg.task.problems("train"), _some(cfg.task.problems("dev"), cfg.dev)
    _check(cfg, directory, base, problems, dev)
    left: dict[str, int] = {}
    dev = _fitting_asked(cfg, base, dev, "dev", left)
    if cfg.test:
        _fitting_asked(cfg, base, cfg.task.problems("test"), "test", {})  # its questions' lengths alone are looked at
    if cfg.improve.target == "own":  # all, with the examples of the first iteration before them
        _fitting_sampled(cfg, base, problems, 1, {})
    with files.locked(directory):
        iterations.claim(cfg, directory)
        return _run(cfg, directory, base, problems, dev, left)


def _run(
    cfg: ImproveConfig,
    directory: Path,
    base: Policy,
    problems: Sequence[Problem],
    dev: Sequence[Problem],
    left: dict[str, int],
) -> list[dict]:
    store = None
    if cfg.improve.target == "own":
        store = Store.create(directory / rationales.FOLDER, iterations.fingerprint(base), cfg.task.name)
    lines = iterations.lines(directory)
    if not lines:
        line = {"iteration": 0}
        if cfg.improve.sample_from == "sft":
            line = iterations.joined(line, _fine_tune(cfg, base, directory, problems))
        sampler = iterations.sampler(cfg, directory, 0, base)
        if left:
            line["overlong"] = left
        _finish(directory, iterations.joined(line, answering.evaluated(cfg, sampler, dev, "dev", 0)))
    _train_again(directory, len(lines) - 1)
    for iteration in range(len(lines) or 1, cfg.improve.iterations + 1):
        _finish(directory, _iteration(cfg, base, directory, store, problems, dev, iteration, left))
    lines = iterations.lines(directory)
    if cfg.test and "test" not in lines[-1]:
        lines[-1] = iterations.joined(lines[-1], _tested(cfg, base, directory, lines[-1]["iteration"]))
        iterations.rewrite(directory, lines)
    if cfg.improve.verifier:
        prompts = {one.id: cfg.task.prompt(one) for one in problems}
        example_files.write(directory / VERIFIER, list(rationales.verifier_examples(store, prompts)))
    files.write(directory / "summary.md", summaries.iterations(lines) + summaries.tokenizer(base.tokenizer))
    return lines


def _some(problems: Sequence[Problem], count: int) -> list[Problem]:
    """So many of the problems, drawn by a seed that is no run's; 0: all."""
    order = np.random.default_rng(DEV_SEED).permutation(len(problems))
    return [problems[i] for i in sorted(order[: count or None].tolist())]


def _check(
    cfg: ImproveConfig, directory: Path, base: Policy, problems: Sequence[Problem], dev: Sequence[Problem]
) -> None:
    recipe = cfg.improve
    checkpoint.check_path(directory)
    if not problems or not dev:
        raise ValueError(
            f"{cfg.task.name} has {len(problems)} training and {len(dev)} dev problems: some of each are wanted"
        )
    if recipe.target == "human" and not any(one.rationale for one in problems):
        raise ValueError(
            f"improve.target=human: no problem of {cfg.task.name} has a human rationale; choose own or direct"
        )
    if recipe.sample_from == "sft" and not any(one.rationale for one in problems):
        raise ValueError(
            f"improve.sample_from=sft: no problem of {cfg.task.name} has a human rationale to fine-tune on; sample "
            "from the base with improve.sample_from=base improve.human=false"
        )
    shortest = min(recipe.steps_of(1), recipe.sft_steps if recipe.sample_from == "sft" else recipe.steps_of(1))
    if recipe.schedule == "iteration" and cfg.optim.warmup_steps > shortest:
        raise ValueError(
            f"optim.warmup_steps = {cfg.optim.warmup_steps}, but the schedule begins anew in every iteration, the "
            f"shortest has {shortest} steps, and the learning rate would never be reached: shorten the warm-up, or "
            "give improve.schedule=run, one schedule for all iterations"
        )
    if cfg.length > base.lm.max_len:
        raise ValueError(f"length = {cfg.length} is longer than the context of {base.name}, {base.lm.max_len} tokens")
    if cfg.wrong_hints and recipe.target != "own":
        raise ValueError(f"wrong_hints = {cfg.wrong_hints}: nothing is sampled with improve.target={recipe.target}")
    if cfg.wrong_hints and not answering.misled(problems, 1):
        raise ValueError(
            f"wrong_hints = {cfg.wrong_hints}: no two questions of {cfg.task.name} in one group have different answers"
        )


# --- one iteration ------------------------------------------------------------------------------------------------


def _iteration(
    cfg: ImproveConfig,
    base: Policy,
    directory: Path,
    store: Store | None,
    problems: Sequence[Problem],
    dev: Sequence[Problem],
    iteration: int,
    left: dict[str, int],
) -> dict:
    """Sample, hint, grade, keep, train, ask: the line that says what came out."""
    left = dict(left)
    folder = iterations.folder(directory, iteration)
    files.make(folder)
    chosen = _chosen(cfg, problems, iteration)
    if store:
        chosen = _fitting_sampled(cfg, base, chosen, iteration, left)
    line = {"iteration": iteration, "problems": len(chosen)} | ({"overlong": left} if left else {})
    if store:
        sampler = iterations.sampler(cfg, directory, iteration - 1, base)
        line = iterations.joined(line, _sample(cfg, sampler, store, chosen, iteration))
        if cfg.wrong_hints:
            line = iterations.joined(line, _mislead(cfg, sampler, store, problems, iteration))
        kept = selected(_graded(store, iteration), cfg.improve, iteration, cfg.seed)
        kept += [
            Kept(one.id, cfg.task.completion(one.rationale, one), 1.0)
            for one in chosen
            if cfg.improve.human and one.rationale
        ]
        if not kept and not line["right"] and not line["right_hinted"]:
            raise NothingRight(_advice(cfg, iteration, line, directory))
        names = {one.problem for one in kept}
        asked = [one for one in problems if one.id in names]
        again = some(kept, cfg.improve.learn_hinted, iteration, cfg.seed)
        spelled = (cfg.improve.mean_over == "questions", sampler.tokenizer, cfg.task.stop)
        found = examples(kept, {one.id: cfg.task.prompt(one) for one in asked}, *spelled)
        found += examples(again, {one.id: cfg.task.hinted(one) for one in asked}, *spelled)
    else:
        found = [_given(cfg, one) for one in chosen if cfg.improve.target == "direct" or one.rationale]
    found, dropped = _fitting(found, cfg, base)
    line |= {"examples": len(found), "too_long": dropped}
    if found:
        example_files.write(folder / "examples.jsonl", found)
        line = iterations.joined(line, _train(cfg, base, directory, iteration, line.get("mismatch", {})))
    trained = iterations.sampler(cfg, directory, iteration, base)
    return iterations.joined(line, answering.evaluated(cfg, trained, dev, "dev", iteration))


def _chosen(cfg: ImproveConfig, problems: Sequence[Problem], iteration: int) -> list[Problem]:
    """The questions of an iteration."""
    return [problems[i] for i in drawn(len(problems), cfg.improve, iteration, cfg.seed)]


def _fitting_asked(
    cfg: ImproveConfig, base: Policy, problems: Sequence[Problem], phase: str, left: dict[str, int]
) -> list[Problem]:
    """The questions of dev or test that the model can read; how many it cannot is put down in `left`."""
    fit, over = answering.fitting(cfg, base, problems, lambda: answering.asking(cfg, phase))
    return _left_out(cfg, base, phase, fit, over, left)


def _fitting_sampled(
    cfg: ImproveConfig, base: Policy, chosen: Sequence[Problem], iteration: int, left: dict[str, int]
) -> list[Problem]:
    """The same of the questions that an iteration samples, with the hints that may be shown."""
    kinds = (cfg.task.prompt,) if cfg.improve.hint == "never" else (cfg.task.prompt, cfg.task.hinted)

    def prompts(batch: Sequence[Problem], number: int) -> list[list[str]]:
        shots = _shots(cfg, batch, iteration, number)
        return [[kind(*each) for kind in kinds] for each in zip(batch, shots, strict=True)]

    fit, over = answering.fitting(cfg, base, chosen, lambda: prompts)
    return _left_out(cfg, base, "training", fit, over, left)


def _left_out(
    cfg: ImproveConfig, base: Policy, split: str, fit: list[Problem], over: Sequence[Overlong], left: dict[str, int]
) -> list[Problem]:
    answering.check_fitting(cfg, base, split, len(fit) + len(over), over)
    if over:
        left[split] = len(over)
    return fit


def _given(cfg: ImproveConfig, one: Problem) -> dict:
    """An example that nobody has to sample."""
    task, direct = cfg.task, cfg.improve.target == "direct"
    return {
        "prompt": task.prompt(one),
        "completion": task.direct(one) if direct else task.completion(one.rationale, one),
    }


def _fitting(found: list[dict], cfg: ImproveConfig, base: Policy) -> tuple[list[dict], int]:
    """Examples that fit into a row of training, all of their group with them, and how many do not."""
    sizes: Counter = Counter()
    of = [one.get("group", number) for number, one in enumerate(found)]
    for group, one in zip(of, found, strict=True):
        sizes[group] += len(example_files.encoded(one, base.tokenizer))
    fits = [one for group, one in zip(of, found, strict=True) if sizes[group] <= cfg.length]
    return fits, len(found) - len(fits)


def _advice(cfg: ImproveConfig, iteration: int, line: dict, directory: Path) -> str:
    sft = "qstar-train ~experiments method=sft data=examples eval=none"
    lacking = "declares an answer" if cfg.improve.keep == "all" else "is right"
    return (
        f"iteration {iteration}: none of {line['sampled']} samples (and {line['hinted']} with a hint) of "
        f"{line['problems']} problems of {cfg.task.name} {lacking}, so there is nothing to train on. "
        "Self-training needs a start above chance: show examples (improve.few_shot=true), draw more samples "
        "(improve.samples=8 improve.temperature=0.7), begin with easier problems, or train on a few rationales "
        f"first ({sft} data.path=FILE). All samples are in {directory / rationales.FOLDER}"
    )


# --- sampling -----------------------------------------------------------------------------------------------------


def _sample(cfg: ImproveConfig, sampler: Policy, store: Store, chosen: Sequence[Problem], iteration: int) -> dict:
    """Fill the store with the samples of this iteration, and count them."""
    batches, known = answering.batches(cfg, sampler, chosen), _known(cfg, store, iteration)
    _fill(store, iteration, "sampling", batches, lambda batch, i: _batch(cfg, sampler, batch, iteration, i, known))
    rows = store.rows(rationales.of_iteration(iteration), answering.COUNTED).to_pylist()
    return answering.counted(cfg, sampler, rows, {one.id: one for one in chosen})


def _fill(
    store: Store,
    iteration: int,
    what: str,
    batches: Sequence[Sequence[Problem]],
    ask: Callable[[Sequence[Problem], int], list[Sample]],
) -> None:
    """Ask the batches of an iteration that are not stored yet."""
    stored = set(store.batches(iteration))
    with console.counting(f"iteration {iteration}: {what}") as progress:
        for number, batch in enumerate(batches):
            if number not in stored:
                store.append(iteration, number, ask(batch, number))
            progress(number + 1, len(batches))


def _known(cfg: ImproveConfig, store: Store, iteration: int) -> set[str]:
    """Problems that a hint is not shown for, because a right rationale of them is stored."""
    if cfg.improve.hint != "missing":
        return set()
    before = rationales.CORRECT & rationales.up_to(iteration - 1)
    return set(store.rows(before, ["problem"])["problem"].to_pylist())


def _batch(
    cfg: ImproveConfig, sampler: Policy, batch: Sequence[Problem], iteration: int, number: int, known: set[str]
) -> list[Sample]:
    """Samples of these problems, and hinted ones of those that failed."""
    key, shots = _key(cfg, iteration, number), _shots(cfg, batch, iteration, number)
    free = answering.answer(cfg, sampler, batch, shots, False, cfg.improve.samples, jax.random.fold_in(key, FREE))
    right = np.reshape([one.correct for one in free.verdicts], (len(batch), -1)).any(1)
    found = answering.samples(cfg, sampler, batch, free, False)
    failed = [i for i in range(len(batch)) if not right[i] and batch[i].id not in known]
    if cfg.improve.hint != "never" and failed:
        again, theirs = [batch[i] for i in failed], [shots[i] for i in failed]
        hinted = answering.answer(cfg, sampler, again, theirs, True, 1, jax.random.fold_in(key, HINTED))
        found += answering.samples(cfg, sampler, again, hinted, True)
    return found


def _shots(cfg: ImproveConfig, batch: Sequence[Problem], *numbers: int) -> list[Sequence[Problem]]:
    """The examples before the questions of a batch, drawn by these numbers and the seed."""
    rng = np.random.default_rng((cfg.seed, *numbers))
    return [cfg.task.shots(one, rng) if cfg.improve.few_shot else () for one in batch]


def _key(cfg: ImproveConfig, *numbers: int) -> Key:
    return functools.reduce(jax.random.fold_in, numbers, jax.random.key(cfg.seed))


def _mislead(cfg: ImproveConfig, sampler: Policy, store: Store, problems: Sequence[Problem], iteration: int) -> dict:
    """Ask some problems, the same in every iteration, with wrong hints, and count how often these are followed.

    The answers have a store of their own: `selected` never sees them.
    """
    asked = _misled(cfg, sampler, problems, iteration)
    apart = Store.create(store.folder.parent / WRONG_HINTS, store.model, store.task)

    def ask(batch: Sequence[Problem], number: int) -> list[Sample]:
        shots = _shots(cfg, batch, iteration, number, MISLED)
        found = answering.answer(cfg, sampler, batch, shots, True, 1, _key(cfg, iteration, number, MISLED))
        return answering.samples(cfg, sampler, batch, found, True)

    _fill(apart, iteration, "wrong hints", answering.batches(cfg, sampler, [one.problem for one in asked]), ask)
    rows = apart.rows(rationales.of_iteration(iteration), answering.FOLLOWED).to_pylist()
    return answering.followed(sampler, asked, rows)


def _misled(cfg: ImproveConfig, base: Policy, problems: Sequence[Problem], iteration: int) -> list[WronglyHinted]:
    """Problems with wrong hints, those that the model can read."""
    asked = answering.misled(problems, cfg.wrong_hints)

    def prompts(batch: Sequence[Problem], number: int) -> list[list[str]]:
        shots = _shots(cfg, batch, iteration, number, MISLED)
        return [[cfg.task.hinted(*each)] for each in zip(batch, shots, strict=True)]

    fit, over = answering.fitting(cfg, base, [one.problem for one in asked], lambda: prompts)
    answering.check_fitting(cfg, base, "wrongly hinted", len(asked), over)
    ids = {one.id for one in fit}
    return [one for one in asked if one.problem.id in ids]


def _graded(store: Store, iteration: int) -> list[Graded]:
    columns = ["problem", "iteration", "hinted", "correct", "stored", "tokens"]
    rows = store.rows(rationales.up_to(iteration), columns).to_pylist()
    return [Graded(**row) for row in rows]


# --- weights ------------------------------------------------------------------------------------------------------


def _train(cfg: ImproveConfig, base: Policy, directory: Path, iteration: int, mismatch: dict) -> dict:
    """Train on the examples of the iteration; a run like any other. Its metrics begin with the sampler's mismatch."""
    recipe, steps = cfg.improve, cfg.improve.steps_of(iteration)
    before = None if recipe.restart else iterations.trained(directory, iteration - 1)
    optim = cfg.optim
    if recipe.schedule == "run":
        whole = recipe.steps_before(recipe.iterations + 1)
        optim = dataclasses.replace(optim, schedule_steps=whole, steps_before=recipe.steps_before(iteration))
    if recipe.optimizer == "carried" and before is not None and before != iterations.folder(directory, 0):
        optim = dataclasses.replace(optim, moments_of=str(before))
    said = {"optimizer": "carried" if optim.moments_of else "fresh", "schedule": recipe.schedule}
    said |= {"schedule_steps": [optim.steps_before + 1, optim.steps_before + steps, optim.schedule_steps or steps]}
    method = SFT(mean_over=recipe.mean_over)
    return said | _trained(cfg, base, directory, iteration, steps, before, method, optim, mismatch)


def _fine_tune(cfg: ImproveConfig, base: Policy, directory: Path, problems: Sequence[Problem]) -> dict:
    """The model that is sampled from first: the base, fine-tuned on the human rationales of all questions."""
    human = [
        {"prompt": cfg.task.prompt(one), "completion": cfg.task.completion(one.rationale, one)}
        for one in problems
        if one.rationale
    ]
    found, dropped = _fitting(human, cfg, base)
    folder = iterations.folder(directory, 0)
    folder.mkdir(parents=True, exist_ok=True)
    example_files.write(folder / "examples.jsonl", found)
    line = {"examples": len(found), "too_long": dropped}
    return line | _trained(cfg, base, directory, 0, cfg.improve.sft_steps, None, SFT(), cfg.optim, {})


def _trained(
    cfg: ImproveConfig,
    base: Policy,
    directory: Path,
    iteration: int,
    steps: int,
    before: Path | None,
    method: SFT,
    optim: OptimConfig,
    known: dict,
) -> dict:
    """Train on the examples in the folder of an iteration, from the base or from the run before."""
    folder = iterations.folder(directory, iteration)
    training = TrainConfig(
        name=f"{cfg.name}_{iteration}",
        run_dir=str(folder),
        seed=cfg.seed,
        steps=steps,
        batch_size=cfg.batch_size,
        micro_batches=cfg.micro_batches,
        log_every=cfg.log_every,
        save_every=cfg.save_every,
        keep=1,
        sample_every=0,
        model=cfg.model if before is None else iterations.pretrained(cfg, before),
        method=method,
        data=ExamplesText(str(folder / "examples.jsonl"), cfg.length, cfg.improve.prompts_count),
        eval=NoEval(),
        optim=optim,
        mesh=cfg.mesh,
    )
    train.run(training, folder, {f"mismatch_{name}": value for name, value in known.items()})
    lines = metrics.records(folder)
    spent = {
        "trained_tokens": steps * cfg.batch_size * cfg.length,  # what fills the rows up is computed too
        "target_tokens": _targets(lines),
        "flops": steps * cfg.batch_size * cost.flops(base.lm, method.passes(cfg.length)),
    }
    return {"steps": steps, "nll": lines[-1]["nll"], "ledger": {"train": spent}}


def _train_again(directory: Path, iteration: int) -> None:
    """Make the weights after an iteration that is done anew, where its checkpoint was put aside."""
    folder = iterations.trained(directory, iteration)
    if folder is not None and not stored.saved_steps(folder):
        console.say(f"{folder} has no checkpoint: it is trained again on the examples of then")
        train.run(configs.load(folder / "config.yaml"), folder)


def _targets(records: Sequence[dict]) -> int:
    """Tokens that counted in the loss, from the lines of a training, which hold means over steps."""
    lines = [line for line in records if line["step"]]
    ends = [line["step"] for line in lines]
    counts = [end - start for start, end in zip([0, *ends[:-1]], ends, strict=True)]
    return sum(round(line["tokens"] * count) for line, count in zip(lines, counts, strict=True))


# --- asking -------------------------------------------------------------------------------------------------------


def _tested(cfg: ImproveConfig, base: Policy, directory: Path, iteration: int) -> dict:
    """The test split, asked once; the directory remembers it."""
    problems = problems_of.logged_test(cfg.task, directory, f"accuracy after iteration {iteration}")
    left: dict[str, int] = {}
    problems = _fitting_asked(cfg, base, problems, "test", left)
    found = answering.evaluated(cfg, iterations.sampler(cfg, directory, iteration, base), problems, "test", iteration)
    test = {name: found[name] for name in found if name != "ledger"} | ({"overlong": left["test"]} if left else {})
    return {"test": test, "ledger": found["ledger"]}


# --- the run directory --------------------------------------------------------------------------------------------


def _finish(directory: Path, line: dict) -> None:
    """An iteration is done when its line is there."""
    lines = [*iterations.lines(directory), line]
    iterations.rewrite(directory, lines)
    console.console().print(_told(line), markup=False)


def _told(line: dict) -> str:
    said = f"iteration {line['iteration']}: {tables.share(line['accuracy'])} dev problems"
    if len(line["groups"]) > 1:
        said += " (" + ", ".join(f"{name}: {found['share']:.2f}" for name, found in line["groups"].items()) + ")"
    if "sampled" in line:
        said += (
            f"; {line['right']}/{line['sampled']} samples right, {line['right_hinted']}/{line['hinted']} with a hint"
        )
    if "overlong" in line:
        each = ", ".join(f"{count} {split}" for split, count in line["overlong"].items())
        said += f"; left out, longer than the model can read: {each} questions"
    if "wrong_hints" in line:
        said += f"; {line['wrong_hints']['followed']}/{line['wrong_hints']['asked']} wrong hints followed"
    if line.get("mismatch"):
        said += f"; sampler and trainer {line['mismatch']['largest']:.1e} nats apart at most"
    return said
