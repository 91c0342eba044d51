"""The rationale store: every sample of a self-training run with its whole history, right or wrong, in Parquet. A search
keeps its trees in one as well, a row for each step.

Append-only, one file a batch: written under another name, synced, renamed into place, the folder synced. A killed
writer loses at most the batch in flight; what it left is ignored by readers and removed by the next writer.
Names carry iteration and batch, so a batch that is repeated after a crash replaces itself bit for bit and never
doubles. `store.json` says which model, on which task, wrote the rows, and lists the files with their checksums: one
that is missing, altered or a copy of another is an error where its rows are requested. Queries are pyarrow expressions:

    Store.open("runs/star/rationales").rows(CORRECT & ~HINTED & of_iteration(3), columns=["question", "stored"])
"""

import dataclasses
import itertools
import re
import shlex
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.fs
import pyarrow.parquet as pq

from qstar import files
from qstar.data import trl

FORMAT = 1
FOLDER = "rationales"  # of a run directory
ABOUT = "store.json"
PART = re.compile(r"iteration_(\d+)_batch_(\d+)\.parquet")

Query = ds.Expression
"""A condition on the rows of a store: `CORRECT & of_iteration(3)`."""
CORRECT = ds.field("correct")
WRONG = ~ds.field("correct")
HINTED = ds.field("hinted")
FINISHED = ds.field("finished")


def of_iteration(iteration: int) -> Query:
    """Rows of one iteration; no other file is read."""
    return ds.field("iteration") == iteration


def up_to(iteration: int) -> Query:
    """Rows of this iteration and those before it."""
    return ds.field("iteration") <= iteration


def of_split(split: str) -> Query:
    return ds.field("split") == split


@dataclass(frozen=True)
class Place:
    """The place of a step of a search in the tree of its question, and what it was worth (`search/interface.py`)."""

    node: int  # number of the node; 0: the prompt
    parent: int  # -1: of the prompt
    draw: int  # how often its parent was continued before; -1: with the likeliest tokens
    final: bool  # the solution ends with it
    rollout: bool  # it estimates the value of another node
    chosen: bool  # the last step of the solution that the search gives
    scores: Mapping[str, float]  # by scorers that were asked about it
    value: float | None  # that the search ranked it by
    margin: float | None  # between the probabilities of the answer's two likeliest tokens
    flops: int  # of writing it; of the prompt: of reading it
    scored_tokens: int  # read to score it
    scoring_flops: int


@dataclass(frozen=True)
class Sample:
    """One rationale as it was sampled and graded, or a step of one; T tokens were written."""

    problem: str  # id of the question within its data set
    split: str
    question: str
    gold: str
    prompt: str  # all that the model continued: few-shot examples, question, hint
    hint: str  # answer that was shown; "" where none was
    temperature: float
    top_k: int  # 0: no limit
    top_p: float
    seed: int
    checkpoint: str  # the weights that wrote it: a hash, or run and step
    tokens: Sequence[int]  # [T] as sampled
    logprobs: Sequence[float]  # [T] the sampler's, natural log
    written: str  # the text of the tokens
    stored: str | None  # the completion as it is trained on, free of hints; None where it has no such form
    answer: str  # what the grader found; "" where nothing was
    correct: bool
    reason: str  # of the verdict
    grader: str
    grader_version: int
    prompt_tokens: int
    generated_tokens: int
    finished: bool  # a stop was written, not the limit met
    group: str = ""  # of the question, for tables
    margins: Sequence[float] | None = None  # [T] log-prob of the likeliest token less that of the second
    weight: float | None = None  # given when it was sampled; None where the loop weighs later
    place: Place | None = None  # of a step of a search

    @property
    def hinted(self) -> bool:
        return self.hint != ""

    def __post_init__(self):
        for name in ("logprobs", "margins"):
            values = getattr(self, name)
            if values is not None and len(values) != len(self.tokens):
                raise ValueError(f"sample of {self.problem}: {len(values)} {name} for {len(self.tokens)} tokens")


