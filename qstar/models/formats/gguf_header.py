"""Is the header of a GGUF file whole? Every length in it is compared with the size of the file, none is believed.

The package gguf trusts the lengths: a list that claims a quintillion entries fills the memory before it fails. The
layout: magic, version, numbers of tensors and of fields; fields (key, type, value); tensors (name, axes, type, place);
then the data, aligned, at the places that the tensors name.
"""

import math
import mmap
import struct
from collections.abc import Mapping
from pathlib import Path

STRING, ARRAY = 8, 9
WIDTHS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # bytes of numbers and truths by type
MAX_AXES = 4
ALIGNMENT = "general.alignment"


def check(path: Path, block_sizes: Mapping[int, tuple[int, int]]) -> None:
    """Raise ValueError where a field or a tensor does not lie within the file, or tensors overlap.

    Args:
        block_sizes: of every type of tensor, how many weights make a block, and its bytes.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        _Header(data).check(block_sizes)


class _Header:
    def __init__(self, data: mmap.mmap):
        self._data = data
        self._at = 4
        # The version is small: read in the other byte order its lower half is zero.
        self._order = ">" if data[4:6] == b"\0\0" else "<"
        self._alignment = 32

    def check(self, block_sizes: Mapping[int, tuple[int, int]]) -> None:
        self._number("I", "the version")
        tensors, fields = self._number("Q", "the number of tensors"), self._number("Q", "the number of fields")
        for number in range(fields):
            self._field(number)
        places = [self._tensor(number, block_sizes) for number in range(tensors)]
        start = -(-self._at // self._alignment) * self._alignment
        end = 0
        for offset, size, name in sorted(places):
            if offset % self._alignment or offset < end or start + offset + size > len(self._data):
                raise ValueError(
                    f"tensor {name!r} is at {start + offset} with {size} bytes, of a file of {len(self._data)} whose "
                    f"tensors before it end at {start + end}"
                )
            end = offset + size

    def _number(self, kind: str, what: str) -> int:
        size = struct.calcsize(kind)
        self._room(size, what)
        (value,) = struct.unpack_from(self._order + kind, self._data, self._at)
        self._at += size
        return value

    def _room(self, size: int, what: str) -> None:
        if size > len(self._data) - self._at:
            raise ValueError(f"{what} at {self._at} has {size} bytes, {len(self._data) - self._at} are left")

    def _text(self, what: str) -> str:
        length = self._number("Q", what)
        self._room(length, what)
        text = self._data[self._at : self._at + length]
        self._at += length
        try:
            return text.decode("utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"{what} is not UTF-8: {error}") from error

    def _field(self, number: int) -> None:
        key = self._text(f"the name of field {number}")
        kind = self._number("I", key)
        if key == ALIGNMENT:
            self._alignment = self._number("I", key)
            if kind != 4 or self._alignment < 1 or self._alignment & (self._alignment - 1):
                raise ValueError(f"{key} is {self._alignment} of type {kind}, expected a power of two of type 4")
        elif kind == ARRAY:
            self._array(key)
        else:
            self._values(kind, 1, key)

    def _array(self, key: str) -> None:
        kind, count = self._number("I", key), self._number("Q", key)
        if kind == ARRAY:
            raise ValueError(f"field {key} is a list of lists")
        self._values(kind, count, key)

    def _values(self, kind: int, count: int, key: str) -> None:
        if kind == STRING:
            self._room(8 * count, key)  # their lengths alone
            for _ in range(count):
                self._text(key)
        elif kind in WIDTHS:
            self._room(WIDTHS[kind] * count, key)
            self._at += WIDTHS[kind] * count
        else:
            raise ValueError(f"field {key} is of the unknown type {kind}")

    def _tensor(self, number: int, block_sizes: Mapping[int, tuple[int, int]]) -> tuple[int, int, str]:
        name = self._text(f"the name of tensor {number}")
        axes = self._number("I", name)
        if not 1 <= axes <= MAX_AXES:
            raise ValueError(f"tensor {name!r} has {axes} axes, expected 1 to {MAX_AXES}")
        shape = [self._number("Q", name) for _ in range(axes)]
        kind, offset = self._number("I", name), self._number("Q", name)
        if kind not in block_sizes:
            raise ValueError(f"tensor {name!r} is of the unknown type {kind}")
        block, size = block_sizes[kind]
        # Blocks lie along the first axis.
        if 0 in shape or shape[0] % block:
            raise ValueError(f"tensor {name!r} has the shape {shape}, expected rows of blocks of {block}")
        return offset, math.prod(shape) // block * size, name
