"""`qstar-evaluate`: held-out questions to a trained run, or to a language model as it is, with and without thoughts."""

import contextlib
import dataclasses
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
from omegaconf import DictConfig

from qstar import advice, files, paths, processes, runs, sharding
from qstar import config as configs
from qstar.cli import entry
from qstar.config import EvaluateConfig
from qstar.evals import suite
from qstar.evals.measure import NONE
from qstar.evals.suite import Evaluator, NoEval
from qstar.files import JsonObject
from qstar.methods.plain_lm import PlainLM
from qstar.methods.protocol import Method
from qstar.policy import Policy
from qstar.reports import summaries
from qstar.training import console, layout
from qstar.training.metrics import Sinks, numbers


@entry.command("evaluate")
def main(node: DictConfig) -> None:
    with entry.shared_errors() as ending:
        cfg = configs.build(node)
        if isinstance(cfg.eval, NoEval):
            choices = ", ".join(name for name in configs.SCHEMAS["eval"] if name != "none")
            raise ValueError(f"eval=none evaluates nothing: choose one of {choices}")
        entry.prepare_jax()
        if cfg.run == "latest":  # in full, because the latest may change
            latest = processes.first_does(lambda: str(runs.latest_run()))
            cfg = dataclasses.replace(cfg, run=processes.agreed(latest or ""))
        if cfg.out:
            again = _again(cfg, sys.argv[1:])  # Hydra's own list of overrides has lost some of their quotes
            ending.go_on = lambda: f"Resume with  {again}" if Path(cfg.out).is_dir() else ""
        with Sinks(cfg.out, cfg.sinks, configs.flat(cfg)) as sinks:
            groups = evaluate(cfg)
            sinks.open(0)
            for step, (_, rows) in enumerate(groups):  # of the checkpoints that were asked, in their order
                sinks.write(step, numbers({f"{row.task}/{row.way}": suite.as_dict(row) for row in rows}))
        console.console().print(summaries.table(groups))
        if cfg.out:
            console.say(f"Table and answers are in {cfg.out}{_comparison(Path(cfg.out), groups)}")


def _again(cfg: EvaluateConfig, arguments: Sequence[str]) -> str:
    """The command that resumes an evaluation: the same one, of the same run."""
    others = [argument for argument in arguments if argument.partition("=")[0] != "run"]
    return advice.command("qstar-evaluate", *others, advice.override("run", cfg.run))


def _comparison(out: Path, groups: summaries.Groups) -> str:
    """How to test the answers, where they can be tested by themselves."""
    folders = sorted({file.parent for file in out.glob("step_*/*.parquet")}, key=_step_of)
    ways = {row.way for _, rows in groups for row in rows}
    if len(folders) > 1:
        compared = (folders[0], folders[-1])
    elif NONE in ways and len(ways) > 1:
        compared = (out,)
    else:
        return ""
    return f"; paired tests:  {advice.command('qstar-compare', *map(advice.path, compared))}"


def _step_of(folder: Path) -> int:
    return int(folder.name.removeprefix("step_"))


def evaluate(cfg: EvaluateConfig) -> summaries.Groups:
    """What was evaluated, step by step, and its rows. Of several processes each answers some batches of questions.

    Raises FileNotFoundError for a run or a step that is not there; ValueError for what cannot be evaluated, and where
    `cfg.out` holds answers of another evaluation.
    """
    if cfg.out:
        paths.check_folder("out", cfg.out)
    with processes.locked(Path(cfg.out)) if cfg.out else contextlib.nullcontext():
        return _evaluated(cfg)


def _evaluated(cfg: EvaluateConfig) -> summaries.Groups:
    evaluator, groups, notes = None, [], ""
    for name, step, subject in _subjects(cfg):
        if evaluator is None:  # of all steps: its programs are compiled once
            with console.phase("preparing the questions"):
                evaluator = Evaluator(cfg.eval, subject.method, subject.definition, subject.tokenizer)
                notes = summaries.tokenizer(subject.tokenizer) + summaries.left_out(evaluator.fit())
            if notes:
                console.console().print(notes.strip(), markup=False, highlight=False)
        folder = Path(cfg.out) / f"step_{step}" if cfg.out else None
        mesh = layout.sampling(cfg.mesh, subject.definition, cfg.eval.batch_size)
        with sharding.on(mesh), console.counting(f"evaluating {name}") as progress:
            params, key = sharding.spread(subject.params, subject.definition.axes), jax.random.key(cfg.seed)
            rows = evaluator(params, key, progress, folder, processes.divided)
        groups.append((name, rows))
        if cfg.out and processes.first():
            _write(Path(cfg.out), step, groups, notes)
    return groups


def _subjects(cfg: EvaluateConfig) -> Iterator[tuple[str, int, Policy]]:
    """What is evaluated: its name, its step (0 for a language model as it is), itself."""
    if cfg.run == "none":
        with console.phase("loading the model"):
            loaded, method = runs.initial_model(cfg.model, cfg.seed), PlainLM()
        yield loaded.name, 0, Policy(method, method.definition(loaded.lm), loaded.language_model, loaded.tokenizer)
        return
    path = runs.latest_run() if cfg.run == "latest" else Path(cfg.run)
    for step in _steps(cfg, path):
        with console.phase(f"loading {path}"):
            run = runs.load_run(path, step)
        method = _otherwise(run.method, cfg.method)
        definition = runs.definition_for(run, method)
        yield f"{path}, step {run.step}", run.step, Policy(method, definition, run.params, run.tokenizer)


def _otherwise(method: Method, changes: JsonObject) -> Method:
    """The method with other settings. Raises ValueError for a setting that it does not have."""
    known = [field.name for field in dataclasses.fields(method)]
    for name, value in changes.items():
        if name not in known:
            raise ValueError(
                f"method.{name} = {value!r}: the run's {configs.given('method', method)} has no such setting; it has "
                + ", ".join(known)
            )
    return dataclasses.replace(method, **changes)


def _steps(cfg: EvaluateConfig, path: Path) -> list[int | None]:
    if cfg.step == "newest":
        return [None]
    if cfg.step == "all":
        return list(runs.steps(path))
    return list(cfg.step) if isinstance(cfg.step, list | tuple) else [cfg.step]


def _write(folder: Path, step: int, groups: summaries.Groups, notes: str) -> None:
    """The table so far, for people and for programs; what other evaluations of this folder wrote there stays."""
    file, rows = folder / "evals.jsonl", groups[-1][1]
    known = files.records(file, "the answers of an evaluation", step=int, task=str)
    asked = {(step, row.task) for row in rows}
    lines = [line for line in known if (line["step"], line["task"]) not in asked]
    lines += [{"step": step, **suite.as_dict(row)} for row in rows]
    lines.sort(key=lambda line: line["step"])
    files.write_records(file, lines)
    files.write(folder / "summary.md", summaries.markdown(groups) + notes)


if __name__ == "__main__":
    main()
