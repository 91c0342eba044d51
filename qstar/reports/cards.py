"""The card of a model that is shared: what it is, how it is loaded, and what was measured of it, from its run."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from qstar import config as configs
from qstar import files
from qstar.evals import measure, suite
from qstar.reports import tables

CARD = "README.md"
METHODS = configs.SCHEMAS["method"]
ON_HUB = re.compile(r"(?:hub:)?([\w.-]+/[\w.-]+)")
LOADED = {
    "huggingface": 'model = transformers.AutoModelForCausalLM.from_pretrained("{name}")',
    "thinker": 'model = transformers.AutoModelForCausalLM.from_pretrained("{name}", trust_remote_code=True)',
    "adapter": 'model = peft.AutoPeftModelForCausalLM.from_pretrained("{name}")',
    "token-classification": 'model = transformers.AutoModelForTokenClassification.from_pretrained("{name}")',
    "sequence-classification": 'model = transformers.AutoModelForSequenceClassification.from_pretrained("{name}")',
    "checkpoint": 'model = qstar.runs.load_model("hub:{name}")  # or huggingface_hub.snapshot_download, then qstar',
}


@dataclass(frozen=True)
class Result:
    """A figure with its 95 % interval, which is nan where there is none."""

    task: str
    name: str
    value: float
    low: float
    high: float
    n: int


def results(run: Path) -> list[Result]:
    """What was measured of the newest weights of a run; of an iteration of self-training, what it answered."""
    lines = files.records(run / "evals.jsonl", "the answers of an evaluation", step=int, **suite.FIELDS)
    last = max((line["step"] for line in lines), default=0)
    rows = [suite.from_dict(line) for line in lines if line["step"] == last]
    asked = [
        Result(row.task, measure.titled(name, row.way), figure.value, figure.low, figure.high, row.n)
        for row in rows
        for name, figure in row.figures.items()
    ]
    return asked + _of_iteration(run)


def _of_iteration(run: Path) -> list[Result]:
    number = run.name.removeprefix("iteration_")
    if not number.isdigit() or not (run.parent / "improve.yaml").is_file():
        return []
    task = configs.load(run.parent / "improve.yaml", schema=configs.ImproveConfig).task.name
    lines = files.records(run.parent / "iterations.jsonl", "the line of an iteration", iteration=int)
    line = next((line for line in lines if line["iteration"] == int(number)), {})
    asked = {"dev": line, "test": line.get("test", {})}
    shares = [(split, answered["accuracy"]) for split, answered in asked.items() if "accuracy" in answered]
    return [
        Result(task, f"accuracy on {split}", share["share"], share["low"], share["high"], share["n"])
        for split, share in shares
    ]


def model_card(source: str, name: str, kind: str, licence: str) -> str:
    """The card of what `qstar-prepare` wrote of `source` as `kind`.

    Args:
        name: on the hub, ORG/NAME.
        licence: as the hub spells it.
    """
    run = Path(source) if (Path(source) / "config.yaml").is_file() else None
    measured = results(run) if run else []
    cfg = configs.load(run / "config.yaml") if run else None
    begun = (cfg.model.source if hasattr(cfg.model, "source") else "") if cfg else source
    base = ON_HUB.fullmatch(begun) if not Path(begun).exists() else None
    method = next(name for name, schema in METHODS.items() if schema is type(cfg.method)) if cfg else ""
    header = {
        "license": licence,
        **({"base_model": base[1]} if base else {}),
        "library_name": "peft" if kind == "adapter" else "transformers",
        **({"pipeline_tag": "text-generation"} if kind in ("huggingface", "thinker") else {}),
        "tags": ["qstar", *([method] if method else [])],
    }
    if measured:
        header["model-index"] = [{"name": name.rpartition("/")[2], "results": list(map(_indexed, measured))}]
    trained = (
        [f"Trained with method `{method}` from `{begun or 'scratch'}`."] if cfg else [f"Converted from `{begun}`."]
    )
    return "\n".join(
        [
            "---",
            *(f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in header.items()),
            "---",
            f"\n# {name.rpartition('/')[2]}\n",
            *trained,
            "Written by qstar (language models that teach themselves to think, in JAX).\n",
            f"```python\n{LOADED[kind].format(name=name)}\n```\n",
            *(["## Measured\n", _table(measured), "95 % intervals in brackets.\n"] if measured else []),
        ]
    )


def _indexed(result: Result) -> dict:
    """As the hub's model index has it."""
    interval = {} if result.low != result.low else {"low": result.low, "high": result.high}
    metric = {"type": result.name.split()[0], "name": result.name, "value": result.value}
    return {
        "task": {"type": "text-generation"},
        "dataset": {"type": result.task, "name": result.task},
        "metrics": [metric | {"args": {"n": result.n} | interval}],
    }


def _table(measured: Sequence[Result]) -> str:
    lines = [(r.task, r.name, tables.interval(r.value, r.low, r.high), str(r.n)) for r in measured]
    return tables.markdown(("task", "figure", "value", "n"), lines)
