"""What thoughts encode: tests with edited states, corrupted tokens, and the untrained base as the reader.

    python experiments/quiet_star/faithfulness/faithfulness.py runs/mine
    python experiments/quiet_star/faithfulness/faithfulness.py --runs 0=bundled:cups=runs/faithfulness/0 --out FOLDER
    python experiments/quiet_star/faithfulness/faithfulness.py --written 0=base=bundled:cups --out FOLDER
    python experiments/quiet_star/faithfulness/faithfulness.py --show FOLDER

Of a run on cups, of any command that trains, the thoughts are measured where it thinks, else its written workings; what
comes out lies in its directory, and `qstar-report` shows it. --runs takes the label of a base, the base, and the folder
in which `sweep.py` trained the arms of faithfulness.yaml from it; --written takes the label of a base, a name, and a
model that writes its workings as text. Results are appended to results.jsonl of --out; --show prints the tables and
draws the figure (matplotlib: pip install '.[figures]').

The thought is the likeliest one after the question. An edit replaces one of its tokens by another place. `continued`:
the tokens after the edit are generated again, and `followed` is the share of answers that result from the edited place
by the remaining moves. `kept`: the other tokens are unchanged. A line has the edits with `left` moves after them (below
0: tokens after the last state). Of each kind the first edit is kept as an example, and the first that is not followed.
"""

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from qstar import files, runs
from qstar.cli import entry, flags
from qstar.evals.suite import CupsEval
from qstar.methods.quiet_star import QuietStar
from qstar.models.definition import Definition
from qstar.models.origins import Pretrained
from qstar.ops import rows as text_rows
from qstar.policy import Policy
from qstar.reports import directories, faithfulness, figures, frames, tables
from qstar.reports.figures import Curve
from qstar.runs import ablation
from qstar.structs import Batch, Context
from qstar.tasks.cups import Game
from qstar.tasks.problem import Problem
from qstar.thoughts.fill import Inner
from qstar.thoughts.predict import predict
from qstar.thoughts.talk import thought_columns
from qstar.thoughts.writing import generate
from qstar.typing import Array, Key, Params

HERE = Path(__file__).resolve().parent
RESULTS = "results.jsonl"
PAUSE = -1  # the id of a pause in thoughts
PLACES = "12345"
ARMS = ablation.read(str(HERE / "faithfulness.yaml"))
READABLE = ("Quiet-STaR", "Quiet-STaR without REINFORCE", "Quiet-STaR, beta 10")
"""Arms whose checkpoints are evaluated with their base as the reader."""
MOVES = 6  # of the problems whose written workings are edited
AFTER = 2  # tokens after the last state that are corrupted too


# --- thoughts ------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Questions:
    """Problems, and the place after their `=` where the thought is."""

    problems: Sequence[Problem]
    batch: Batch
    anchors: np.ndarray  # [B 1]

    @classmethod
    def of(cls, problems: Sequence[Problem], encode) -> "Questions":
        ids = [encode(problem.question) for problem in problems]
        anchors = np.array([[len(question) - 1] for question in ids])
        return cls(problems, text_rows.padded(ids, text_rows.bucket(int(anchors.max()) + 1)), anchors)

    @property
    def moves(self) -> np.ndarray:
        return np.array([int(problem.group) for problem in self.problems])


@dataclasses.dataclass(frozen=True)
class Reader:
    """A model that predicts after given thoughts."""

    method: QuietStar
    definition: Definition
    params: Params
    questions: Questions

    def thoughts(self, tokens: np.ndarray, kept: np.ndarray) -> np.ndarray:
        """The first `kept` [B] of the tokens [B T], then the likeliest ones."""
        return np.asarray(_continued(self.definition, self.params, *self._asked, tokens, kept))

    def predictions(self, tokens: np.ndarray, alone: bool = False) -> np.ndarray:
        """Log-probs [B V] of the answer, mixed, or of the prediction after the thought alone."""
        return np.asarray(_predicted(self.method, self.definition, self.params, *self._asked, tokens, alone))

    def sampled(self, key: Key) -> np.ndarray:
        """A thought [B T] for every question, sampled as in training."""
        return np.asarray(_sampled(self.method, self.definition, self.params, *self._asked, key))

    @property
    def _asked(self) -> tuple[Batch, np.ndarray]:
        return self.questions.batch, self.questions.anchors


