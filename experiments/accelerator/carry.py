"""Files for a machine without a network: data and weights in pieces of limited size, and the names of wheels."""

import hashlib
import importlib.metadata
import io
import subprocess
import sys
import tarfile
import tomllib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from packaging import utils
from packaging.requirements import Requirement

from qstar import files
from qstar.paths import ROOT

PIECE_BYTES = 35_000_000  # with a checkout and the wheels less than 60 MB
MANIFEST, WHEELS = "manifest.json", "wheels.txt"
SOURCES = (
    "openlogic", "napkin", "discrete_book", "gsm8k/train.jsonl", "gsm8k/test.jsonl",
    "commonsenseqa/train_rand_split.jsonl", "commonsenseqa/dev_rand_split.jsonl", "svamp",
)  # fmt: skip
"""Of the folder of data sets: what parts d and f read."""
PRESENT = ("jax", "flax", "optax", "orbax-checkpoint")
"""Packages that the machine has, with all that they need."""
T = TypeVar("T")
SUMS = Path(__file__).resolve().parents[1] / "star" / "smollm2" / "sums.py"


def prepare(folder: Path, gguf: Path | None, sources: str | Path | None) -> str:
    """Write weights, data sets and sums into pieces of at most 35 MB; returns what to do with them.

    Raises FileNotFoundError for weights or a data set that is not there.
    """
    if gguf is None or not Path(gguf).is_file():
        raise FileNotFoundError(f"--gguf {gguf}: expected the file SmolLM2-135M-Instruct.Q4_1.gguf")
    if sources is None:
        raise FileNotFoundError("--sources is missing, and QSTAR_DATA is not set: expected the folder of the data sets")
    missing = [name for name in SOURCES if not (Path(sources) / name).exists()]
    if missing:
        raise FileNotFoundError(f"{sources} lacks {', '.join(missing)}")
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run([sys.executable, str(SUMS), str(folder / "sums")], check=True)
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz", compresslevel=6) as tar:
        tar.add(gguf, "model.gguf")
        tar.add(folder / "sums", "sums")
        for name in SOURCES:
            tar.add(Path(sources) / name, name)
    pieces = {}
    for number, start in enumerate(range(0, archive.tell(), PIECE_BYTES)):
        content = archive.getvalue()[start : start + PIECE_BYTES]
        pieces[f"piece.{number:03}"] = hashlib.sha256(content).hexdigest()
        (folder / f"piece.{number:03}").write_bytes(content)
    files.write_json(folder / MANIFEST, pieces)
    (folder / WHEELS).write_text("".join(f"{line}\n" for line in wheels()), encoding="utf-8")
    return (
        f"{folder}: {len(pieces)} pieces, {archive.tell() / 1e6:.0f} MB. Carry piece.*, {MANIFEST} and the wheels of "
        f"{WHEELS} (pip wheel --no-deps -r {folder / WHEELS}, with a Python of the version that is there), then:  "
        "python experiments/accelerator/all.py --data FOLDER"
    )


