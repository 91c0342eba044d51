"""One run from its configuration to its table: the method, its control, evaluations before and after, samples.

A run directory holds everything: config.yaml, environment.json, lm.json and tokenizer.json, metrics.jsonl,
evals.jsonl, samples.jsonl, checkpoints/, the same again of the control under control/, and summary.md at the end.
Called on a directory that has checkpoints it goes on from them; an arm that is done is not trained again.
"""

import dataclasses
import importlib.metadata
import json
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
from rich.table import Table
from rich.text import Text

from qstar import __version__, runs, sharding
from qstar import config as configs
from qstar.config import TrainConfig
from qstar.evals.suite import CupsEval, Evaluator, Row, as_dict
from qstar.methods.lm import PlainLM
from qstar.methods.protocol import Method
from qstar.runs import Loaded
from qstar.structs import TrainState
from qstar.thoughts import read
from qstar.training import build, console, loop
from qstar.training.build import Program
from qstar.training.checkpoint import Checkpoints
from qstar.training.loop import Hook
from qstar.training.metrics import MetricLogger
from qstar.typing import Params

SAMPLED_TEXTS = 4
BEST_OF = 64  # held-out texts that are read for the thoughts that helped most
COLUMNS = ("task", "model", "thoughts", "accuracy", "probability of the answer", "nll", "n")
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
    """One of the models that are trained side by side."""

    name: str
    method: Method
    directory: Path

    @property
    def thinks(self) -> bool:
        return hasattr(self.method, "think")


def run(cfg: TrainConfig, directory: Path) -> Result:
    """Train, or go on training, and show how it went.

    Raises ValueError and its like for anything that cannot work, before the first compile; `loop.Interrupted` and
    `loop.NonFiniteLoss` as `loop.fit` does.
    """
    loaded = cfg.model.load(cfg.seed)
    arms = [Arm("", cfg.method.resolve(loaded.tokenizer), directory)]
    if cfg.control:
        arms.append(Arm("control", PlainLM(), directory / "control"))
    mesh = sharding.make_mesh(cfg.mesh)
    programs = [Program.of(arm.method, loaded.config, mesh, cfg.optim, cfg.steps, cfg.micro_batches) for arm in arms]
    _check_length(cfg, loaded)
    batches = [build.batches(cfg.data, loaded.tokenizer, cfg.batch_size, cfg.seed) for _ in arms]
    for arm in arms:
        _open(dataclasses.replace(cfg, method=arm.method, control=cfg.control and not arm.name), arm.directory, loaded)
    tables = [
        _train(cfg, arm, program, loaded, rows) for arm, program, rows in zip(arms, programs, batches, strict=True)
    ]
    before, after = tables[0]
    helped = _helped(cfg, arms[0], programs[0], loaded)
    result = Result(directory, before, after, tables[1][1] if cfg.control else [], helped)
    _show(result, arms[0], cfg, loaded)
    return result


def _check_length(cfg: TrainConfig, loaded: Loaded) -> None:
    if cfg.data.length > loaded.config.max_len:
        raise ValueError(
            f"data.length = {cfg.data.length} is longer than the context of {loaded.source}, {loaded.config.max_len} "
            "tokens: lower data.length"
        )


def _open(cfg: TrainConfig, directory: Path, loaded: Loaded) -> None:
    """Write the files that make the directory a run, unless it is one already."""
    if (directory / "config.yaml").is_file():
        return
    runs.describe(directory, loaded.config, loaded.tokenizer)
    (directory / "environment.json").write_text(json.dumps(_environment(), indent=2) + "\n")
    configs.save(cfg, directory / "config.yaml")


def _environment() -> dict:
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return {
        "versions": {"qstar": __version__, **{name: importlib.metadata.version(name) for name in PACKAGES}},
        "python": platform.python_version(),
        "devices": [device.device_kind for device in jax.devices()],
        "commit": commit.stdout.strip() or None,
    }


