"""A run, a sweep or a comparison as one self-contained HTML page: what `qstar-report` writes.

The page is `report.html` with one section for each thing that there is to see. It loads nothing (its content security
policy says so), what a model wrote reaches it as text, and without its short script all but two conveniences work.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from qstar import advice
from qstar.data.rationales import of_iteration
from qstar.evals import measure
from qstar.evals.suite import HasTexts
from qstar.reports import faithfulness, glyphs, html, overview, readings, searchtree, sweeps
from qstar.reports.arrow import Frame
from qstar.reports.compared import Compared
from qstar.reports.directories import EvaluationFolder, ImproveRun, LabelRun, RunDirectory, SolveRun, TrainRun
from qstar.reports.faithfulness import Held
from qstar.reports.html import escaped
from qstar.reports.sweeps import Sweep
from qstar.thoughts.thinking import Thinks

TEMPLATE = Path(__file__).with_name("report.html")
NODES = 2000  # of search trees on a page, at least one tree
SHOWN = 8  # samples at either end
READ = 32  # held-out texts that are read for their thoughts
HELD = "What thoughts hold"
LONGEST = 400  # tokens of a text that is read


Subject = RunDirectory | Sweep | Compared | Held


@dataclass(frozen=True)
class Section:
    """A part of the page with its place in the list of contents."""

    title: str
    body: str

    @property
    def name(self) -> str:
        return re.sub(r"[^a-z0-9_]+", "-", self.title.lower())

    def html(self) -> str:
        return f'<section id="{self.name}"><h2>{escaped(self.title)}</h2>{self.body}</section>'


def page(subject: Subject, title: str = "", read: int = READ) -> str:
    """The page's source.

    Args:
        read: held-out texts that the model of a run that thinks reads, where it has a checkpoint; 0: none.
    """
    sections = [section for section in _sections(subject, read) if section.body]
    nav = "".join(f'<li><a href="#{section.name}">{escaped(section.title)}</a></li>' for section in sections)
    body = "".join(section.html() for section in sections)
    about = html.facts(subject.about()) if isinstance(subject, RunDirectory) else ""
    style = html.STYLE + readings.STYLE + searchtree.STYLE + faithfulness.STYLE
    parts = {"@TITLE@": escaped(title or _title(subject)), "@STYLE@": style, "@NAV@": nav, "@BODY@": about + body}
    text = TEMPLATE.read_text(encoding="utf-8")
    for place, part in parts.items():
        # The title is put in first: the body is not searched again.
        text = text.replace(place, part)
    return text


def _title(subject: Subject) -> str:
    if isinstance(subject, RunDirectory | Held):
        return str(subject.path)
    if isinstance(subject, Compared):
        return f"{subject.first.path} and {subject.second.path if subject.second else 'itself'}"
    return subject.title()


def _sections(subject: Subject, read: int) -> Iterator[Section]:
    if isinstance(subject, Sweep):
        yield Section("Runs", subject.html(rows=500))
        if "seed" in subject.overrides and len(subject.overrides) > 1:
            yield Section(
                "Means over seeds", sweeps.titled(overview.with_intervals(subject.over("seed"))).wide(rows=100)
            )
        yield Section(HELD, _or_reason(lambda: subject.faithfulness().html(), quietly=True))
        yield Section("Settings", _settings(subject.runs[0]))
        yield Section("Machine", _machine(subject.runs[0]))
    elif isinstance(subject, Held):
        yield Section(HELD, subject.html())
    elif isinstance(subject, Compared):
        yield Section("Comparison", subject.html())
        for name, run in zip(subject.names, (subject.first, subject.second), strict=True):
            if run is not None:
                last = _or_reason(lambda run=run: run.table().html(rows=40))
                title = str(run.path) if subject.second is None else name
                yield Section(title, html.facts([("directory", run.path), *run.about()]) + last)
    else:
        yield from _of_run(subject, read)


def _of_run(run: RunDirectory, read: int) -> Iterator[Section]:
    yield Section("Curves", overview.panels(run.panels()) if run.panels() else "")
    yield Section("Results", _or_reason(lambda: run.table().html(rows=60)))
    if isinstance(run, TrainRun):
        yield Section("Thoughts", _or_reason(lambda: thoughts(run, read)))
        yield Section("Rollouts", _or_reason(lambda: rollouts(run), quietly=True))
        yield Section(HELD, _or_reason(lambda: run.faithfulness().html(), quietly=True))
    elif isinstance(run, ImproveRun):
        yield Section("Rationales", _or_reason(lambda: rationales(run)))
        yield Section(HELD, _or_reason(lambda: run.faithfulness().html(), quietly=True))
    elif isinstance(run, SolveRun):
        yield Section("Questions", _or_reason(lambda: run.questions().html(rows=100)))
        yield Section("Trees", _or_reason(lambda: trees(run)))
    elif isinstance(run, LabelRun):
        yield Section("Labelled solutions", _or_reason(lambda: labels(run)))
    elif isinstance(run, EvaluationFolder):
        yield Section("Wrong answers", _or_reason(lambda: wrong(run)))
    if not isinstance(run, EvaluationFolder):
        yield Section("Ledger", _or_reason(lambda: run.ledger().html(rows=100)))
        yield Section("Settings", _settings(run))
        yield Section("Machine", _machine(run))


def _or_reason(made: Callable[[], str], quietly: bool = False) -> str:
    """What a section shows, or why it shows nothing; a run that has only begun has little."""
    try:
        return made()
    except FileNotFoundError as error:
        return "" if quietly else f'<div class="soft">{escaped(error)}</div>'


# --- sections -------------------------------------------------------------------------------------------------------


def thoughts(run: TrainRun, read: int) -> str:
    """Held-out texts with the model's thoughts; of a run without a checkpoint the samples that it recorded."""
    if not isinstance(run.config.method, Thinks):
        return ""
    texts = held_out(run, read)
    if not texts or not run.steps:
        return run.samples().html(rows=40)
    shown = run.read(texts)
    best, worst = shown.best(SHOWN), shown.worst(SHOWN)
    return html.heading("Helped most") + best.html(SHOWN) + html.heading("Hurt most") + worst.html(SHOWN) + shown.html()


