"""Answers on disk: a journal while questions are answered, a Parquet file when all are.

The journal's first line says what is evaluated (which questions, of which weights, how, with what seed); every further
line holds the rows of one batch. A process that is killed leaves whole lines and at most one incomplete one, which is
dropped; the next process asks what is missing. What was written for another evaluation is never mixed in and never
overwritten.
"""

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from qstar import files
from qstar.evals.measure import ItemRow
from qstar.files import Json, JsonObject
from qstar.methods.protocol import TOKEN_IDS

KIND = "a line of an evaluation's journal"
METADATA = b"qstar"  # of a Parquet file: what was evaluated, as JSON


class Journal:
    """The rows of one measure in one folder, `NAME.jsonl` and then `NAME.parquet`.

    Of several processes each writes a file of its own, `NAME.1.jsonl` and so on, and the first one finishes.

    Args:
        identity: nested plain values that tell this evaluation from others.
        process: the number of this process.

    Raises ValueError where the folder has rows of another evaluation under this name, or a file that is none.
    """

    def __init__(self, folder: Path, name: str, identity: JsonObject, process: int = 0):
        self._first, self._finished = process == 0, folder / f"{name}.parquet"
        self._open = folder / (f"{name}.{process}.jsonl" if process else f"{name}.jsonl")
        self._identity = json.loads(json.dumps(identity))
        self.rows: list[ItemRow] | None = None  # of all items, where all are answered
        self.batches: dict[int, list[ItemRow]] = {}  # answered so far
        files.make(folder)
        if self._finished.is_file():
            table = read(self._finished)
            self._check(identity_of(table), self._finished)
            self.rows = table.to_pylist()
            self._remove()  # a kill may have come between the two files
        else:
            for file in self._of_others():
                self._read(file)
            self._resume()

    def _resume(self) -> None:
        whole = self._read(self._open)
        if whole:
            os.truncate(self._open, sum(len(line.raw) for line in whole))
        else:  # nothing yet, or not even the first line
            files.write_records(self._open, [self._identity])

    def _read(self, file: Path) -> list[files.Line]:
        """The whole lines of a file, their batches kept."""
        whole, seen = files.lines(file, KIND), set()
        if whole:
            self._check(whole[0].record, file)
        for line in whole[1:]:
            files.check(line.record, line.where, KIND, batch=int, rows=list)
            for row in line.record["rows"]:
                if not isinstance(row, dict):
                    raise ValueError(f"{line.where}: a row is {row!r}, expected an object; {files.WAY_OUT}")
                files.check(row, line.where, KIND, item=str, thoughts=str, draw=int)
            if line.record["batch"] in seen:
                raise ValueError(f"{line.where}: batch {line.record['batch']} is there twice; {files.WAY_OUT}")
            seen.add(line.record["batch"])
            self.batches[line.record["batch"]] = line.record["rows"]
        return whole

    def _of_others(self) -> list[Path]:
        """The files of other processes, of this run or of one before it."""
        written = re.compile(rf"{re.escape(self._finished.stem)}(\.\d+)?\.jsonl")
        others = (file for file in self._finished.parent.iterdir() if file != self._open)
        return sorted(file for file in others if written.fullmatch(file.name))

    def _remove(self) -> None:
        if self._first:
            for file in (self._open, *self._of_others()):
                file.unlink(missing_ok=True)

    def _check(self, recorded: JsonObject, file: Path) -> None:
        before, now = _flat(recorded), _flat(self._identity)
        earlier = {f"method.{name}" for name in TOKEN_IDS}
        keys = [key for key in {**before, **now} if before.get(key) != now.get(key) and key not in earlier]
        if keys:
            changes = "\n  ".join(f"{key} = {_short(before.get(key))}, now {_short(now.get(key))}" for key in keys)
            raise ValueError(
                f"{file} holds answers of another evaluation:\n  {changes}\nname another folder with out=FOLDER"
            )

    def append(self, batch: int, rows: Sequence[ItemRow]) -> None:
        """Rows of one batch, on disk when this returns."""
        files.append(self._open, [{"batch": batch, "rows": list(rows)}], durable=True)

    def finish(self, rows: Sequence[ItemRow]) -> None:
        """Rows of all items, in the order of the file; the first process writes them."""
        if not self._first:
            return
        table = pa.Table.from_pylist(list(rows))
        table = table.replace_schema_metadata({METADATA: json.dumps(self._identity).encode()})
        written = pa.BufferOutputStream()
        pq.write_table(table, written)
        files.write(self._finished, written.getvalue())
        self._remove()