def _train(cfg: TrainConfig, arm: Arm, program: Program, loaded: Loaded, batches) -> tuple[list[Row], list[Row]]:
    """Train one arm; its evaluations before and after."""
    evaluator = Evaluator(cfg.eval, arm.method, program.definition, loaded.tokenizer, arm.thinks)
    record = _Record(cfg, arm, program, evaluator, loaded)
    with (
        jax.set_mesh(program.mesh),
        Checkpoints(arm.directory / "checkpoints", cfg.save_every, cfg.keep) as checkpoints,
        MetricLogger(arm.directory, cfg.sinks) as logger,
    ):
        if checkpoints.latest is None:
            state = program.start(loaded.params, cfg.seed)
            record.rewind(-1)
        else:
            state = checkpoints.restore(program.abstract_state(cfg.seed), batches)
            console.console().print(f"going on from step {int(state.step)} of {arm.directory}")
            record.rewind(int(state.step))
        if int(state.step) == 0:
            record.evaluate(0, state)
            record.sample(0, state)
        state = loop.fit(
            program.step,
            state,
            batches,
            steps=cfg.steps,
            log_every=cfg.log_every,
            logger=logger,
            checkpoints=checkpoints,
            hooks=record.hooks(),
            mesh=program.mesh,
            description=arm.name or type(arm.method).__name__,
        )
        if cfg.steps not in record.evaluated:
            record.evaluate(cfg.steps, state)
    return record.evaluated.get(0, []), record.evaluated[cfg.steps]


class _Record:
    """Evaluations and samples of one arm, as they are made: evals.jsonl and samples.jsonl."""

    def __init__(self, cfg: TrainConfig, arm: Arm, program: Program, evaluator: Evaluator, loaded: Loaded):
        self._cfg, self._arm, self._program, self._evaluator, self._loaded = cfg, arm, program, evaluator, loaded
        self.evaluated: dict[int, list[Row]] = {}
        self._thoughts: dict[tuple, tuple] = {}

    @property
    def _evals(self) -> Path:
        return self._arm.directory / "evals.jsonl"

    @property
    def _samples(self) -> Path:
        return self._arm.directory / "samples.jsonl"

    def rewind(self, step: int) -> None:
        """Keep what was recorded up to `step`, in the files and in memory."""
        for file in (self._evals, self._samples):
            if file.is_file():
                lines = [line for line in file.read_text().splitlines() if _step_of(line) <= step]
                _replace(file, lines)
        if self._evals.is_file():
            for line in map(json.loads, self._evals.read_text().splitlines()):
                self.evaluated.setdefault(line.pop("step"), []).append(Row(**line))
        if self._samples.is_file():
            for line in map(json.loads, self._samples.read_text().splitlines()):
                for thought in line["thoughts"]:
                    self._thoughts[line["text"], thought["position"]] = thought["thought"]

    def hooks(self) -> list[Hook]:
        hooks = []
        if self._cfg.eval.every:
            hooks.append(Hook(self._cfg.eval.every, self.evaluate))
        if self._cfg.sample_every and self._arm.thinks:
            hooks.append(Hook(self._cfg.sample_every, self.sample))
        return hooks

    def evaluate(self, step: int, state: TrainState) -> dict[str, float]:
        params = weights(state)
        rows = self._evaluator(params, jax.random.key(self._cfg.seed))
        self.evaluated[step] = rows
        _append(self._evals, [{"step": step, **as_dict(row)} for row in rows])
        return {
            f"{row.task}/{'thoughts' if row.thoughts else 'plain'}/{name}": value
            for row in rows
            for name, value in (("accuracy", row.accuracy), ("probability", row.probability), ("nll", row.nll))
        }

    def sample(self, step: int, state: TrainState) -> None:
        """Read a few texts; write the thoughts that differ from the last time."""
        if not self._arm.thinks:
            return
        for reading in readings(self._cfg, self._arm, self._program, self._loaded, weights(state), SAMPLED_TEXTS):
            text = self._loaded.tokenizer.decode(reading.tokens)
            changed = []
            for position, one in enumerate(reading.steps, 1):
                thought = self._loaded.tokenizer.decode(one.thoughts[0].tokens)
                if self._thoughts.get((text, position)) != thought:
                    self._thoughts[text, position] = thought
                    weight, gain = round(one.thoughts[0].weight, 4), round(one.gain, 4)
                    changed.append({"position": position, "thought": thought, "weight": weight, "gain": gain})
            _append(self._samples, [{"step": step, "text": text, "thoughts": changed}])


def weights(state: TrainState) -> Params:
    """The weights to evaluate: the moving average where there is one."""
    return state.params if state.ema is None else state.ema


