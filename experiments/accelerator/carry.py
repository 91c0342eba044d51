"""Files for a machine without a network: data and weights in pieces of limited size, and the names of wheels."""

import hashlib
import importlib.metadata
import io
import json
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

from qstar import files

PIECE_BYTES = 35_000_000  # with a checkout and the wheels less than 60 MB
MANIFEST, WHEELS = "manifest.json", "wheels.txt"
SOURCES = (
    "openlogic", "napkin", "discrete_book", "gsm8k/train.jsonl", "gsm8k/test.jsonl",
    "commonsenseqa/train_rand_split.jsonl", "commonsenseqa/dev_rand_split.jsonl", "svamp",
)  # fmt: skip
"""Of the folder of data sets: what parts d and f read."""
PRESENT = ("jax", "flax", "optax", "orbax-checkpoint")
"""Packages that the machine has, with all that they need."""
NEEDED = (
    "hydra-core", "omegaconf", "antlr4-python3-runtime", "grain", "array-record", "portpicker", "tensorflow-datasets",
    "tensorflow-metadata", "googleapis-common-protos", "dm-tree", "promise", "simple-parsing", "docstring-parser",
    "immutabledict", "importlib_resources", "termcolor", "toml", "etils", "jaxtyping", "wadler_lindig", "beartype",
    "tokenizers", "huggingface_hub", "safetensors", "pyarrow", "scipy", "rich", "jinja2", "gguf",
)  # fmt: skip
"""What qstar imports beyond these, and what those import."""
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
    """NAME==VERSION of what is needed beyond `PRESENT`, in the versions that are installed here."""
    for name in NEEDED:
        try:
            yield f"{name}=={importlib.metadata.version(name)}"
        except importlib.metadata.PackageNotFoundError:
            yield name


def unpacked(folder: Path, target: Path) -> Path:
    """Join and unpack what `prepare` wrote, once.

    Raises FileNotFoundError for a missing piece, ValueError for one that is damaged.
    """
    if (target / MANIFEST).is_file():
        return target
    manifest = folder / MANIFEST
    if not manifest.is_file():
        raise FileNotFoundError(f"{manifest} is not there: expected a folder that --prepare wrote")
    content = b""
    for name, digest in json.loads(manifest.read_text(encoding="utf-8")).items():
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder / name} is not there: carry all pieces of {manifest}")
        piece = (folder / name).read_bytes()
        if hashlib.sha256(piece).hexdigest() != digest:
            raise ValueError(f"{folder / name} is damaged: its SHA-256 is not that of {manifest}; carry it again")
        content += piece
    target.mkdir(parents=True, exist_ok=True)
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        tar.extractall(target, filter="data")
    (target / MANIFEST).write_text(manifest.read_text(encoding="utf-8"), encoding="utf-8")  # last: it is complete
    return target


def model(data: Path) -> str:
    """The language model of an unpacked folder."""
    return str(data / "model.gguf" if (data / "model.gguf").is_file() else data / "model")


def tiny(target: Path) -> Path:
    """Data sets of a few lines and a model of a few weights, in the places of the real ones: for a rehearsal."""
    if (target / MANIFEST).is_file():
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
    files.write(target / MANIFEST, "{}\n")
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