def _embedded(thinker, tokens: Array) -> Array:
    """[B 1 1 T D]"""
    embedding = thinker.lm.embed(jnp.maximum(tokens, 0))
    if thinker.cfg.pause:
        pause = thinker.lm.scaled(thinker.pause[...].astype(thinker.lm.dtype))
        embedding = jnp.where((tokens == PAUSE)[..., None], pause, embedding)
    return embedding[:, None, None]


@functools.partial(jax.jit, static_argnums=0)
def _continued(definition, params, batch, anchors, tokens, kept):
    thinker = definition.bind(params)
    context = Context(thinker.lm.text(batch), batch, anchors)

    def place(t, tokens):
        hidden = thought_columns(thinker, context, _embedded(thinker, tokens), 1)
        likeliest = thinker.lm.logits(hidden[:, 0, 0, t]).argmax(-1)
        return tokens.at[:, t].set(jnp.where(t < kept, tokens[:, t], likeliest))

    return jax.lax.fori_loop(0, tokens.shape[1], place, jnp.asarray(tokens))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _sampled(method, definition, params, batch, anchors, key):
    thinker = definition.bind(params)
    context = Context(thinker.lm.text(batch), batch, anchors)
    return method.thinking.inner(thinker, context, key, 1, method.temperature).tokens[:, 0, 0]


@functools.partial(jax.jit, static_argnums=(0, 1, 6))
def _predicted(method, definition, params, batch, anchors, tokens, alone):
    thinker = definition.bind(params)
    context = Context(thinker.lm.text(batch), batch, anchors)
    inner = Inner(_embedded(thinker, tokens), None)
    if not alone:
        return predict(thinker, context, inner, method.mix).mixed[:, 0, 0]
    return jax.nn.log_softmax(thinker.lm.logits(thought_columns(thinker, context, inner.embedding, 1)[:, 0, 0, -1]))


def edits(run: Policy, problems: Sequence[Problem], key: int = 0) -> Iterator[dict]:
    """A line without an edit, then one for every number of remaining moves and each of `kept` and `continued`."""
    encode, decode = run.tokenizer.encode, run.tokenizer.decode
    reader = Reader(run.method, run.definition, jax.device_put(run.params), Questions.of(problems, encode))
    size, pauses = run.method.thought_len, run.method.fill == "pause"
    places = np.array(encode(PLACES))
    answer = lambda tokens: [PLACES[i] for i in reader.predictions(tokens)[:, places].argmax(-1)]  # noqa: E731
    blank = np.full((len(problems), size), PAUSE if pauses else 0, np.int32)
    own = reader.thoughts(blank, np.full(len(problems), size if pauses else 0))
    before, gold = answer(own), [problem.answer for problem in problems]
    text = lambda tokens: "" if pauses else decode(tokens.tolist())  # noqa: E731
    holds = [text(thought).startswith(p.rationale.strip("-")) for thought, p in zip(own, problems, strict=True)]
    yield {"rest": "unedited", "n": len(problems), "right": _share(before, gold), "holds": float(np.mean(holds))}
    rng = np.random.default_rng(key)
    for left in range(-AFTER, max(reader.questions.moves)):
        at = reader.questions.moves - 1 - left
        there = np.flatnonzero((at >= 0) & (at < size))
        if not len(there):
            continue
        other = np.array([rng.choice([place for place in places if place != own[i, at[i]]]) for i in there])
        edited = own.copy()
        edited[there, at[there]] = other
        expected = [_after(problems[i], decode([int(place)]), left) for i, place in zip(there, other, strict=True)]
        for rest in ("kept",) if pauses or left < 0 else ("kept", "continued"):
            # All rows go on, so that one program serves all edits; those without the token are left out.
            thought = edited if rest == "kept" else reader.thoughts(edited, np.where(at >= 0, at + 1, size))
            answers = answer(thought)
            if left >= 0 and not pauses:
                yield from _examples([
                    {"rest": rest, "left": left, "at": int(at[i]), "question": problems[i].question}
                    | {"thought": text(own[i]), "answer": before[i], "edited": text(thought[i])}
                    | {"became": answers[i], "expected": e[-1]}
                    for i, e in zip(there, expected, strict=True)
                ])  # fmt: skip
            yield {
                "rest": rest,
                "left": left,
                "n": len(there),
                "right": _share([answers[i] for i in there], [gold[i] for i in there]),
                "stayed": _share([answers[i] for i in there], [before[i] for i in there]),
                **({"followed": _share([answers[i] for i in there], [e[-1] for e in expected])} if left >= 0 else {}),
                **(
                    {"written": float(np.mean([
                        text(thought[i])[at[i] :].startswith(e) for i, e in zip(there, expected, strict=True)
                    ]))} if rest == "continued" else {}
                ),
            }  # fmt: skip