def _flat(tree: Json, prefix: str = "") -> JsonObject:
    if not isinstance(tree, dict):
        return {prefix: tree}
    return {
        key: value for name, child in tree.items() for key, value in _flat(child, f"{prefix}.{name}".strip(".")).items()
    }


def _short(value: Json) -> str:
    text = str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


# --- reading ------------------------------------------------------------------------------------------------------


def read(file: str | Path) -> pa.Table:
    """One row an item, way and draw; `.to_pandas()` makes it a data frame. `identity_of` says what was evaluated.

    Raises ValueError for a file that is no Parquet, or was not written by an evaluation.
    """
    try:
        table = pq.read_table(file)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{file} is no Parquet file: {error}") from error
    missing = [name for name in ("item", "thoughts", "draw") if name not in table.column_names]
    if missing or METADATA not in (table.schema.metadata or {}):
        lacks = f"lacks the columns {', '.join(missing)}" if missing else "does not say what was evaluated"
        raise ValueError(f"{file} {lacks}: qstar-evaluate out=FOLDER writes such files")
    return table


def identity_of(table: pa.Table) -> JsonObject:
    """What was evaluated, as `qstar-evaluate` wrote it down."""
    return json.loads(table.schema.metadata[METADATA])


def load(folder: str | Path) -> dict[str, pa.Table]:
    """The finished answers in the folder of an evaluation, by task; of all its steps, which have a column `step`.

    The folder of one step, FOLDER/step_N, is read as well, without that column. Raises FileNotFoundError where there
    are none.
    """
    folder = Path(folder)
    if any(folder.glob("*.parquet")):
        return load_step(folder)
    by_task: dict[str, list[pa.Table]] = {}
    for number, step in _steps(folder):
        for task, table in load_step(step).items():
            numbers = pa.array([number] * table.num_rows, pa.int64())
            by_task.setdefault(task, []).append(table.append_column("step", numbers).replace_schema_metadata())
    if not by_task:
        raise FileNotFoundError(
            f"no answers in {folder}: qstar-evaluate out=FOLDER writes FOLDER/step_N/TASK.parquet when all questions "
            "of a task are answered"
        )
    return {task: pa.concat_tables(tables, promote_options="default") for task, tables in by_task.items()}


def load_step(folder: str | Path) -> dict[str, pa.Table]:
    """The finished answers of one step, by task; with the folder of an evaluation, of its only step.

    Raises FileNotFoundError where there are none, ValueError where there are several steps to choose from.
    """
    folder = Path(folder)
    steps = [step for _, step in _steps(folder)]
    if len(steps) > 1:
        raise ValueError(f"{folder} holds several steps; name one: {', '.join(map(str, steps))}")
    files = sorted(folder.glob("*.parquet")) or sorted(folder.glob("step_*/*.parquet"))
    if not files:
        raise FileNotFoundError(
            f"no answers in {folder}: qstar-evaluate out=FOLDER writes FOLDER/step_N/TASK.parquet when all questions "
            "of a task are answered"
        )
    return {file.stem: read(file) for file in files}


def _steps(folder: Path) -> list[tuple[int, Path]]:
    """Steps with answers below the folder of an evaluation, ascending."""
    steps = {file.parent for file in folder.glob("step_*/*.parquet") if file.parent.name[5:].isdigit()}
    return sorted((int(step.name[5:]), step) for step in steps)