def readings(
    cfg: TrainConfig, arm: Arm, program: Program, loaded: Loaded, params: Params, count: int
) -> list[read.Reading]:
    """Held-out texts read with their thoughts."""
    found = []
    for ids in held_out(cfg, loaded, count):
        found.append(read.read(arm.method, program.definition, params, ids, jax.random.key(cfg.seed), greedy=True))
    return found


def held_out(cfg: TrainConfig, loaded: Loaded, count: int) -> list[list[int]]:
    """Texts that training does not see: held-out problems, or windows of a stream with another seed."""
    if isinstance(cfg.eval, CupsEval):
        problems = dataclasses.replace(cfg.eval, items=count).problems()
        return [loaded.tokenizer.encode(f"{problem.question}{problem.answer}") for problem in problems]
    batch = next(build.batches(cfg.data, loaded.tokenizer, count, cfg.seed + 1))
    first = batch.segment == 1
    return [[int(token) for token in tokens[keep]][:128] for tokens, keep in zip(batch.tokens, first, strict=True)]


def _helped(cfg: TrainConfig, arm: Arm, program: Program, loaded: Loaded) -> list[read.Helpful]:
    if not arm.thinks:
        return []
    with Checkpoints(arm.directory / "checkpoints", cfg.save_every, cfg.keep) as checkpoints:
        params = checkpoints.load_params()
    count = BEST_OF if isinstance(cfg.eval, CupsEval) else SAMPLED_TEXTS
    with jax.set_mesh(program.mesh):
        params = jax.device_put(params, program.places.params)
        return read.best(readings(cfg, arm, program, loaded, params, count), 3)


def table(groups: Sequence[tuple[str, list[Row]]]) -> Table:
    """Evaluations of several models, one under another."""
    out = Table(title="Held-out answers", caption="95 % intervals in brackets", title_justify="left")
    for name in COLUMNS:
        out.add_column(name, justify="left" if name in ("task", "model", "thoughts") else "right")
    for cells in _cells(groups):
        out.add_row(*cells)
    return out


def markdown(groups: Sequence[tuple[str, list[Row]]]) -> str:
    lines = [COLUMNS, ("---",) * len(COLUMNS), *_cells(groups)]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def _cells(groups: Sequence[tuple[str, list[Row]]]) -> list[tuple[str, ...]]:
    return [
        (
            row.task,
            name,
            "yes" if row.thoughts else "no",
            f"{row.accuracy:.3f} [{row.accuracy_low:.3f}, {row.accuracy_high:.3f}]",
            f"{row.probability:.3f} [{row.probability_low:.3f}, {row.probability_high:.3f}]",
            f"{row.nll:.3f}",
            str(row.n),
        )
        for name, rows in groups
        for row in rows
    ]


def _show(result: Result, arm: Arm, cfg: TrainConfig, loaded: Loaded) -> None:
    out = console.console()
    if result.after:
        groups = [("before", result.before), ("after", result.after), ("control: plain LM", result.control)]
        out.print()
        out.print(table(groups))
        (result.directory / "summary.md").write_text(markdown(groups), encoding="utf-8")
    if result.helped:
        out.print("\nThoughts that helped most")
    for one in result.helped:
        decode = loaded.tokenizer.decode
        tokens = one.reading.tokens
        line = Text("  ")
        line.append(decode(tokens[max(0, one.position - 40) : one.position]))
        line.append(f"<{decode(one.thought.tokens)}>", style="cyan")
        line.append(decode(tokens[one.position : one.position + 1]), style="bold green")
        line.append(f"   {one.thought.gain:+.2f} nats, mixing weight {one.thought.weight:.2f}", style="dim")
        out.print(line)
    out.print(f"\nEverything is in {result.directory}")
    if arm.thinks:
        out.print(f'Read its thoughts with  qstar-think "TEXT" --run {result.directory}')


def _append(file: Path, lines: Sequence[dict]) -> None:
    with file.open("a", encoding="utf-8") as out:
        out.writelines(json.dumps(line) + "\n" for line in lines)


def _replace(file: Path, lines: Sequence[str]) -> None:
    fresh = file.with_suffix(".new")
    fresh.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    fresh.replace(file)


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except json.JSONDecodeError:  # the torn last line of a killed process
        return float("inf")