def _examples(tried: Sequence[dict]) -> Iterator[dict]:
    """Of edits of one kind the first, and the first after which the answer is not the one that results."""
    missed = [line for line in tried if line["became"] != line["expected"]]
    return ({"part": "examples", **line} for line in tried if line in (tried[0], *missed[:1]))


def _after(problem: Problem, place: str, left: int) -> str:
    """This place and those that follow from it by the last `left` moves."""
    moves = problem.question[1:-1]
    return place + Game(int(place), moves[len(moves) - left :]).places if left > 0 else place


def _share(answers: Sequence[str], expected: Sequence[str]) -> float:
    return float(np.mean([a == b for a, b in zip(answers, expected, strict=True)]))


def readability(run: Policy, base: Policy, problems: Sequence[Problem]) -> dict:
    """Predictions of a run and of its untrained base after the run's likeliest thoughts alone."""
    method = run.method
    questions = Questions.of(problems, run.tokenizer.encode)
    own = Reader(method, run.definition, jax.device_put(run.params), questions)
    started = method.start_from(run.definition, base.language_model, jax.random.key(0))
    frozen = Reader(method, run.definition, jax.device_put(started), questions)
    none = np.zeros((len(problems), method.thought_len), np.int32), np.zeros(len(problems), int)
    thoughts, places = own.thoughts(*none), np.array(run.tokenizer.encode(PLACES))
    gold = np.array([PLACES.index(problem.answer) for problem in problems])
    line: dict = {"n": len(problems)}
    for name, reader in (("own", own), ("frozen", frozen)):
        logprobs = reader.predictions(thoughts, alone=True)[:, places]
        line[name] = float((logprobs.argmax(-1) == gold).mean())
        line[f"{name}_nll"] = float(-logprobs[np.arange(len(gold)), gold].mean())
    return line


# --- written workings ----------------------------------------------------------------------------------------------


def written(model: Policy, problems: Sequence[Problem], key: int = 0) -> Iterator[dict]:
    """The same edits of workings that are written as text."""
    model, rng = model.plain(), np.random.default_rng(key)
    moves = int(problems[0].group)
    asked = [f"{problem.question}-" for problem in problems]
    own = completed(model, asked, moves + 2)
    gold = [problem.answer for problem in problems]
    before = [text[moves + 1 : moves + 2] for text in own]
    holds = [text.startswith(problem.rationale[1:]) for text, problem in zip(own, problems, strict=True)]
    yield {"rest": "unedited", "n": len(problems), "right": _share(before, gold), "holds": float(np.mean(holds))}
    for left in range(moves):
        at = moves - 1 - left
        other = [str(rng.choice([place for place in PLACES if place != text[at : at + 1]])) for text in own]
        expected = [_after(problem, place, left) for problem, place in zip(problems, other, strict=True)]
        for rest in ("kept", "continued"):
            given = [text[:at] + place for text, place in zip(own, other, strict=True)]
            if rest == "kept":
                given = [start + text[at + 1 : moves + 1] for start, text in zip(given, own, strict=True)]
            prompts = [question + start for question, start in zip(asked, given, strict=True)]
            texts = completed(model, prompts, 1 if rest == "kept" else left + 2)
            answers = [text[-1:] for text in texts]
            yield from _examples([
                {"rest": rest, "left": left, "at": at, "question": asked[i], "thought": own[i][: moves + 1]}
                | {"answer": before[i], "edited": given[i] + texts[i][:-1]}
                | {"became": answers[i], "expected": expected[i][-1]}
                for i in range(len(asked))
            ])  # fmt: skip
            line = {
                "rest": rest,
                "left": left,
                "n": len(problems),
                "right": _share(answers, gold),
                "stayed": _share(answers, before),
                "followed": _share(answers, [e[-1] for e in expected]),
            }
            if rest == "continued":
                line["written"] = _share([text[:left] for text in texts], [e[1:] for e in expected])
            yield line