def held_out(run: TrainRun, count: int) -> list[str]:
    """Questions with their answers, where the run's evaluation has such texts, else the texts that were sampled."""
    asked = run.config.eval
    try:
        texts = asked.texts(count) if isinstance(asked, HasTexts) and count else []
    except (FileNotFoundError, ValueError):  # the questions are elsewhere
        texts = []
    if not texts and count and (run.path / "samples.jsonl").is_file():
        texts = list(dict.fromkeys(str(text) for text in run.samples()["text"]))
    return [text for text in texts if 1 < len(run.model.tokenizer.encode_whole(text)) <= LONGEST] if texts else []


SAMPLE_COLUMNS = [
    "problem",
    "question",
    "gold",
    "written",
    "answer",
    "correct",
    "reason",
    "hinted",
    "weight",
    "logprobs",
]


def rationales(run: ImproveRun) -> str:
    """Of the last iteration that sampled: what was right and least expected, and what was wrong and most expected."""
    numbers = run.rationales(columns=["iteration"])["iteration"]
    rows = run.rationales(of_iteration(int(numbers.max())), SAMPLE_COLUMNS).records()
    right = sorted((row for row in rows if row["correct"]), key=_mean_logprob)
    wrong = sorted((row for row in rows if not row["correct"]), key=_mean_logprob, reverse=True)
    hinted = sum(row["hinted"] for row in rows)
    about = f"iteration {int(numbers.max())}: {len(right)} of {len(rows)} samples right, {hinted} of them with a hint"
    return (
        f'<div class="soft">{escaped(about)}</div>'
        + html.heading("Right, and least likely to be written")
        + _samples(_distinct(right))
        + html.heading("Wrong, and most likely to be written")
        + _samples(_distinct(wrong))
    )


def rollouts(run: TrainRun) -> str:
    """The best and the worst of the last step that was stored, by their reward."""
    steps = run.rationales(columns=["iteration"])["iteration"]
    rows = run.rationales(of_iteration(int(steps.max())), SAMPLE_COLUMNS).records()
    rows.sort(key=lambda row: -row["weight"])
    return (
        f'<div class="soft">step {int(steps.max())}, {len(rows)} rollouts</div>'
        + html.heading("Best")
        + _samples(_distinct(rows), reward=True)
        + html.heading("Worst")
        + _samples(_distinct(rows[::-1]), reward=True)
    )


