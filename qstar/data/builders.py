"""Local files to prepared, random-access data: the only home of tensorflow_datasets.

Each builder reads files that the user has, checks every record while it still knows file and line, and writes
ArrayRecord once into a cache folder named by the sha256 of the inputs. A second run with the same inputs reads the
cache; changed inputs get a new folder; a failed preparation leaves no data. TensorFlow is not needed, and
nothing is fetched. The prepared metadata lists every source file with its size, checksum and licence file.
"""

import contextlib
import hashlib
import io
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import tensorflow_datasets as tfds

from qstar import files, paths
from qstar.data import record_files
from qstar.files import JsonObject
from qstar.settings import shown
from qstar.tasks import lines
from qstar.tasks.lines import SEPARATOR

TEXT_SUFFIXES = (".jsonl", ".md", ".parquet", ".tex", ".text", ".txt")
"""What is read from a folder; a file named directly may have any suffix. `.jsonl` is read line by line as JSON, and of
Parquet and of folders that `Dataset.save_to_disk` wrote, a row is a record as well."""

LETTERS = ("A", "B", "C", "D", "E")


# --- what the inputs are ------------------------------------------------------------------------------------------


def text_files(paths: Sequence[str | os.PathLike]) -> list[Path]:
    """The files of `paths`: files as they are, folders replaced by their text files in sorted order."""
    text_paths = []
    for path in map(Path, paths):
        if path.is_dir():
            texts = (f for f in path.rglob("*") if f.suffix in TEXT_SUFFIXES and f.is_file())
            inside = record_files.saved_files(path) or sorted(texts)
            if not inside:
                raise ValueError(f"folder {path} holds no text: no file ends in {', '.join(TEXT_SUFFIXES)}")
            text_paths += inside
        else:
            text_paths.append(_existing(path))
    if not text_paths:
        raise ValueError("no paths given: name at least one text file, JSONL file or folder")
    return text_paths


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist (looked in {Path.cwd()}); name an existing file or folder")
    return path


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _licence(path: Path) -> str | None:
    """Text of the licence file next to `path`, or None where there is none."""
    for name in ("LICENSE", "LICENSE.txt", "LICENSE.md", "LICENCE", "LICENCE.txt", "COPYING"):
        if (beside := path.parent / name).is_file():
            return beside.read_text(encoding="utf-8", errors="replace")
    return None


def _source(path: Path) -> JsonObject:
    return {
        "path": str(path.resolve()),
        "bytes": path.stat().st_size,
        "sha256": _sha256(path),
        "licence": _licence(path),
    }


def _kind(path: Path) -> str | bool:
    """How a file is read: its columnar suffix, or whether it is JSON lines."""
    return path.suffix if path.suffix in record_files.COLUMNAR else path.suffix == ".jsonl"


# --- reading, with the place named when something is wrong --------------------------------------------------------


def documents(path: Path, field: str = "text", separator: str = SEPARATOR) -> Iterator[str]:
    """The documents of one file; those of only whitespace are left out.

    Plain text is split at lines that hold `separator` alone. Of records (JSONL, Parquet, Arrow), `field` is the
    document, or several fields joined by newlines: "question+answer".
    """
    if path.suffix in (".jsonl", *record_files.COLUMNAR):
        names = field.split("+")
        read = lines.json_lines if path.suffix == ".jsonl" else record_files.rows
        texts = ("\n".join(lines.member(r, name, where) for name in names) for where, r in read(path))
    else:
        line = rf"^{re.escape(separator)}[ \t\r]*$"
        texts = iter(re.split(line, files.text(path), flags=re.MULTILINE))
    return (document.strip("\r\n") for document in texts if document.strip())


# --- builders -----------------------------------------------------------------------------------------------------