PLACE = pa.struct(
    {
        "node": pa.int32(),
        "parent": pa.int32(),
        "draw": pa.int32(),
        "final": pa.bool_(),
        "rollout": pa.bool_(),
        "chosen": pa.bool_(),
        "scores": pa.map_(pa.string(), pa.float64()),
        "value": pa.float64(),
        "margin": pa.float64(),
        "flops": pa.int64(),
        "scored_tokens": pa.int64(),
        "scoring_flops": pa.int64(),
    }.items()
)
SCHEMA = pa.schema(
    [
        pa.field(name, kind, nullable=name in ("stored", "margins", "weight", "place"))
        for name, kind in {
            "iteration": pa.int32(),
            "batch": pa.int32(),
            "problem": pa.string(),
            "split": pa.string(),
            "group": pa.string(),
            "question": pa.string(),
            "gold": pa.string(),
            "prompt": pa.string(),
            "hint": pa.string(),
            "hinted": pa.bool_(),
            "temperature": pa.float64(),
            "top_k": pa.int32(),
            "top_p": pa.float64(),
            "seed": pa.int64(),
            "checkpoint": pa.string(),
            "model": pa.string(),  # fingerprint
            "tokens": pa.list_(pa.int32()),
            "logprobs": pa.list_(pa.float32()),
            "margins": pa.list_(pa.float32()),
            "written": pa.string(),
            "stored": pa.string(),
            "answer": pa.string(),
            "correct": pa.bool_(),
            "reason": pa.string(),
            "grader": pa.string(),
            "grader_version": pa.int32(),
            "prompt_tokens": pa.int32(),
            "generated_tokens": pa.int32(),
            "finished": pa.bool_(),
            "weight": pa.float64(),
            "place": PLACE,
        }.items()
    ]
)