def completed(model: Policy, prompts: Sequence[str], count: int) -> list[str]:
    """The `count` likeliest characters after each prompt."""
    ids = [model.tokenizer.encode(prompt) for prompt in prompts]
    settings = {"max_new_tokens": count, "think": False}
    texts = generate(model.method, model.definition, model.params, ids, jax.random.key(0), **settings)
    return [model.tokenizer.decode(text) for text in texts.tokens]


# --- the record ----------------------------------------------------------------------------------------------------


def of_runs(label: int, source: str, folder: Path, items: int, extra: Sequence[str]) -> Iterator[dict]:
    """Lines of all arms that were trained from one base."""
    base = runs.load_model(source)
    problems = CupsEval(items=items).problems()
    for arm, said in ARMS.arms.items():
        directory = ablation.plan(ARMS, said, 0, folder, (f"model.source={source}", *extra)).directory
        if not (directory / ablation.DONE).is_file():
            print(f"{directory} is not finished: left out", flush=True)
            continue
        who = {"base": label, "arm": arm}
        print(label, arm, flush=True)
        yield from ({"part": "edits", **who, **line} for line in edits(runs.load_run(directory), problems))
        for step in runs.saved_steps(directory) if arm in READABLE else ():
            run = runs.load_run(directory, step)
            yield {"part": "readability", **who, "step": step, **readability(run, base, problems)}


def of_run(path: Path, items: int) -> Iterator[dict]:
    """Lines of one run, for its own directory: of its thoughts, or of what it writes."""
    run = directories.open(path)
    model, question = run.model, CupsEval(items=1).problems()[0].question
    if len(model.tokenizer.encode(question)) != len(question):
        raise ValueError(f"{path}: expected a model on cups with one token for each character of {question}")
    if not isinstance(model.method, QuietStar):
        problems = CupsEval(items=items, min_moves=MOVES, max_moves=MOVES).problems()
        yield from ({"part": "written", **line} for line in written(model, problems))
        return
    problems, steps = CupsEval(items=items).problems(), runs.saved_steps(path)
    yield from ({"part": "edits", "step": steps[-1], **line} for line in edits(model, problems))
    if isinstance(run.config.model, Pretrained):
        base = runs.load_model(run.config.model.source)
        for step in steps:
            yield {"part": "readability", "step": step, **readability(runs.load_run(path, step), base, problems)}


def record(out: Path, lines: Iterable[dict]) -> None:
    """Append measured lines to the results."""
    files.make(out)
    files.append(out / RESULTS, list(lines))


def texts(lines: Sequence[dict]) -> dict[str, str]:
    """The tables of the page, by the names of their places."""
    part = lambda name: [line for line in lines if line["part"] == name]  # noqa: E731
    over_bases, head = faithfulness.over_bases, faithfulness.COLUMNS
    kept = faithfulness.by_place(part("edits"), "kept")
    left = sorted({place for of in kept.values() for place in of}, reverse=True)
    corrupted = [[arm, *(over_bases(of.get(place, []), "right") for place in left)] for arm, of in kept.items()]
    read = [
        [arm, str(step), *(over_bases(of, n) for n in ("own", "frozen")), *(over_bases(of, n, False) for n in NLLS)]
        for (arm, step), of in frames.by(part("readability"), "arm", "step").items()
    ]
    sections = {
        "interchange": tables.markdown(("arm", *head), faithfulness.shares(part("edits"))),
        "corruption": tables.markdown(("arm", *map(str, left)), corrupted),
        "readability": tables.markdown(("arm", "step", "own reader", "frozen base", "NLL, own", "NLL, base"), read),
        "written": tables.markdown(("model", *head), faithfulness.shares(part("written"))),
    }
    return {name: f"\n{text}\n" for name, text in sections.items()}


