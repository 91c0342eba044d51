"""`qstar-evaluate`: held-out questions to a trained run, or to a language model as it is, with and without thoughts."""

import json
import sys
from pathlib import Path

import hydra
import jax
from omegaconf import DictConfig

from qstar import config as configs
from qstar import entry, report, runs
from qstar.config import EvaluateConfig
from qstar.evals.suite import Evaluator, Row, as_dict
from qstar.methods.lm import PlainLM
from qstar.paths import CONFIGS
from qstar.training import console

configs.register()


@hydra.main(version_base="1.3", config_path=CONFIGS, config_name="evaluate")
def _main(node: DictConfig) -> None:
    with entry.errors():
        cfg = configs.build(node)
        if not Path(cfg.out).parent.is_dir():
            raise FileNotFoundError(f"out = {cfg.out}: there is no folder {Path(cfg.out).parent}; make it first")
        entry.prepare_jax()
        name, rows = evaluate(cfg)
        console.console().print(report.table([(name, rows)]))
        if cfg.out:
            Path(cfg.out).write_text("".join(json.dumps(as_dict(row)) + "\n" for row in rows), encoding="utf-8")


def evaluate(cfg: EvaluateConfig) -> tuple[str, list[Row]]:
    """What was evaluated, and its rows."""
    if cfg.run == "none":
        loaded = cfg.model.load(cfg.seed)
        method, tokenizer, params, name = PlainLM(), loaded.tokenizer, loaded.params, loaded.source
        definition = method.definition(loaded.config)
    else:
        run = runs.load_run(cfg.run, None if cfg.step == -1 else cfg.step)
        method, definition, tokenizer, params = run.method, run.definition, run.tokenizer, run.params
        name = f"{run.path}, step {run.step}"
    evaluator = Evaluator(cfg.eval, method, definition, tokenizer, thinks=hasattr(method, "think"))
    with console.counting("questions") as progress:
        return name, evaluator(jax.device_put(params), jax.random.key(cfg.seed), progress)


def main() -> None:
    _main()


if __name__ == "__main__":
    sys.exit(main())