class Store:
    """The rationales of one model on one task, in one folder; made by `create` (to write) or `open` (to read).

    Several processes may write batches of their own at the same time: one that has created the store and lists what is
    there in the end (`collect`), others that have opened it.
    """

    def __init__(self, folder: Path, model: str, task: str):
        self.folder, self.model, self.task = folder, model, task
        self._lists = False  # what it appends
        self._verified: set[tuple[str, str]] = set()  # names of files, with their checksums

    @classmethod
    def create(cls, folder: str | Path, model: str, task: str) -> "Store":
        """The store that one process writes: a new one, or that of an earlier process, with its leftovers removed.

        Args:
            model: fingerprint of the model that self-training started from.
            task: what tells its questions from others.

        Raises ValueError for a store of another model or task, or a folder with Parquet files that is not a store.
        """
        folder = Path(folder)
        if not (folder / ABOUT).is_file():
            _begin(folder, model, task)
        store = cls.open(folder, model, task)
        files.remove_partial(folder)
        store._lists = True
        store._list_what_is_there()
        return store

    @classmethod
    def open(cls, folder: str | Path, model: str | None = None, task: str | None = None) -> "Store":
        """A store to read, perhaps while it is written; removes nothing. `model` and `task` are checked where given.

        Raises FileNotFoundError where there is no store, ValueError where it is another one.
        """
        folder = Path(folder)
        about = _about(folder / ABOUT)
        for name, expected in (("model", model), ("task", task)):
            if expected is not None and about[name] != expected:
                raise ValueError(
                    f"{folder} holds rationales of {name} {about[name]!r}, this is {name} {expected!r}: "
                    "resume with the former, or name another run directory"
                )
        return cls(folder, about["model"], about["task"])

    def append(self, iteration: int, batch: int, samples: Sequence[Sample]) -> None:
        """Add the samples of one batch; they are on disk when this returns. The same batch again replaces itself.

        Raises ValueError for samples whose values do not fit their columns, OSError where they cannot be written.
        """
        if not samples:
            raise ValueError(f"batch {batch} of iteration {iteration} has no samples: leave it out")
        written = pa.BufferOutputStream()
        pq.write_table(self._table(iteration, batch, samples), written, compression="zstd")
        contents, name = written.getvalue(), part_name(iteration, batch)
        files.write(self.folder / name, contents)
        if self._lists:
            self._list({name: {"rows": len(samples), "blake2b": files.checksum_of(contents)}})

    def collect(self, iteration: int, count: int) -> None:
        """Wait for the batches of an iteration, of which there are `count`, that other processes append, and list them.

        Raises ValueError as `files.await_all`.
        """
        files.await_all([self.folder / part_name(iteration, batch) for batch in range(count)])
        if self._lists:
            self._list_what_is_there()

    def batches(self, iteration: int) -> list[int]:
        """Numbers of the batches of an iteration that are on disk, ascending. Raises ValueError as `rows` does."""
        batch_files = {batch: file for (of, batch), file in self._files().items() if of == iteration}
        self._check(batch_files.values())
        return list(batch_files)

    def rows(self, where: Query | None = None, columns: Sequence[str] | None = None) -> pa.Table:
        """Rows for which `where` holds, in the order of iteration, batch and sample.

        Raises ValueError for a file that is damaged, missing or a copy of another, and for columns that do not exist.
        """
        unknown = [name for name in columns or () if name not in SCHEMA.names]
        if unknown:
            raise ValueError(f"no columns {', '.join(unknown)}; there are {', '.join(SCHEMA.names)}")
        dataset = self._dataset()
        self._check(self.folder / Path(fragment.path).name for fragment in dataset.get_fragments(where))
        try:
            return dataset.to_table(columns=None if columns is None else list(columns), filter=where)
        except (pa.ArrowInvalid, OSError) as error:
            raise ValueError(f"{self._damaged() or self.folder}: {error}") from error

    def _files(self) -> dict[tuple[int, int], Path]:
        """Complete files by (iteration, batch), ascending; those that are listed and missing too."""
        names = {file.name for file in self.folder.iterdir()} | self._listed().keys()
        numbered = {numbers: self.folder / name for name in names if (numbers := _numbers(name))}
        return dict(sorted(numbered.items()))

    def _dataset(self) -> ds.FileSystemDataset:
        parts = self._files()
        # Says what the names say, so that a query for one iteration opens no other file.
        contents = [of_iteration(iteration) for iteration, _ in parts]
        return ds.FileSystemDataset.from_paths(
            [str(file.absolute()) for file in parts.values()],
            schema=SCHEMA,
            format=ds.ParquetFileFormat(),
            filesystem=pyarrow.fs.LocalFileSystem(),
            partitions=contents,
        )

    # --- what was written, and whether it is there -----------------------------------------------------------------

    def _listed(self) -> dict[str, dict]:
        """Rows and checksum of the files that were written, by name. Stores of earlier versions list none."""
        return _about(self.folder / ABOUT).get("parts", {})

    def _list(self, parts: Mapping[str, dict]) -> None:
        about = _about(self.folder / ABOUT)
        files.write_json(self.folder / ABOUT, about | {"parts": about.get("parts", {}) | parts})
        self._verified |= {(name, part["blake2b"]) for name, part in parts.items()}

    def _list_what_is_there(self) -> None:
        """List files of an earlier version, and of a writer that was killed between a file and its listing."""
        listed, parts = self._listed(), {}
        for numbers, file in self._files().items():
            if file.name not in listed:
                parts[file.name] = {"rows": _rows_of(file, numbers), "blake2b": files.checksum(file)}
        if parts:
            self._list(parts)

    def _check(self, asked: Iterable[Path]) -> None:
        """Raise ValueError for the first of these files that is not what was written, and for strangers among all."""
        stranger = next((file for file in sorted(self.folder.glob("*.parquet")) if not _numbers(file.name)), None)
        if stranger is not None:
            raise ValueError(f"{stranger} is not a file of this store, which are named {PART.pattern}: move it away")
        listed = self._listed()
        for file in asked:
            part = listed.get(file.name)
            if part is None:  # of an earlier version, or written this moment
                _rows_of(file, _numbers(file.name))
            elif (file.name, part["blake2b"]) not in self._verified:
                self._verify(file, part)
                self._verified.add((file.name, part["blake2b"]))

    def _verify(self, file: Path, part: dict) -> None:
        if not file.is_file():
            fault = f"is missing, {part['rows']} samples were written to it"
        elif files.checksum(file) != part["blake2b"]:
            fault = f"holds other bytes than were written{_unreadable(file)}"
        else:
            return
        raise ValueError(
            f"{file}: {fault}. Put back a copy of it, or continue without its samples (an iteration that is not done "
            f"samples them again):\n{forgetting(self.folder, [file.name])}"
        )

    def _damaged(self) -> Path | None:
        return next((file for file in self._files().values() if _unreadable(file)), None)

    def _table(self, iteration: int, batch: int, samples: Sequence[Sample]) -> pa.Table:
        shared = {"iteration": iteration, "batch": batch, "model": self.model}
        names = [field.name for field in dataclasses.fields(Sample)] + ["hinted"]
        try:
            columns = {name: [getattr(sample, name) for sample in samples] for name in names}
            columns |= {name: [value] * len(samples) for name, value in shared.items()}
            columns["place"] = [place and _plain(place) for place in columns["place"]]
            arrays = [_column(field, columns[field.name]) for field in SCHEMA]
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise ValueError(f"batch {batch} of iteration {iteration}: {error}") from error
        return pa.Table.from_arrays(arrays, schema=SCHEMA)


