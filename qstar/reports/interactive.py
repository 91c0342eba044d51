"""A loaded model at work, without a command: it reads texts, writes, answers questions, searches.

Each function takes a `qstar.policy.Policy` (`qstar.load_model`, `run.model`, or one made around weights of your own)
and settings by the names that the commands have for them; configurations are the dataclasses, and Hydra has no part.
"""

import contextlib
import dataclasses
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import jax

from qstar import config as configs
from qstar import files
from qstar.config import SolveConfig
from qstar.evals import journal, measure, suite
from qstar.evals.answers import TaskEval
from qstar.evals.suite import Evaluator, NoEval, Row
from qstar.models.origins import Pretrained
from qstar.policy import Policy
from qstar.reports import html, overview
from qstar.reports.arrow import Frame
from qstar.reports.readings import Readings
from qstar.runs import solve as searches
from qstar.thoughts import writing
from qstar.thoughts.read import Reading, read_all
from qstar.thoughts.thinking import Thinks

T = TypeVar("T")

EVALUATIONS = tuple(name for name in configs.SCHEMAS["eval"] if name not in ("none", "task"))


def read(policy: Policy, texts: str | Sequence[str], *, num_thoughts: int = 1, seed: int | None = None) -> Readings:
    """Texts with the thoughts before every token, and what each changed; those of similar length are read together.

    Args:
        num_thoughts: before every token; likeliest thoughts are all the same, so more than one needs a `seed`.
        seed: thoughts are drawn, at the method's temperature; without it they are the likeliest tokens.

    Raises ValueError for a method that does not think, and for texts that tokenizer or model cannot take.
    """
    method = _thinking(policy)
    if seed is None and num_thoughts != 1:
        raise ValueError(
            f"num_thoughts = {num_thoughts} of likeliest thoughts, which are all the same: give a seed to draw them"
        )
    tokens = [policy.tokenizer.encode_whole(text) for text in ([texts] if isinstance(texts, str) else texts)]
    if not tokens:
        raise ValueError("texts = []: expected one or more")
    key = jax.random.key(seed or 0)
    readings = read_all(
        method, policy.definition, policy.params, tokens, key, greedy=seed is None, num_thoughts=num_thoughts
    )
    return Readings(tuple(readings), policy.tokenizer, _about(policy, method, num_thoughts, seed))


def think(
    policy: Policy, text: str, *, tokens: int = 32, temperature: float = 0.0, seed: int | None = None
) -> Readings:
    """A text, and up to `tokens` more that the model writes, with a thought before each.

    Args:
        temperature: of what is written; 0 takes the likeliest token.
        seed: thoughts, and with a temperature tokens, are drawn; without it thoughts are the likeliest tokens.

    Raises ValueError as `read`.
    """
    method = _thinking(policy)
    ids = policy.tokenizer.encode_whole(text)
    read_key, write_key = jax.random.split(jax.random.key(seed or 0))
    model = (method, policy.definition, policy.params)
    (reading,) = read_all(*model, [ids], read_key, greedy=seed is None)
    written = writing.generate(
        *model,
        [ids],
        write_key,
        max_new_tokens=tokens,
        temperature=temperature,
        greedy_thoughts=seed is None,
        stop=policy.tokenizer.ends,
    )
    whole: Reading = written.extended(reading, 0)
    return Readings((whole,), policy.tokenizer, _about(policy, method, 1, seed))


def _thinking(policy: Policy) -> Thinks:
    if not isinstance(policy.method, Thinks):
        raise ValueError(
            f"{policy.name or 'the model'} is of {configs.given('method', policy.method)}, which does not think: "
            "take a run of a method that does (qstar-train method=quiet_star)"
        )
    return policy.method


def _about(policy: Policy, method: Thinks, num_thoughts: int, seed: int | None) -> str:
    kind = "likeliest" if seed is None else f"{num_thoughts} sampled, seed {seed}"
    return f"{policy.name or 'a model'} · thoughts of {method.thinking.thought_len} tokens, {kind}"


# --- questions ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, repr=False)
class Answers:
    """What a model answered: `rows`, one for every task and way of answering, and `items`, one for every question."""

    rows: Sequence[Row]
    items: Mapping[str, Frame]  # by task
    about: str

    def table(self) -> Frame:
        """A row for every task and way; each figure with `_low` and `_high`, its 95 % interval."""
        return Frame.of(suite.as_dict(row) for row in self.rows)

    def wrong(self, task: str | None = None) -> Frame:
        """The questions that were answered wrong. Raises ValueError for a task without right and wrong."""
        name = task or next(iter(self.items))
        column = next((column for column in ("right", "exact") if column in self.items[name].columns), None)
        if column is None:
            raise ValueError(f"{name} has no right and wrong answers; its columns are {self.items[name].columns}")
        return self.items[name].where(**{column: False})

    def __repr__(self) -> str:
        parts = []
        for row in self.rows:
            name, figure = next(iter(row.figures.items()))
            parts.append(f"{row.task}, {measure.PHRASES[row.way]}: {name} {figure.value:.3f} of {row.n}")
        return f"Answers({self.about}: {'; '.join(parts)})"

    def _repr_html_(self) -> str:
        table = overview.with_intervals(self.table()).html()
        return html.fragment(f'<div class="soft">{html.escaped(self.about)}</div>{table}')


