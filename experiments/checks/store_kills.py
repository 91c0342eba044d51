"""What does the rationale store lose when its writer is killed? SIGKILL at random moments of an endless append.

A process appends batches as fast as it can and notes each before and after; it is killed, and the next one continues
after the last batch in the store. After every kill all new files are read back and compared with what was to be
written.

    python experiments/checks/store_kills.py --kills 50      # a minute or two on two CPU cores
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from qstar import files
from qstar.cli import flags
from qstar.data import rationales
from qstar.data.rationales import Sample, Store
from qstar.reports import tables

MODEL, TASK = "model of the check", "task of the check"
ROWS = 16  # in a batch
LONGEST = 0.5  # seconds that a writer has then, at most
FINISHED = (0, 2)  # batches before the clock of a death starts; they take turns, so that a slow machine gets on too


@dataclass
class Outcome:
    """What was counted over all kills."""

    kills: int = 0
    inside: int = 0  # kills that came while a batch was in flight
    leftovers: int = 0  # of these, kills that left a partial file
    batches: int = 0
    lost: list[int] = field(default_factory=list)  # rows lost, by kill
    acknowledged_lost: int = 0  # rows of batches that were reported as on disk and are not there
    corrupt: int = 0  # files that cannot be read, or that hold something else
    doubled: int = 0


def sample(batch: int, row: int) -> Sample:
    """What row `row` of batch `batch` is: nothing but a function of the two."""
    rng = random.Random(batch * ROWS + row)
    tokens = [rng.randrange(1000) for _ in range(rng.randrange(1, 60))]
    text = " ".join(map(str, tokens))
    correct = rng.random() < 0.5
    return Sample(
        problem=f"train-{batch}-{row}", split="train", question=text[:20], gold="1", prompt=f"Q: {text[:20]}\nA:",
        hint="", temperature=1.0, top_k=0, top_p=1.0, seed=7, checkpoint="step 0", tokens=tokens,
        logprobs=[-rng.random() for _ in tokens], written=text, stored=text if correct else None,
        answer="1" if correct else "2", correct=correct, reason="right" if correct else "wrong", grader="exact",
        grader_version=1, prompt_tokens=9, generated_tokens=len(tokens), finished=True,
    )  # fmt: skip


def batch_of(number: int) -> list[Sample]:
    return [sample(number, row) for row in range(ROWS)]


def write_forever(folder: Path, notes: Path) -> None:
    """The process that is killed."""
    store = Store.create(folder, MODEL, TASK)
    number = len(store.batches(0))
    with notes.open("ab", buffering=0) as out:
        while True:
            samples = batch_of(number)
            out.write(f"begun {number}\n".encode())
            store.append(0, number, samples)
            out.write(f"done {number}\n".encode())
            number += 1


def kill_one(folder: Path, notes: Path, finished: int, delay: float) -> None:
    """Start a writer, and kill it `delay` seconds after it began, and finished so many batches."""
    notes.unlink(missing_ok=True)
    writer = subprocess.Popen([sys.executable, __file__, "--write", str(folder), "--notes", str(notes)])
    deadline = time.monotonic() + 120
    while not _got_on(notes, finished) and time.monotonic() < deadline:
        if writer.poll() is not None:
            raise RuntimeError(f"the writer ended with status {writer.returncode}")
        time.sleep(0.002)
    time.sleep(delay)
    writer.send_signal(signal.SIGKILL)
    writer.wait()


def _got_on(notes: Path, finished: int) -> bool:
    text = notes.read_text() if notes.is_file() else ""
    return bool(text) and text.count("done") >= finished


def _numbers(notes: str, kind: str) -> set[int]:
    return {int(line.split()[1]) for line in notes.splitlines() if line.startswith(kind)}


def examine(folder: Path, notes: str, seen: int, outcome: Outcome) -> int:
    """Compare what is there with what was written since batch `seen`; returns the number of batches there."""
    store = Store.open(folder, MODEL, TASK)
    begun, done, there = _numbers(notes, "begun"), _numbers(notes, "done"), set(store.batches(0))
    outcome.kills += 1
    outcome.inside += bool(begun - done)
    outcome.leftovers += any(folder.glob(f"*{files.PARTIAL}"))
    outcome.lost.append(ROWS * len(begun - there))
    outcome.acknowledged_lost += ROWS * len(done - there)
    outcome.corrupt += sum(not _whole(folder, store, number) for number in there if number >= seen)
    return len(there)


def _whole(folder: Path, store: Store, number: int) -> bool:
    """Whether the file of this batch is, bit for bit, what an undisturbed writer writes."""
    with tempfile.TemporaryDirectory() as other:
        fresh = Store.create(other, MODEL, TASK)
        fresh.append(0, number, batch_of(number))
        name = next(Path(other).glob("*.parquet")).name
        return (Path(other) / name).read_bytes() == (folder / name).read_bytes()


def rounds(kills: int, seed: int, scratch: Path) -> Iterator[Outcome]:
    """The counts after each kill; after the last, all rows are read at once."""
    rng, outcome, seen = random.Random(seed), Outcome(), 0
    folder, notes = scratch / rationales.FOLDER, scratch / "notes"
    for number in range(kills):
        kill_one(folder, notes, FINISHED[number % 2], rng.uniform(0, LONGEST))
        seen = examine(folder, notes.read_text(), seen, outcome)
        yield outcome
    rows = Store.create(folder, MODEL, TASK).rows(columns=["problem"])["problem"].to_pylist()
    outcome.batches, outcome.doubled = seen, len(rows) - len(set(rows))
    if rows != [f"train-{batch}-{row}" for batch in range(seen) for row in range(ROWS)]:
        outcome.corrupt += 1
    yield outcome


def table(outcome: Outcome) -> str:
    counts = {
        "kills (SIGKILL)": outcome.kills,
        "of these with a batch in flight": outcome.inside,
        "of these that left a partial file": outcome.leftovers,
        "batches in the store at the end": outcome.batches,
        "rows in the store at the end": outcome.batches * ROWS,
        "rows lost, all kills together": sum(outcome.lost),
        f"rows lost by one kill, at most (a batch has {ROWS})": max(outcome.lost, default=0),
        "rows lost that were reported as on disk": outcome.acknowledged_lost,
        "rows doubled": outcome.doubled,
        "files corrupt": outcome.corrupt,
    }
    return tables.markdown(("count", ""), counts.items()).removesuffix("\n")


def main() -> None:
    parser = flags.parser(__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--notes", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.write:
        write_forever(given.write, given.notes)
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as scratch:
        outcome = Outcome()
        for outcome in rounds(given.kills, given.seed, Path(scratch)):
            print(f"\r{outcome.kills} kills", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    print(table(outcome))


if __name__ == "__main__":
    main()