def wheels() -> Iterator[str]:
    """NAME==VERSION of what qstar and gguf need beyond `PRESENT`, in the versions that are installed here."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    required = [*project["dependencies"], *project["optional-dependencies"]["gguf"]]
    for name in sorted(_with_their_own(required) - _with_their_own(PRESENT)):
        version = _installed(importlib.metadata.version, name)
        yield f"{name}=={version}" if version else name


def _with_their_own(requirements: Iterable[str]) -> set[str]:
    """Names of these packages and of all that they need in turn."""
    known: set[tuple[str, str]] = set()
    waiting = [(requirement, "") for requirement in requirements]
    while waiting:
        requirement, extra = waiting.pop()
        parsed = Requirement(requirement)
        name = utils.canonicalize_name(parsed.name)
        if parsed.marker is None or parsed.marker.evaluate({"extra": extra}):
            for own in {"", *parsed.extras}:
                if (name, own) not in known:
                    known.add((name, own))
                    waiting += [(needed, own) for needed in _installed(importlib.metadata.requires, name) or ()]
    return {name for name, _ in known}


def _installed(ask: Callable[[str], T], name: str) -> T | None:
    try:
        return ask(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def unpacked(folder: Path, target: Path) -> Path:
    """Join and unpack what `prepare` wrote, once.

    Raises FileNotFoundError for a missing piece, ValueError for one that is damaged, or where `target` has other data.
    """
    pieces = _manifest(folder)
    if _has(target, pieces):
        return target
    content = joined(folder)
    with files.explained(target / MANIFEST):
        target.mkdir(parents=True, exist_ok=True)
        with tarfile.open(fileobj=io.BytesIO(content)) as tar:
            tar.extractall(target, filter="data")
    files.write_json(target / MANIFEST, pieces)  # last: it is complete
    return target


def joined(folder: Path) -> bytes:
    """The archive that `prepare` wrote, every piece checked."""
    content = b""
    for name, digest in _manifest(folder).items():
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder / name} is not there: carry all pieces of {folder / MANIFEST}")
        piece = (folder / name).read_bytes()
        if hashlib.sha256(piece).hexdigest() != digest:
            raise ValueError(f"{folder / name} is damaged: its SHA-256 is not that of {MANIFEST}; carry it again")
        content += piece
    return content


def _manifest(folder: Path) -> dict[str, str]:
    if not (folder / MANIFEST).is_file():
        raise FileNotFoundError(f"{folder / MANIFEST} is not there: expected a folder that --prepare wrote")
    return files.read_json(folder / MANIFEST)


def _has(target: Path, pieces: dict[str, str]) -> bool:
    """Was all of it unpacked there before? Raises ValueError where it was something else."""
    there = (target / MANIFEST).is_file()
    if there and files.read_json(target / MANIFEST) != pieces:
        raise ValueError(f"{target} holds the data of another --data or --size; give another --out")
    return there


def model(data: Path) -> str:
    """The language model of an unpacked folder."""
    return str(data / "model.gguf" if (data / "model.gguf").is_file() else data / "model")


def tiny(target: Path) -> Path:
    """Data sets of a few lines and a model of a few weights, in the places of the real ones: for a rehearsal."""
    if _has(target, {}):
        return target
    sums = [(a, b) for a in range(2, 8) for b in range(3, 9)]
    question = lambda a, b: f"Tom has {a} pens and buys {b}. How many?"  # noqa: E731
    books = "".join(f"{a} + {b} = {a + b}, for {b} + {a} is the same.\n<|doc|>\n" for a, b in sums)
    for name in ("openlogic", "napkin", "discrete_book", "gsm8k", "commonsenseqa", "sums"):
        (target / name).mkdir(parents=True, exist_ok=True)
    for name in ("openlogic", "napkin", "discrete_book"):
        files.write(target / name / f"{name}.txt", books)
    word_problems = [{"question": question(a, b), "answer": f"{a}+{b}={a + b}\n#### {a + b}"} for a, b in sums]
    choices = lambda a, b: [  # noqa: E731
        {"label": label, "text": str(a + b + i)} for i, label in enumerate("ABCDE")
    ]
    common = [
        {"id": f"{a}-{b}", "answerKey": "A",
         "question": {"stem": question(a, b), "question_concept": "pens", "choices": choices(a, b)}}
        for a, b in sums
    ]  # fmt: skip
    plain = [{"id": f"{a}-{b}", "question": f"{a} + {b}", "answer": str(a + b), "group": "1"} for a, b in sums]
    files.write_records(target / "gsm8k" / "train.jsonl", word_problems[:30])
    files.write_records(target / "gsm8k" / "test.jsonl", word_problems[30:])
    files.write_records(target / "commonsenseqa" / "train_rand_split.jsonl", common[:30])
    files.write_records(target / "commonsenseqa" / "dev_rand_split.jsonl", common[30:])
    for split, rows in (("train", plain[:20]), ("dev", plain[20:28]), ("test", plain[28:])):
        files.write_records(target / "sums" / f"{split}.jsonl", [{**row, "id": f"{split}-{row['id']}"} for row in rows])
    _tiny_model(target / "model")
    files.write_json(target / MANIFEST, {})
    return target


def _tiny_model(folder: Path) -> None:
    import string

    import jax
    import numpy as np

    from qstar import runs
    from qstar.data import tokenizer as tokenizers
    from qstar.models import lm
    from qstar.policy import Policy

    tokenizer = tokenizers.characters(string.printable, ("---",))
    shape = lm.LMConfig(
        vocab=tokenizer.size, width=16, layers=2, heads=2, kv_heads=1, head_size=8, ff=24, max_len=512, tied=True
    )
    params = jax.tree.map(np.asarray, lm.definition(shape).init(jax.random.key(0)))
    runs.save_model(folder, Policy.of_language_model(shape, params, tokenizer, "tiny"))
