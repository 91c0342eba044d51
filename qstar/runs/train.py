"""One run from its configuration to its table: the method, its control, evaluations before and after, samples.

A run directory holds everything: config.yaml, identity.json (checksums of the data), environment.json, lm.json and
tokenizer.json (checksums.json: theirs), metrics.jsonl, evals.jsonl, samples.jsonl, checkpoints/, the same again of the
control under control/, and summary.md at the end. Called on a directory that has checkpoints it resumes from them; an
arm that is done is not trained again.
"""

import dataclasses
import functools
import importlib.metadata
import platform
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from concurrent import futures
from dataclasses import dataclass
from pathlib import Path

import jax

from qstar import __version__, advice, files, paths, processes, sharding
from qstar import config as configs
from qstar.config import TrainConfig
from qstar.data.dataset import RandomAccess
from qstar.data.tokenizer import Tokenizer
from qstar.evals.suite import CupsEval, Evaluator, HasTexts, NoEval, Row
from qstar.files import JsonObject
from qstar.methods.plain_lm import PlainLM
from qstar.methods.protocol import Credits, Method
from qstar.models import cost
from qstar.models.definition import join
from qstar.models.lm import COMPUTED
from qstar.policy import Policy
from qstar.reports import summaries
from qstar.runs import identity, judge, load, stored
from qstar.runs.record import Reader, Record, RolloutRecord
from qstar.runs.scoring import Scores
from qstar.sharding import MeshConfig
from qstar.structs import Batch, TrainState
from qstar.tasks.cups import Cups
from qstar.thoughts import read
from qstar.thoughts.thinking import Thinks
from qstar.training import build, checkpoint, console, layout, loop, machine, optim, room
from qstar.training.build import Program
from qstar.training.checkpoint import Checkpoints
from qstar.training.loop import Hook
from qstar.training.metrics import MetricLogger, Sinks
from qstar.training.rollouts import RolloutSource
from qstar.training.sources import Source
from qstar.typing import Params

BEST_OF = 64  # held-out texts that are read for the thoughts that helped most
SHOWN = 3  # of these thoughts
SAMPLE_LIMIT = 128  # tokens of a text that is read for samples
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


@dataclass(frozen=True)
class Result:
    """What a run ended with."""

    directory: Path
    before: list[Row]
    after: list[Row]
    control: list[Row]  # empty where there was none
    helped: list[read.Helpful]


@dataclass(frozen=True)
class Arm:
    """One of the models that are trained side by side, with all that its training takes."""

    cfg: TrainConfig
    directory: Path
    program: Program
    extras: Params  # weights besides the language model's that it starts from
    source: Source
    batch: Batch  # its shapes, types and places
    evaluator: Evaluator
    reader: Reader | None  # None where the method does not think
    sinks: Sinks


def run(cfg: TrainConfig, directory: Path, known: Mapping[str, float] | None = None) -> Result:
    """Train, or resume training, and show the results.

    Args:
        known: numbers from before training; they are the line of step 0 in metrics.jsonl.

    Raises ValueError and its like for anything that cannot work, before the first compile; `loop.Interrupted` and
    `loop.NonFiniteLoss` as `loop.fit` does.
    """
    paths.check_folder("run_dir", directory)
    with console.phase("loading the model"):
        loaded = load.as_begun(directory, load.initial_model(cfg.model, cfg.seed))
        mesh = _mesh(cfg, loaded)
        _check_sizes(cfg, loaded, mesh)
    if loaded.tokenizer.summary():
        console.console().print(f"tokenizer: {loaded.tokenizer.summary()}", markup=False, highlight=False)
    with console.phase("preparing data" if isinstance(cfg.eval, NoEval) else "preparing data and questions"):
        sampled = isinstance(cfg.method, Credits)  # by the model that trains
        data = None if sampled else cfg.data.build(loaded.tokenizer, cfg.batch_size, cfg.seed, console.say)
        texts = held_out(cfg, loaded.tokenizer, data) if isinstance(cfg.method, Thinks) else []
        named = cfg.data.rewards.scorer if data is None else ""
        scorer = judge.opened(named, loaded.tokenizer) if named else None
        arms = [_arm(cfg, cfg.method, directory, loaded, mesh, data, texts, scorer)]
        if cfg.control:
            plain = dataclasses.replace(cfg, control=False)
            arms.append(_arm(plain, PlainLM(), directory / "control", loaded, mesh, data, texts))
        made_of = _identity(cfg, arms[0].source, scorer)
    _check_directories(arms, loaded)
    processes.wait("checked")
    with processes.locked(*(arm.directory for arm in arms)):
        _check_directories(arms, loaded)  # another run may have come and gone meanwhile
        return _run(arms, loaded, made_of, known or {})