def forget(folder: str | Path, name: str) -> None:
    """Take a damaged or missing file off the list of a store; what is there of it is kept as NAME.damaged."""
    file, about = Path(folder) / name, _about(Path(folder) / ABOUT)
    if file.exists():
        file.replace(file.with_name(f"{name}.damaged"))
    parts = {listed: part for listed, part in about.get("parts", {}).items() if listed != name}
    files.write_json(Path(folder) / ABOUT, about | {"parts": parts})


def forgetting(folder: str | Path, names: Sequence[str]) -> str:
    """The command line that forgets these files."""
    calls = [f"rationales.forget({str(folder)!r}, {name!r})" for name in names]
    return shlex.join([sys.executable, "-c", "; ".join(["from qstar.data import rationales", *calls])])


def unique(table: pa.Table) -> pa.Table:
    """The first of all rows that tell the same question the same stored text. Wants columns `problem` and `stored`."""
    seen, first = set(), []
    for pair in zip(table["problem"].to_pylist(), table["stored"].to_pylist(), strict=True):
        first.append(pair not in seen)
        seen.add(pair)
    return table.filter(pa.array(first, pa.bool_()))


def verifier_examples(store: Store, prompts: Mapping[str, str] | None = None) -> Iterator[dict]:
    """What a verifier learns from (V-STaR, Hosseini et al. 2024): samples without a hint, right or wrong.

    Each is {prompt, completion, completion_ids, label, problem, iteration}, in the order of the store; the completion
    is all that was written, so that its form does not tell the label, and its ids are those that were sampled. To a
    file of them:

        examples.write("verifier.jsonl", list(verifier_examples(Store.open("runs/star/rationales"))))

    Args:
        prompts: by problem, in place of those that were sampled from, which may hold few-shot examples.
    """
    columns = ["problem", "iteration", "prompt", "written", "tokens", "correct"]
    for row in store.rows(~HINTED, columns).to_pylist():
        yield {
            "prompt": row["prompt"] if prompts is None else prompts[row["problem"]],
            "completion": row["written"],
            "completion_ids": row["tokens"],
            "label": int(row["correct"]),
            "problem": row["problem"],
            "iteration": row["iteration"],
        }


MOST_PAIRS = 32  # of a question: 24 right and 24 wrong samples make 576