class _LocalFiles(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """A builder whose splits are local files: subclasses say what a record is."""

    VERSION = tfds.core.Version("1.0.0")
    FEATURES: dict[str, tfds.features.FeatureConnector]
    DESCRIPTION: str

    def __init__(self, files: dict[str, list[Path]], cache_dir: str | os.PathLike | None = None, options: str = ""):
        self.files = files
        self.sources = {split: [_source(path) for path in paths] for split, paths in files.items()}
        # The suffix decides how a file is read; its name and place do not change what comes out.
        parts = [(s, _kind(Path(f["path"])), f["sha256"]) for s in files for f in self.sources[s]]
        self.digest = hashlib.sha256(repr((parts, options)).encode()).hexdigest()
        super().__init__(data_dir=paths.cache_folder(cache_dir) / self.digest[:16], file_format="array_record")

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            description=self.DESCRIPTION,
            features=tfds.features.FeaturesDict(self.FEATURES),
            metadata=tfds.core.MetadataDict(sources=self.sources, digest=self.digest),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
        return {split: self._generate_examples(paths) for split, paths in self.files.items()}

    def _generate_examples(self, paths: list[Path]) -> Iterator[tuple[int, JsonObject]]:
        count = 0
        for path in paths:
            for record in self.records(path):
                yield count, record
                count += 1
        if count == 0:
            raise ValueError(f"no documents: {', '.join(map(str, paths))} hold nothing but whitespace")

    def records(self, path: Path) -> Iterator[JsonObject]:
        raise NotImplementedError


class TextFiles(_LocalFiles):
    """Documents of plain-text and JSONL files, one split "train" of {"text"}."""

    name = "qstar_text"
    VERSION = tfds.core.Version("1.0.1")  # 1.0.0 kept byte-order marks
    DESCRIPTION = "Documents from local text files."
    FEATURES = {"text": tfds.features.Text()}  # noqa: RUF012

    def __init__(
        self,
        paths: Sequence[str | os.PathLike],
        cache_dir: str | os.PathLike | None = None,
        field: str = "text",
        separator: str = SEPARATOR,
    ):
        if not separator.strip() or not field:
            raise ValueError(f"separator {separator!r} and field {field!r} must not be empty")
        self.field, self.separator = field, separator
        super().__init__({"train": text_files(paths)}, cache_dir, repr((field, separator)))

    def records(self, path: Path) -> Iterator[JsonObject]:
        return ({"text": text} for text in documents(path, self.field, self.separator))


class Gsm8k(_LocalFiles):
    """Grade-school mathematics (Cobbe et al., 2021, arXiv 2110.14168): {question, answer ending in "#### N"}."""

    name = "qstar_gsm8k"
    DESCRIPTION = "GSM8K from local JSONL files."
    FEATURES = {"question": tfds.features.Text(), "answer": tfds.features.Text()}  # noqa: RUF012
    SPLITS = {"train": "train.jsonl", "test": "test.jsonl"}  # noqa: RUF012

    def records(self, path: Path) -> Iterator[JsonObject]:
        for where, record in lines.json_lines(path):
            answer = lines.member(record, "answer", where)
            if "####" not in answer:
                raise ValueError(f"{where}: the answer has no '#### NUMBER' at its end")
            yield {"question": lines.member(record, "question", where), "answer": answer}


class CommonsenseQA(_LocalFiles):
    """Five-choice questions (Talmor et al., 2019, arXiv 1811.00937): {question, choices, answer: a letter}."""

    name = "qstar_commonsense_qa"
    DESCRIPTION = "CommonsenseQA from local JSONL files."
    FEATURES = {  # noqa: RUF012
        "question": tfds.features.Text(),
        "choices": tfds.features.Sequence(tfds.features.Text()),
        "answer": tfds.features.Text(),
    }
    SPLITS = {"train": "train_rand_split.jsonl", "dev": "dev_rand_split.jsonl"}  # noqa: RUF012

    def records(self, path: Path) -> Iterator[JsonObject]:
        for where, record in lines.json_lines(path):
            question = lines.member(record, "question", where, dict)
            choices = lines.member(question, "choices", where, list)
            if tuple(c.get("label") if isinstance(c, dict) else None for c in choices) != LETTERS:
                raise ValueError(f"{where}: the choices are not labelled A to E in order")
            answer = lines.member(record, "answerKey", where)
            if answer not in LETTERS:
                raise ValueError(f"{where}: answerKey is {shown(answer)}, expected one of A to E")
            texts = [lines.member(choice, "text", where) for choice in choices]
            yield {"question": lines.member(question, "stem", where), "choices": texts, "answer": answer}


def _prepared(make: Callable[[], _LocalFiles]) -> _LocalFiles:
    """A builder whose data is on disk."""
    tfds.disable_progress_bar()
    builder = make()
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # it announces a download, of local files
            builder.download_and_prepare()
    except OSError:
        if not builder.data_path.exists():
            raise  # else another process finished the same content first: its folder is as good as ours
    return make()


# --- what the rest of qstar calls ---------------------------------------------------------------------------------


def prepare_text(
    paths: Sequence[str | os.PathLike],
    cache_dir: str | os.PathLike | None = None,
    field: str = "text",
    separator: str = SEPARATOR,
) -> Sequence[dict[str, bytes]]:
    """Random access to {"text": bytes}, one a document, in the order of the files. Prepared once for the same content.

    Raises FileNotFoundError for a missing path; ValueError for text that is not UTF-8 (file and byte offset), a JSONL
    line that is no JSON or lacks `field` (file:line), and a corpus without any document.
    """
    return _prepared(lambda: TextFiles(paths, cache_dir, field, separator)).as_data_source(split="train")


def _questions(
    builder: type[_LocalFiles], folder: str | os.PathLike, split: str, cache_dir: str | os.PathLike | None
) -> list[JsonObject]:
    if split not in builder.SPLITS:
        raise ValueError(f"split is {split!r}, expected one of {', '.join(builder.SPLITS)}")
    file = _existing(Path(folder) / builder.SPLITS[split])
    return list(_prepared(lambda: builder({split: [file]}, cache_dir)).as_data_source(split=split))


def gsm8k(folder: str | os.PathLike, split: str, cache_dir: str | os.PathLike | None = None) -> list[dict[str, str]]:
    """`split` "train" or "test" of GSM8K, from train.jsonl or test.jsonl in `folder`: {"question", "answer"}."""
    rows = _questions(Gsm8k, folder, split, cache_dir)
    return [{name: text.decode() for name, text in row.items()} for row in rows]


def commonsense_qa(
    folder: str | os.PathLike, split: str, cache_dir: str | os.PathLike | None = None
) -> list[JsonObject]:
    """`split` "train" or "dev" of CommonsenseQA, from train_rand_split.jsonl or dev_rand_split.jsonl in `folder`.

    Rows are {"question", "choices": five texts, "answer": a letter}.
    """
    rows = _questions(CommonsenseQA, folder, split, cache_dir)
    return [
        {
            "question": row["question"].decode(),
            "choices": [choice.decode() for choice in row["choices"]],
            "answer": row["answer"].decode(),
        }
        for row in rows
    ]