def ask(policy: Policy, task: Any = None, *, seed: int = 0, out: str | Path | None = None, **settings: Any) -> Answers:
    """Held-out questions to a model, as `qstar-evaluate` asks them.

    Args:
        task: the name of an evaluation (`eval=NAME`: cups, questions, chain, perplexity), else of a task, whose
            questions are answered in writing (`eval=task`); or the configuration of either.
        seed: of the thoughts that are drawn.
        out: a folder for the answers, where an evaluation that was stopped goes on; without it nothing is kept.
        settings: of the evaluation, as `items=50` or `thoughts=("none", "sampled")`.

    Raises ValueError for unknown names and settings, and what the evaluation raises where its files are not there.
    """
    cfg = _evaluation(task, settings)
    evaluator = Evaluator(cfg, policy.method, policy.definition, policy.tokenizer)
    evaluator.fit()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(out or folder)
        rows = evaluator(jax.device_put(policy.params), jax.random.key(seed), None, place)
        tables = {row.task: Frame(journal.read(place / f"{row.task}.parquet")) for row in rows}
    return Answers(tuple(rows), tables, policy.name or "a model")


def _evaluation(task: Any, settings: Mapping[str, Any]) -> Any:
    if task is None or isinstance(task, NoEval):
        raise ValueError(f"no task: give the name of an evaluation ({', '.join(EVALUATIONS)}) or of a task")
    if isinstance(task, str) and task in EVALUATIONS:
        return _made(configs.SCHEMAS["eval"][task], settings)
    if isinstance(task, str) or type(task) in configs.SCHEMAS["task"].values():
        return _made(TaskEval, {"task": _of_group("task", task), **settings})
    return dataclasses.replace(task, **_known(type(task), settings))


def _of_group(group: str, choice: Any, settings: Mapping[str, Any] | None = None) -> Any:
    """The configuration of a choice in a group by its name; one that is a configuration already stays."""
    if not isinstance(choice, str):
        return dataclasses.replace(choice, **_known(type(choice), settings or {}))
    schemas = configs.SCHEMAS[group]
    if choice not in schemas:
        others = f", and as evaluations {', '.join(EVALUATIONS)}" if group == "task" else ""
        raise ValueError(f"{group} = {choice!r}: there are {', '.join(schemas)}{others}")
    return _made(schemas[choice], settings or {})


def _made(schema: type[T], settings: Mapping[str, Any]) -> T:
    return schema(**_known(schema, settings))


def _known(schema: type, settings: Mapping[str, Any]) -> Mapping[str, Any]:
    fields = [field.name for field in dataclasses.fields(schema)]
    unknown = [name for name in settings if name not in fields]
    if unknown:
        raise ValueError(f"{unknown[0]} = {settings[unknown[0]]!r}: {schema.__name__} has {', '.join(fields)}")
    return settings


# --- search ---------------------------------------------------------------------------------------------------------


def solve(
    policy: Policy, task: Any, strategy: Any = "majority", *, out: str | Path | None = None, **settings: Any
) -> Path:
    """Held-out questions, solved by search, as `qstar-solve` does it. Returns the directory, to `qstar.open`.

    Args:
        task: its name, or its configuration.
        strategy: its name, or its configuration.
        out: the directory; without it a new folder of runs/solve.
        settings: of the search (`n=16`, `scorer="logprob"`, `questions=20`) and of the strategy.

    Raises ValueError for unknown names and settings, and for what cannot be searched.
    """
    own = {field.name for field in dataclasses.fields(SolveConfig)}
    of_run = {name: value for name, value in settings.items() if name in own}
    search = _of_group("search", strategy, {name: value for name, value in settings.items() if name not in own})
    chosen = {"task": _of_group("task", task), "search": search, "model": Pretrained(source=policy.name or "a model")}
    with files.fresh("runs/solve/search") if out is None else contextlib.nullcontext(Path(out)) as folder:
        searches.run(SolveConfig(run_dir=str(folder), **chosen, **of_run), folder, policy)
    return folder
