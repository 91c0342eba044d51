"""Files of a model's directory: what is read is inside it, and is checked before memory is taken for it.

A file of weights is opened by its header, which says the shape and the place of every tensor; weights are read one
tensor at a time, and refused where a number is NaN or infinite.
"""

import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors

from qstar import files
from qstar.settings import shown

READ = ("F32", "F16", "BF16")
BITS = {"BOOL": 8, "U8": 8, "I8": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32}
BITS |= {"F64": 64, "I64": 64, "U64": 64, "C64": 64, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F4": 4}
BITS |= {"F6_E2M3": 6, "F6_E3M2": 6, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8}
MAX_HEADER = 100_000_000  # bytes, as in safetensors
POINTER = b"version https://git-lfs"  # how a file begins that git-lfs has not fetched


def inside(directory: Path, name: str) -> Path:
    """The path of a file in a directory, which need not exist.

    Raises ValueError for a name or a symbolic link that leads out of the directory. In the cache of the Hugging Face
    hub files are links into the folder `blobs` beside the folder `snapshots` of the directory: these are followed.
    """
    plain = name == Path(name).name and name != ".." and not {"\0", "\\"} & set(name)
    if not plain or len(name.encode("utf-8", "replace")) > 255:
        raise ValueError(f"{directory}: {name[:60]!r} is not a name of a file in this directory")
    path, home = directory / name, directory.resolve()
    if path.is_symlink():
        allowed = next((folder.parent for folder in home.parents[:2] if folder.name == "snapshots"), home)
        try:
            target = path.resolve()
        except (RuntimeError, OSError) as error:  # a link to itself
            raise ValueError(f"{path} is a link that leads nowhere: put the file itself there") from error
        if not target.is_relative_to(allowed):
            raise ValueError(
                f"{path} is a link that leads out of the directory, to {target}: put the file itself there"
            )
    return path


class Tensors:
    """The tensors of safetensors files, read one at a time; a context manager.

    Args:
        files: paths.
        homes: file of every tensor, as an index says. One that is in other files of these as well, or only there, has
            to be the same in all of them: readers differ in which they take.

    Raises ValueError for a damaged file and, without an index, for a tensor in several files.
    """

    def __init__(self, files: Sequence[Path], homes: Mapping[str, Path] | None = None):
        self._open: list[safetensors.safe_open] = []
        self._of: dict[str, tuple[Path, safetensors.safe_open]] = {}
        self._again: dict[str, list[tuple[Path, safetensors.safe_open]]] = {}
        try:
            for file in files:
                self._add(file, homes or {})
        except BaseException:
            self.__exit__()
            raise

    def _add(self, file: Path, homes: Mapping[str, Path]) -> None:
        opened = _opened(file)
        self._open.append(opened)
        for name in opened.keys():
            if name not in self._of:
                self._of[name] = file, opened
            elif name in homes:
                self._again.setdefault(name, []).append((file, opened))
            else:
                raise ValueError(f"{name} is in {self._of[name][0]} and in {file}: remove one of the files")

    def __enter__(self) -> "Tensors":
        return self

    def __exit__(self, *_) -> None:
        for opened in self._open:
            opened.__exit__(None, None, None)
        self._open = []

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tuple(opened.get_slice(name).get_shape()) for name, (_, opened) in self._of.items()}

    def check_types(self, names: Iterator[str] | Sequence[str]) -> None:
        """Raise ValueError where one of these is stored in a type that is not read."""
        for name in names:
            file, opened = self._of[name]
            dtype = opened.get_slice(name).get_dtype()
            if dtype not in READ:
                raise ValueError(f"{file}: {name} is stored as {dtype}; supported are {', '.join(READ)}")

    def __call__(self, name: str) -> np.ndarray:
        """One of them in float32. Raises ValueError for another type, NaN or infinity, and copies that differ."""
        self.check_types([name])
        file, opened = self._of[name]
        weight = finite(np.asarray(opened.get_tensor(name), np.float32), name, file)
        for other, again in self._again.get(name, ()):
            if not np.array_equal(weight, again.get_tensor(name)):
                raise ValueError(
                    f"{name} is in {file} and in {other}, and differs between them: remove the file that is left over "
                    "from other weights, or download both again"
                )
        return weight