def _distinct(rows: Sequence[dict]) -> list[dict]:
    """The first `SHOWN` that are not the same answer to the same question."""
    first: dict[tuple[str, str], dict] = {}
    for row in rows:
        first.setdefault((row["question"], row["written"]), row)
    return list(first.values())[:SHOWN]


def _samples(rows: Sequence[dict], reward: bool = False) -> str:
    shown = [
        {
            "question": row["question"],
            "written": row["written"],
            "answer": row["answer"],
            "gold": row["gold"],
            "verdict": "right" if row["correct"] else row["reason"],
            "log-prob a token": _mean_logprob(row),
        }
        | ({"reward": row["weight"]} if reward else {"hint": "yes" if row["hinted"] else ""})
        for row in rows
    ]
    return Frame.of(shown).html(SHOWN) if shown else '<div class="soft">none</div>'


def _mean_logprob(row: dict) -> float:
    return sum(row["logprobs"]) / max(len(row["logprobs"]), 1)


def trees(run: SolveRun) -> str:
    """Search trees one after another, wrong answers first, until the page has so many nodes."""
    ordered = sorted(run.trees(), key=lambda tree: bool(tree.chosen and tree.chosen.correct))
    shown, nodes = [], 0
    for tree in ordered:
        if shown and nodes + len(tree.nodes) > NODES:
            break
        shown.append(tree.html(opened=not shown))
        nodes += len(tree.nodes)
    left = len(ordered) - len(shown)
    how = advice.command("qstar-solve", advice.override("tables", run.path), "tree=PROBLEM")
    more = f'<div class="soft">{left} more: {escaped(how)}</div>' if left else ""
    buttons = '<button data-open="true">Open all</button><button data-open="false">Close all</button>'
    legend = f"Questions with a wrong answer come first. {searchtree.LEGEND}"
    return f'<div class="bar">{buttons}<span class="soft">{legend}</span></div>{"".join(shown)}{more}'


def labels(run: LabelRun) -> str:
    """The first solutions, each step with its label."""
    lines = []
    for row in run.labels().records()[: 3 * SHOWN]:
        labels_of = row["labels"] if isinstance(row.get("labels"), list) else [row.get("label")]
        steps = row.get("completions") or [row.get("completion", "")]
        marked = " ".join(
            f'<code class="{"up" if label else "down"}">{escaped(glyphs.visible(step))}</code>'
            f'<span class="soft">{html.written(float(label)) if label is not None else "not judged"}</span>'
            for step, label in zip(steps, labels_of, strict=False)
        )
        lines.append(f"<div><code>{html.cell(row['prompt'])}</code> {marked}</div>")
    return "".join(lines)


def wrong(run: EvaluationFolder) -> str:
    """Of every task, questions that were answered wrong in the last way that was asked."""
    parts = []
    for task in run.tasks:
        frame = run.answers(task)
        column = next((name for name in ("right", "exact") if name in frame.columns), None)
        if column is None:
            continue
        way = str(frame["thoughts"][-1])
        rows = frame.where(thoughts=way, **{column: False})
        names = [name for name in frame.columns if not isinstance(frame[name][0], list) and name != column]
        about = (
            f"{task}, {measure.PHRASES.get(way, way)}: {len(rows)} of {len(frame.where(thoughts=way))} answers wrong"
        )
        parts.append(html.heading(about) + rows.select(*names).html(2 * SHOWN))
    return "".join(parts)


def _settings(run: RunDirectory) -> str:
    if isinstance(run, EvaluationFolder):
        return ""
    field = '<input data-filter type="search" placeholder="filter" aria-label="Filter the settings">'
    rows = (
        f'<div class="setting"><code>{escaped(row["setting"])}</code> <span>{html.cell(row["value"])}</span></div>'
        for row in run.settings().records()
    )
    return f'<div class="bar">{field}</div><div class="settings">{"".join(rows)}</div>'


def _machine(run: RunDirectory) -> str:
    machine = run.machine()
    if not machine:
        return ""
    rows = {**machine.pop("versions", {}), **machine}
    known = [(name, value) for name, value in rows.items() if value is not None]  # an installed package has no commit
    return html.table(("", ""), [(name, ", ".join(v) if isinstance(v, list) else v) for name, v in known])