NLLS = ("own_nll", "frozen_nll")


def draw(lines: Sequence[dict], file: Path) -> None:
    """Answers by the place of the edit, and the two readers over steps."""
    figure, (left, middle, right) = figures.grid(3, 3, 4, 3)
    arms = [line for line in lines if line["part"] == "edits" and "left" in line]
    for axes, rest, name, x in (
        (left, "continued", "followed", "moves left after the edit"),
        (middle, "kept", "right", "token replaced: moves left after it"),
    ):
        shown = []
        for colour, (arm, of) in zip(figures.COLOURS, frames.by(arms, "arm").items(), strict=False):
            by_left = sorted(frames.by([line for line in of if line["rest"] == rest], "left").items())
            if by_left and arm not in READABLE[1:]:
                places = [n for n, _ in by_left]
                shares = [faithfulness.mean(those, name) for _, those in by_left]
                shown.append(Curve(arm.partition(",")[0], places, shares, colour))
        figures.curves(
            axes, shown, x, "answers that follow the edit" if name == "followed" else "right answers", (0, 1.03)
        )
        figures.level(axes, faithfulness.CHANCE)
        axes.legend(fontsize=7, frameon=False, loc="center right")
    read = [line for line in lines if line["part"] == "readability"]
    readers = []
    for colour, (arm, of) in zip(figures.COLOURS, frames.by(read, "arm").items(), strict=False):
        by_step = sorted(frames.by(of, "step").items())
        for name, style in (("own", "-"), ("frozen", "--")):
            label = f"{arm}{', read by the base' * (name == 'frozen')}"
            steps, shares = [step for step, _ in by_step], [faithfulness.mean(those, name) for _, those in by_step]
            readers.append(Curve(label, steps, shares, colour, line=style))
    figures.curves(right, readers, "step", "right answers", (0, 1.03))
    if readers:
        right.legend(fontsize=7, frameon=False)
    figures.save(figure, file)


def main() -> None:
    parser = flags.parser(__doc__)
    parser.add_argument(
        "run", nargs="*", type=Path, metavar="RUN", help="run directories, each measured for its report"
    )
    parser.add_argument("--runs", nargs="+", default=[], metavar="LABEL=BASE=FOLDER")
    parser.add_argument("--written", nargs="+", default=[], metavar="LABEL=NAME=MODEL")
    parser.add_argument("--items", type=int, default=500, help="questions")
    parser.add_argument("--out", type=Path, default=HERE)
    parser.add_argument(
        "--show", type=Path, metavar="FOLDER", help="the tables of its results.jsonl, also in its README.md"
    )
    flags.overriding(parser, "--set", "as it was given to sweep.py, without model.source")
    args = parser.parse_args()
    with entry.errors():
        entry.prepare_jax()
        for path in args.run:
            files.write_records(path / faithfulness.FILE, list(of_run(path, args.items)))
            print(f"{path / faithfulness.FILE} is what qstar-report {path} shows", flush=True)
        for said in args.runs:
            label, source, folder = said.split("=", 2)
            record(args.out, of_runs(int(label), source, Path(folder), args.items, args.set))
        problems = CupsEval(items=args.items, min_moves=MOVES, max_moves=MOVES).problems()
        for said in args.written:
            label, name, source = said.split("=", 2)
            who = {"part": "written", "base": int(label), "model": name}
            record(args.out, ({**who, **line} for line in written(runs.load_model(source), problems)))
        if args.show:
            lines = frames.lines(args.show / RESULTS)
            sections, page = texts(lines), args.show / "README.md"
            print("".join(f"## {name}\n{text}" for name, text in sections.items()))
            if page.is_file():
                tables.fill(page, sections)
            draw(lines, args.show / "faithfulness.png")


if __name__ == "__main__":
    main()
