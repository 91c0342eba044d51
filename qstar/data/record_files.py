"""Records of training data from files: JSON lines, Parquet, Arrow, or a folder that `Dataset.save_to_disk` wrote.

pyarrow reads what the `datasets` library saves, so the library itself is not needed.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from qstar import files
from qstar.files import JsonObject
from qstar.tasks import lines

if TYPE_CHECKING:  # it takes a while to import
    import pyarrow as pa

COLUMNAR = (".parquet", ".arrow")
STATE, SPLITS = "state.json", "dataset_dict.json"  # of a folder that `datasets` saved: one split, or several
KINDS = "JSON lines, a .parquet file, or a folder of Dataset.save_to_disk"


def read(path: str | Path, expected: str) -> Iterator[tuple[str, JsonObject]]:
    """Yields (place, record) of every record; a place is "file:line", or "file, row N" counted from 1.

    A field that is null is absent from its record.

    Args:
        path: the setting data.path.
        expected: what a record holds, in words.

    Raises FileNotFoundError; ValueError for a file that is damaged, or a folder with several splits.
    """
    for file in listed(path, expected):
        if file.suffix in COLUMNAR:
            yield from rows(file)
        else:
            yield from ((where, _without_null(record)) for where, record in lines.json_lines(file))


def listed(path: str | Path, expected: str) -> list[Path]:
    """The files that hold the records. Raises as `read`."""
    path = Path(path)
    found = [path] if path.is_file() else saved_files(path)
    missing = next((file for file in found if not file.is_file()), path)
    if missing != path or not found:
        raise FileNotFoundError(f"data.path = {str(missing)!r} is no file: expected {KINDS}, with {expected}")
    return found


def saved_files(folder: Path) -> list[Path]:
    """The Arrow files of a folder that `Dataset.save_to_disk` wrote; none where it is no such folder.

    Raises ValueError for a folder of several splits.
    """
    if (folder / SPLITS).is_file():
        names = _listed(folder / SPLITS, "splits", str)
        splits = ", ".join(str(folder / name) for name in names)
        raise ValueError(f"{folder} holds several splits: name one of them: {splits}")
    if not (folder / STATE).is_file():
        return []
    entries = _listed(folder / STATE, "_data_files", dict)
    names = [entry.get("filename") for entry in entries]
    if not all(isinstance(name, str) and Path(name).name for name in names):
        raise ValueError(f"{folder / STATE}: _data_files names {str(names)[:60]}, expected names of files")
    return [folder / Path(name).name for name in names]


def _listed(file: Path, name: str, kind: type) -> list:
    """The list in a file that `datasets` wrote."""
    values = lines.member(files.json_object(file), name, str(file), list)
    if not all(isinstance(value, kind) for value in values):
        raise ValueError(f"{file}: {name} is {str(values)[:60]}, expected a list of {kind.__name__}")
    return values


def rows(file: Path) -> Iterator[tuple[str, JsonObject]]:
    """Yields (place, record) of a Parquet or an Arrow file, read batch by batch."""
    import pyarrow as pa

    number = 0
    try:
        for batch in _batches(file):
            for row in batch.to_pylist():
                number += 1
                yield f"{file}, row {number}", _without_null(row)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{file}: {error}") from error


def _without_null(record: JsonObject) -> JsonObject:
    return {name: value for name, value in record.items() if value is not None}


def _batches(file: Path) -> Iterator["pa.RecordBatch"]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if file.suffix == ".parquet":
        with pq.ParquetFile(file) as table:
            yield from table.iter_batches()
    else:
        with pa.memory_map(str(file)) as source, pa.ipc.open_stream(source) as stream:
            yield from stream