def finite(weight: np.ndarray, name: str, source: str | Path) -> np.ndarray:
    """The weight itself. Raises ValueError where a number in it is NaN or infinite."""
    # Both extremes carry a NaN on; nothing of the weight's size is allocated.
    if weight.size and not (math.isfinite(weight.min()) and math.isfinite(weight.max())):
        wrong = ~np.isfinite(weight)
        raise ValueError(
            f"{source}: {name} holds {np.count_nonzero(wrong)} of {weight.size} numbers that are NaN or infinite, the "
            f"first at {tuple(int(i) for i in np.argwhere(wrong)[0])}; use an undamaged copy of the weights"
        )
    return weight


def _opened(file: Path) -> safetensors.safe_open:
    if not file.is_file():  # a pipe would be waited for
        raise ValueError(f"{file} is no regular file: put the weights themselves there")
    try:
        size = file.stat().st_size
        # Before the library, which maps the whole file and takes the last of two entries of one name.
        problem = _problem(file, size)
        if problem:
            raise ValueError(f"{file} ({size} bytes) is damaged or cut short ({problem}); download it again")
        return safetensors.safe_open(file, framework="numpy").__enter__()
    except safetensors.SafetensorError as error:
        raise ValueError(f"{file} ({size} bytes) is damaged or cut short ({error}); download it again") from error
    except (OSError, MemoryError) as error:  # no permission, or less address space than the file needs
        raise ValueError(f"{file} cannot be read: {error}") from error


def _problem(file: Path, size: int) -> str:
    """What is wrong with a file by its header, with the name of the tensor; "" where nothing is seen."""
    with file.open("rb") as opened:
        first = opened.read(len(POINTER))
        if first == POINTER:
            return "it is a pointer of git-lfs, without the weights: git lfs pull fetches them"
        opened.seek(8)
        length = struct.unpack("<Q", first[:8])[0] if len(first) >= 8 else size
        if length > min(size - 8, MAX_HEADER):
            return f"a header of {length} bytes is declared"
        try:
            header: Any = files.parsed(opened.read(length).decode("utf-8"), "its header")
        except UnicodeDecodeError as error:
            return f"its header is not JSON: {error}"
        except ValueError as error:
            return str(error)
    if not isinstance(header, dict):
        return f"its header is a JSON {type(header).__name__}, expected an object"
    end = 0
    entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
    for name, entry in entries.items():
        problem = _entry_problem(entry, size - 8 - length)
        if problem:
            return f"tensor {name!r} {problem}"
    for name, entry in sorted(entries.items(), key=lambda item: item[1]["data_offsets"]):
        start, stop = entry["data_offsets"]
        if start != end:
            return f"tensor {name!r} begins at {start}, where the one before ends at {end}"
        end = stop
    return f"its tensors end at {end} of {size - 8 - length} bytes" if end != size - 8 - length else ""


def _entry_problem(entry: object, room: int) -> str:
    if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= entry.keys():
        return "lacks its dtype, shape or data_offsets"
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in BITS:
        return f"is of an unknown type, {shown(dtype)}"
    if not _sizes(shape):
        return f"has the shape {shown(shape)}"
    if not _sizes(offsets) or len(offsets) != 2 or not offsets[0] <= offsets[1] <= room:
        return f"is at {shown(offsets)} of {room} bytes"
    if math.prod(shape) * BITS[dtype] != 8 * (offsets[1] - offsets[0]):
        return f"has {offsets[1] - offsets[0]} bytes, not those of {dtype} of shape {shape}"
    return ""


def _sizes(values: object) -> bool:
    return isinstance(values, list) and all(type(value) is int and value >= 0 for value in values)