def _run(arms: Sequence[Arm], loaded: Policy, made_of: JsonObject, known: Mapping[str, float]) -> Result:
    cfg, directory = arms[0].cfg, arms[0].directory
    for arm in arms:
        _open(arm, loaded)
        if made_of:
            processes.first_does(functools.partial(_claim, arm, made_of))
    processes.wait("opened")
    records = [_train(arm, loaded, known) for arm in arms]
    before, after = (records[0].evaluated.get(step, []) for step in (0, cfg.steps))
    control = records[1].evaluated[cfg.steps] if cfg.control else []
    result = Result(directory, before, after, control, _helped(arms[0], loaded))
    _show(result, arms[0], loaded.tokenizer)
    return result


def _mesh(cfg: TrainConfig, loaded: Policy) -> jax.sharding.Mesh:
    if not cfg.mesh.auto:
        return sharding.make_mesh(cfg.mesh)
    here = sharding.make_mesh(MeshConfig(), jax.local_devices()[:1])
    program = _program(cfg, cfg.method, loaded, here)
    return layout.picked(program, cfg.batch_size // cfg.micro_batches)


def _program(cfg: TrainConfig, method: Method, loaded: Policy, mesh: jax.sharding.Mesh) -> Program:
    other = load.other_model(method, loaded)
    settings = (cfg.optim, cfg.steps, cfg.micro_batches, cfg.lora)
    return Program.of(method, loaded.lm, mesh, *settings, other, loaded.tokenizer)


def _check_sizes(cfg: TrainConfig, loaded: Policy, mesh: jax.sharding.Mesh) -> None:
    if cfg.data.length > loaded.lm.max_len:
        raise ValueError(
            f"data.length = {cfg.data.length} is longer than the context of {loaded.name}, {loaded.lm.max_len} "
            "tokens: lower data.length"
        )
    sharding.check_rows(cfg.batch_size // cfg.micro_batches, mesh)


def held_out(cfg: TrainConfig, tokenizer: Tokenizer, training: RandomAccess) -> list[list[int]]:
    """Texts to read: those of the evaluation, or the beginnings of windows outside training."""
    if isinstance(cfg.eval, HasTexts):
        return [tokenizer.encode_whole(text) for text in cfg.eval.texts(BEST_OF)]
    batch = cfg.data.held_out(tokenizer, training, cfg.batch_size, cfg.seed)
    first = batch.segment == 1
    return [tokens[keep][:SAMPLE_LIMIT].tolist() for tokens, keep in zip(batch.tokens, first, strict=True)][:BEST_OF]


def _arm(
    cfg: TrainConfig,
    method: Method,
    directory: Path,
    loaded: Policy,
    mesh: jax.sharding.Mesh,
    data: RandomAccess | None,
    texts: Sequence[Sequence[int]],
    scorer: Scores | None = None,
) -> Arm:
    program = _program(cfg, method, loaded, mesh)
    extras = load.carried_on(loaded, method)
    evaluator = Evaluator(cfg.eval, method, program.definition, loaded.tokenizer)
    notes = summaries.left_out(evaluator.fit())
    if notes:
        console.console().print(notes.strip(), markup=False, highlight=False)
    own = dataclasses.replace(cfg, method=method)
    sinks = Sinks(directory, cfg.sinks, configs.flat(own))
    return Arm(
        own,
        directory,
        program,
        extras,
        *source(cfg, program, loaded, data, directory, sinks, scorer),
        evaluator,
        Reader(method, program.definition, texts, cfg.seed) if isinstance(method, Thinks) else None,
        sinks,
    )


def source(
    cfg: TrainConfig,
    program: Program,
    loaded: Policy,
    data: RandomAccess | None,
    directory: Path,
    sinks: Sinks | None = None,
    scorer: Scores | None = None,
) -> tuple[Source, Batch]:
    """Where the batches come from, and shapes, types and places of one."""
    if data is None:
        seen = {"seen": RolloutRecord(directory, loaded.fingerprint, cfg, sinks)} if cfg.sample_every else {}
        scores = judge.of_steps(scorer, loaded.tokenizer) if scorer else None
        rollouts = RolloutSource(
            cfg.data, cfg.task, program, loaded.tokenizer, cfg.batch_size, cfg.seed, scores=scores, **seen
        )
        return rollouts, rollouts.abstract()
    return build.stream(data), build.abstract_batch(data, cfg.batch_size, program.mesh)


def _identity(cfg: TrainConfig, batches: Source, scorer: Scores | None) -> JsonObject:
    """What the batches are a function of besides the configuration."""
    if not isinstance(batches, RolloutSource):
        return {str(file): files.checksum(file) for file in cfg.data.files()}
    weights = {f"weights of {cfg.data.rewards.scorer}": scorer.digest} if scorer else {}
    return {"training questions": identity.checksum(batches.problems, identity.SHOWN)} | weights


# --- the run directory --------------------------------------------------------------------------------------------


def _check_directories(arms: Sequence[Arm], loaded: Policy) -> None:
    """Raise ValueError where a directory holds something else than this run."""
    for arm in arms:
        _check_directory(arm, loaded, arms[0].directory)


def _check_directory(arm: Arm, loaded: Policy, whole: Path) -> None:
    directory, file = arm.directory, arm.directory / "config.yaml"
    checkpoint.check_path(directory)
    if not file.is_file():
        there = [name for name in ("metrics.jsonl", "checkpoints", stored.FROZEN) if (directory / name).exists()]
        if there:
            raise ValueError(f"{directory} holds {' and '.join(there)} but no config.yaml: choose another run_dir")
        return
    known = dataclasses.replace(configs.load(file), mesh=arm.cfg.mesh)  # by which numbers differ in rounding alone
    changes = configs.changes(known, arm.cfg)
    if changes and not arm.cfg.resume:
        values = configs.differing(known, arm.cfg)
        way = ""
        if values:
            how = advice.command("qstar-train", advice.override("resume", whole), *values)
            way = f", or resume that run with the changed values, as in\n{how}"
        raise ValueError(
            f"{directory} holds a run of another configuration:\n  "
            + "\n  ".join(changes)
            + f"\nchoose another run_dir{way}"
        )
    _check_same_model(directory / "lm.json", loaded)
    stored.check_described(directory)


def _check_same_model(file: Path, loaded: Policy) -> None:
    """The shape that is recorded, apart from how it is computed."""
    recorded = stored.shape(file)
    recorded = dataclasses.replace(recorded, **{name: getattr(loaded.lm, name) for name in COMPUTED})
    changes = configs.changes(recorded, loaded.lm)
    if changes:
        raise ValueError(
            f"{file} describes another model than {loaded.name} is now:\n  " + "\n  ".join(changes) + "\n"
            "resume with the model that the run began with, or start a new run"
        )


def _claim(arm: Arm, made_of: JsonObject) -> None:
    """Write down what it trains on, or compare it with what the run began with: other settings name other data."""
    known = configs.load(arm.directory / "config.yaml")
    if (known.data, known.task) != (arm.cfg.data, arm.cfg.task):
        (arm.directory / identity.FILE).unlink(missing_ok=True)
    identity.claim(arm.directory, made_of, "a run that was trained on other data")


def _open(arm: Arm, loaded: Policy) -> None:
    """Write the files that make the directory a run, unless it is one already."""
    if (arm.directory / "config.yaml").is_file():
        return
    if processes.first():
        stored.describe(arm.directory, loaded.lm, loaded.tokenizer, loaded.companions)
        files.write_json(arm.directory / "environment.json", _environment())
    if arm.program.definition.frozen:
        processes.wait("described")
        stored.keep_frozen(arm.directory, arm.program.definition.freeze(loaded.language_model), arm.cfg.lora)
    _save_config(arm)


def _save_config(arm: Arm) -> None:
    if processes.first():
        configs.save(dataclasses.replace(arm.cfg, resume=""), arm.directory / "config.yaml")


def _environment() -> dict:
    return {
        "versions": {"qstar": __version__, **{name: importlib.metadata.version(name) for name in PACKAGES}},
        "python": platform.python_version(),
        "devices": [device.device_kind for device in jax.devices()],
        "commit": _commit(),
    }


def _commit() -> str | None:
    """The commit of a checkout; None where qstar is installed or git is not."""
    root = paths.PACKAGE.parent
    if not (root / ".git").exists() or shutil.which("git") is None:
        return None
    command = ["git", "describe", "--always", "--dirty"]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, check=False).stdout.strip() or None


# --- training -----------------------------------------------------------------------------------------------------


def _train(arm: Arm, loaded: Policy, known: Mapping[str, float]) -> Record:
    """Train one arm; its evaluations before and after."""
    cfg, program = arm.cfg, arm.program
    record = Record(arm.directory, arm.evaluator, arm.reader, loaded.tokenizer, cfg.seed, arm.sinks)
    with (
        jax.set_mesh(program.mesh),
        Checkpoints(arm.directory / "checkpoints", cfg.save_every, cfg.keep) as checkpoints,
        MetricLogger(arm.directory, arm.sinks) as logger,
    ):
        state = _begin(arm, loaded, checkpoints, record)
        if known and not int(state.step):
            logger.rewind(-1)
            logger.write(0, dict(known))
        _save_config(arm)  # again: values may have been changed with resume
        log = loop.Log(
            logger,
            cfg.log_every,
            checkpoints,
            hooks=_hooks(arm, record),
            show=program.method.headline,
            description=configs.choice("method", type(program.method)),
            meter=_meter(cfg, program),
            check=lambda state, _: room.check(cfg, program, state, arm.batch),  # rollouts may begin with shorter ones
            limits={"mismatch": program.method.mismatch_limit} if isinstance(program.method, Credits) else {},
        )
        state = loop.fit(program, arm.source, state, log)
        if cfg.steps not in record.evaluated:
            record.evaluate(cfg.steps, state)
    return record


def _begin(arm: Arm, loaded: Policy, checkpoints: Checkpoints, record: Record) -> TrainState:
    """The state to continue from: that of the newest checkpoint, or a new one, evaluated."""
    cfg, program, step = arm.cfg, arm.program, checkpoints.latest
    if program.definition.frozen:
        console.console().print(_account(program), highlight=False)
    if step is None:
        record.rewind(-1)
        # The step is compiled meanwhile: on two cores the first one comes a third sooner.
        with console.phase("compiling the training step"), futures.ThreadPoolExecutor(1) as aside:
            compiled = aside.submit(program.compile, arm.batch)
            state = program.start(loaded.language_model, cfg.seed, arm.extras)
            if cfg.optim.moments_of:
                state = _with_moments(state, program, cfg)
            record.evaluate(0, state)
            if cfg.sample_every:
                record.sample(0, state)
        compiled.result()
        return state
    if step > cfg.steps:
        raise ValueError(f"steps = {cfg.steps}: {arm.directory} has been trained for {step} steps already; raise steps")
    with console.phase(f"reading the checkpoint of step {step}"):
        state = checkpoints.restore(program.abstract_state(cfg.seed), arm.source)
        state = program.with_frozen(state, _frozen(arm, loaded))
    console.console().print(f"resuming from step {step} of {arm.directory}")
    record.rewind(step)
    return state


def _with_moments(state: TrainState, program: Program, cfg: TrainConfig) -> TrainState:
    with Checkpoints(Path(cfg.optim.moments_of) / "checkpoints", 1, 1) as checkpoints:
        other = checkpoints.load_optimizer(program.abstract_state(cfg.seed))
    return state.replace(opt_state=optim.with_moments(state.opt_state, other))


def _frozen(arm: Arm, loaded: Policy) -> Params | None:
    return stored.frozen_weights(arm.directory, arm.program.definition, lambda: loaded.language_model)


def _account(program: Program) -> str:
    """How much of the model trains, and what a step holds for it."""
    trained, _ = program.definition.split(program.definition.abstract)
    count = sum(leaf.size for leaf in jax.tree.leaves(trained))
    parts = ", ".join(f"{name} {size / 2**20:,.1f}" for name, size in program.bytes_held.items() if size)
    return f"{count:,} of {program.definition.size:,} weights train; held over all devices, in MiB: {parts}"


def _meter(cfg: TrainConfig, program: Program) -> machine.Meter:
    passes = program.passes(cfg.data.length)
    thoughts = max((forward.thoughts for forward in passes), default=0)
    flops = cost.flops(program.lm, passes, frozen=bool(program.definition.frozen))
    # Of rollouts the formula knows neither lengths nor shared prompts: what it gives is no share of a peak.
    sampled = isinstance(program.method, Credits)
    peak = None if sampled else machine.Peak(program.mesh, program.lm.dtype, 1e12 * cfg.peak_tflops)
    rows = cfg.batch_size
    return machine.Meter(rows * cfg.data.length, rows * thoughts, rows * flops, peak)


def _hooks(arm: Arm, record: Record) -> list[Hook]:
    hooks = []
    if arm.cfg.eval.every:
        hooks.append(Hook(arm.cfg.eval.every, record.evaluate))
    if arm.cfg.sample_every and arm.reader:
        hooks.append(Hook(arm.cfg.sample_every, record.sample))
    return hooks


# --- the end ------------------------------------------------------------------------------------------------------


def _helped(arm: Arm, loaded: Policy) -> list[read.Helpful]:
    if arm.reader is None or arm.evaluator.idle:
        return []
    with Checkpoints(arm.directory / "checkpoints", arm.cfg.save_every, arm.cfg.keep) as checkpoints:
        params = join(checkpoints.load_params(), _frozen(arm, loaded))
    places = join(arm.program.places.params, arm.program.places.frozen)
    looking = console.phase("searching for the thoughts that helped most")
    with looking, jax.set_mesh(arm.program.mesh), processes.whole(params) as here:
        if jax.process_count() == 1:
            here = jax.device_put(here, places)
        return read.best(arm.reader(here), SHOWN)


def _show(result: Result, arm: Arm, tokenizer: Tokenizer) -> None:
    out = console.console()
    if result.after:
        groups = [("before", result.before), ("after", result.after), ("control: plain LM", result.control)]
        out.print()
        out.print(summaries.table(groups))
        if processes.first():
            files.write(result.directory / "summary.md", summaries.markdown(groups) + summaries.tokenizer(tokenizer))
    if result.helped:
        out.print("\nThoughts that helped most")
    for helpful in result.helped:
        out.print(summaries.helpful(helpful, tokenizer))
    console.say(f"\nEverything is in {result.directory}")
    if arm.reader and (text := _example(arm.cfg, arm.reader, tokenizer)):
        command = advice.command("qstar-think", "--run", advice.path(result.directory), "--", text)
        console.say(f"Read its thoughts with  {command}")


def _example(cfg: TrainConfig, reader: Reader, tokenizer: Tokenizer) -> str:
    """A text to read: the end that the bundled task has after an answer is a token with a thought before it, too."""
    text = reader.example(tokenizer)
    whole = isinstance(cfg.eval, CupsEval) and text in cfg.eval.texts(BEST_OF)
    return text + Cups.stop[0] if whole else text
