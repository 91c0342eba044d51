"""`qstar-evaluate`: held-out questions to a trained run, or to a language model as it is, with and without thoughts."""

import dataclasses
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hydra
import jax
from omegaconf import DictConfig

from qstar import config as configs
from qstar import entry, manual, overrides, paths, report, runs
from qstar.config import EvaluateConfig
from qstar.evals import suite
from qstar.evals.measure import Subject
from qstar.evals.suite import Evaluator, NoEval
from qstar.methods.lm import PlainLM
from qstar.methods.protocol import Method
from qstar.paths import CONFIGS
from qstar.training import console

configs.register()


@hydra.main(version_base="1.3", config_path=CONFIGS, config_name="evaluate")
def _main(node: DictConfig) -> None:
    with entry.errors():
        cfg = configs.build(node)
        if isinstance(cfg.eval, NoEval):
            choices = ", ".join(name for name in configs.SCHEMAS["eval"] if name != "none")
            raise ValueError(f"eval=none asks nothing: choose one of {choices}")
        entry.prepare_jax()
        groups = evaluate(cfg)
        console.console().print(report.table(groups))
        if cfg.out:
            console.console().print(f"Table and answers are in {cfg.out}; paired tests:  qstar-compare {cfg.out}")


def evaluate(cfg: EvaluateConfig) -> report.Groups:
    """What was evaluated, step by step, and its rows.

    Raises FileNotFoundError for a run or a step that is not there; ValueError for what cannot be evaluated, and where
    `cfg.out` holds answers of another evaluation.
    """
    if cfg.out:
        paths.check_folder("out", cfg.out)
    evaluator, groups, told = None, [], ""
    for name, step, subject in _subjects(cfg):
        if evaluator is None:  # of all steps: its programs are compiled once
            with console.phase("preparing the questions"):
                evaluator = Evaluator(cfg.eval, subject.method, subject.definition, subject.tokenizer)
                told = report.tokenizer(subject.tokenizer) + report.left_out(evaluator.fit())
            if told:
                console.console().print(told.strip(), markup=False, highlight=False)
        folder = Path(cfg.out) / f"step_{step}" if cfg.out else None
        with console.counting(f"questions to {name}") as progress:
            rows = evaluator(jax.device_put(subject.params), jax.random.key(cfg.seed), progress, folder)
        groups.append((name, rows))
        if cfg.out:
            _write(Path(cfg.out), step, groups, told)
    return groups


def _subjects(cfg: EvaluateConfig) -> Iterator[tuple[str, int, Subject]]:
    """Who is asked: its name, its step (0 for a language model as it is), itself."""
    if cfg.run == "none":
        with console.phase("loading the model"):
            loaded, method = cfg.model.load(cfg.seed), PlainLM()
        yield loaded.source, 0, Subject(method, method.definition(loaded.config), loaded.tokenizer, loaded.params)
        return
    path = runs.latest_run() if cfg.run == "latest" else Path(cfg.run)
    for step in _steps(cfg, path):
        with console.phase(f"loading {path}"):
            run = runs.load_run(path, step)
        method = _otherwise(run.method, cfg.method).resolve(run.tokenizer)
        yield f"{path}, step {run.step}", run.step, Subject(method, run.definition, run.tokenizer, run.params)


def _otherwise(method: Method, changes: dict[str, Any]) -> Method:
    """The method with other settings. Raises ValueError for a setting that it does not have."""
    known = [field.name for field in dataclasses.fields(method)]
    for name, value in changes.items():
        if name not in known:
            raise ValueError(
                f"method.{name} = {value!r}: the run's {type(method).__name__} has no such setting; it has "
                + ", ".join(known)
            )
    return dataclasses.replace(method, **changes)


def _steps(cfg: EvaluateConfig, path: Path) -> list[int | None]:
    if cfg.step == "newest":
        return [None]
    if cfg.step == "all":
        return list(runs.steps(path))
    return list(cfg.step) if isinstance(cfg.step, list | tuple) else [cfg.step]


def _write(folder: Path, step: int, groups: report.Groups, told: str) -> None:
    """The table so far, for people and for programs; what other evaluations of this folder wrote there stays."""
    file, rows = folder / "evals.jsonl", groups[-1][1]
    known = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.is_file() else []
    asked = {(step, row.task) for row in rows}
    lines = [line for line in known if (line["step"], line["task"]) not in asked]
    lines += [{"step": step, **suite.as_dict(row)} for row in rows]
    lines.sort(key=lambda line: line["step"])
    _replace(file, "".join(json.dumps(line) + "\n" for line in lines))
    _replace(folder / "summary.md", report.markdown(groups) + told)


def _replace(file: Path, text: str) -> None:
    fresh = file.with_name(file.name + ".new")
    fresh.write_text(text, encoding="utf-8")
    fresh.replace(file)


def main() -> None:
    if manual.asked(sys.argv[1:]):
        manual.show("evaluate", sys.argv[1:])
    else:
        overrides.run("evaluate", _main)


if __name__ == "__main__":
    sys.exit(main())
