"""What a seccomp filter answers: the few instructions of classic BPF that filters use, run one at a time."""

import struct

LOAD, RETURN, AND, EQUAL, AT_LEAST = 0x20, 0x06, 0x54, 0x15, 0x35


def answer(program: bytes, architecture: int, number: int, arguments: tuple[int, ...] = ()) -> int:
    """The value returned for a call, laid out as `struct seccomp_data` on a little-endian machine."""
    padded = [value & (2**64 - 1) for value in (*arguments, *[0] * (6 - len(arguments)))]
    data = struct.pack("<IIQ6Q", number, architecture, 0, *padded)
    lines = list(struct.iter_unpack("<HBBI", program))
    at = accumulator = 0
    while True:
        code, yes, no, value = lines[at]
        at += 1
        if code == RETURN:
            return value
        if code == LOAD:
            accumulator = struct.unpack_from("<I", data, value)[0]
        elif code == AND:
            accumulator &= value
        elif code == EQUAL:
            at += yes if accumulator == value else no
        elif code == AT_LEAST:
            at += yes if accumulator >= value else no
        else:
            raise ValueError(f"no instruction {code:#x} in line {at - 1}")