def preference_pairs(examples: Iterable[Mapping], most: int = MOST_PAIRS) -> Iterator[dict]:
    """V-STaR's preferences: each right completion of a question with each wrong one, those of all iterations together.

    Of a question with more than `most` pairs that many are taken, at equal distances. (The paper names no bound.)

    Takes lines as `verifier_examples` gives them, and others without ids; equal texts of a question count once, empty
    ones not at all. A pair is {prompt, chosen, rejected, problem}, with chosen_ids and rejected_ids if there are ids.
    """
    questions: dict[str, dict[tuple[int, str], Mapping]] = {}
    for example in examples:
        if example["completion"]:
            texts = questions.setdefault(example["problem"], {})
            texts.setdefault((example["label"], example["completion"]), example)
    for texts in questions.values():
        right, wrong = ([example for (label, _), example in texts.items() if label == side] for side in (1, 0))
        pairs = list(itertools.product(right, wrong))
        count = min(len(pairs), most)
        for chosen, rejected in (pairs[i * len(pairs) // count] for i in range(count)):
            yield trl.preference(chosen, rejected) | {"problem": chosen["problem"]}


def _plain(place: Place) -> dict[str, object]:
    return vars(place) | {"scores": list(place.scores.items())}


def _column(field: pa.Field, values: list) -> pa.Array:
    try:
        array = pa.array(values, field.type)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise type(error)(f"column {field.name}: {error}") from error
    if array.null_count and not field.nullable:
        raise pa.ArrowInvalid(f"column {field.name}: row {values.index(None)} has no value")
    return array


def part_name(iteration: int, batch: int) -> str:
    return f"iteration_{iteration:04d}_batch_{batch:05d}.parquet"


def _numbers(name: str) -> tuple[int, int] | None:
    match = PART.fullmatch(name)
    return match and (int(match[1]), int(match[2]))


def _unreadable(file: Path) -> str:
    """Why a file cannot be read, in brackets; "" where it can."""
    try:
        pq.read_table(file)
    except (pa.ArrowException, OSError) as error:
        return f" ({str(error).splitlines()[0]})"
    return ""


def _rows_of(file: Path, numbers: tuple[int, int]) -> int:
    """How many rows a file holds. Raises ValueError where they are of another iteration or batch than its name says."""
    try:
        table = pq.read_table(file, columns=["iteration", "batch"])
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{file}: {error}; put back a copy of it, or move it away") from error
    inside = {(row["iteration"], row["batch"]) for row in table.to_pylist()}
    if inside != {numbers}:
        of = " and ".join(f"batch {batch} of iteration {iteration}" for iteration, batch in sorted(inside)) or "nothing"
        raise ValueError(f"{file} holds samples of {of}: is it a copy of another file? Move it away")
    return table.num_rows


def _begin(folder: Path, model: str, task: str) -> None:
    files.make(folder)
    if any(folder.glob("*.parquet")):
        raise ValueError(f"{folder} holds Parquet files but no {ABOUT}: it is not a store of rationales; name another")
    files.write_json(folder / ABOUT, {"format": FORMAT, "model": model, "task": task})
    files.sync(folder.parent)


def _about(file: Path) -> files.JsonObject:
    if not file.is_file():
        message = f"{file.parent} is not a store of rationales (no {ABOUT} in it): self-training makes one"
        raise FileNotFoundError(message)
    try:
        about = files.read_json(file)
        needed = {name: about[name] for name in ("format", "model", "task")}
        listed = {name: (part["rows"], part["blake2b"]) for name, part in about.get("parts", {}).items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{file} does not say which model and task its store is of ({error!r})") from error
    if needed["format"] != FORMAT:
        raise ValueError(f"{file} is of format {needed['format']!r}, this qstar reads {FORMAT}: use the qstar it is of")
    stranger = next((name for name in listed if not _numbers(name)), None)
    if stranger is not None:
        raise ValueError(f"{file} lists {stranger!r}, not a name of a file of the store: put back a copy of it")
    return about
