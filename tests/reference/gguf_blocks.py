"""Blocks of GGUF tensors, one weight at a time: the layouts of ggml's block structs, in single precision.

A block is a run of bytes that holds 32 weights, or 256 in the K types; each function gives the weights of one block.
Products are taken in the order of ggml's own loops, scale times sub-scale first, so that float32 rounds the same.
"""

import struct

import numpy as np

F = np.float32


def half(block, at):
    """The float16 at a byte."""
    return F(struct.unpack_from("<e", block, at)[0])


def byte(block, at):
    """The signed byte there."""
    return struct.unpack_from("<b", block, at)[0]


def f32(block):
    return [F(struct.unpack("<f", block)[0])]


def f16(block):
    return [half(block, 0)]


def bf16(block):
    """The upper half of a float32."""
    return [F(struct.unpack("<f", b"\0\0" + block)[0])]


def nibble(block, start, i):
    """Of 16 bytes: the lower halves are weights 0 to 15, the upper ones 16 to 31."""
    return block[start + i] & 15 if i < 16 else block[start + i - 16] >> 4


def q4_0(block):
    """scale f16, nibbles 16."""
    return [half(block, 0) * F(nibble(block, 2, i) - 8) for i in range(32)]


def q4_1(block):
    """scale f16, smallest f16, nibbles 16."""
    return [half(block, 0) * F(nibble(block, 4, i)) + half(block, 2) for i in range(32)]


def q5_0(block):
    """scale f16, fifth bits 4, nibbles 16."""
    bits = int.from_bytes(block[2:6], "little")
    return [half(block, 0) * F((nibble(block, 6, i) | (bits >> i & 1) << 4) - 16) for i in range(32)]


def q5_1(block):
    """scale f16, smallest f16, fifth bits 4, nibbles 16."""
    bits = int.from_bytes(block[4:8], "little")
    return [half(block, 0) * F(nibble(block, 8, i) | (bits >> i & 1) << 4) + half(block, 2) for i in range(32)]


def q8_0(block):
    """scale f16, signed bytes 32."""
    return [half(block, 0) * F(byte(block, 2 + i)) for i in range(32)]


def six_bits(packed, j):
    """Scale and offset of sub-block j of 8: of the first four in the lower six bits of bytes j and j + 4; of the others
    the lower four in byte j + 4, the upper two in what those left of bytes j - 4 and j."""
    if j < 4:
        return packed[j] & 63, packed[j + 4] & 63
    return packed[j + 4] & 15 | packed[j - 4] >> 6 << 4, packed[j + 4] >> 4 | packed[j] >> 6 << 4


def offset_block(block, quant):
    """Eight sub-blocks of 32 weights: scale * sub-scale * q - smallest * sub-offset."""
    scale, smallest, out = half(block, 0), half(block, 2), []
    for j in range(8):
        factor, offset = six_bits(block[4:16], j)
        out += [scale * F(factor) * F(quant(j, i)) - smallest * F(offset) for i in range(32)]
    return out


def quarter(block, start, j, i):
    """Sub-blocks 2 g and 2 g + 1 share 32 bytes: lower halves, upper halves."""
    return block[start + 32 * (j // 2) + i] >> 4 * (j % 2) & 15


def q4_k(block):
    """scale f16, smallest f16, six-bit pairs 12, nibbles 128."""
    return offset_block(block, lambda j, i: quarter(block, 16, j, i))


def q5_k(block):
    """scale f16, smallest f16, six-bit pairs 12, fifth bits 32 (bit j of byte i: sub-block j), nibbles 128."""
    return offset_block(block, lambda j, i: quarter(block, 48, j, i) | (block[16 + i] >> j & 1) << 4)


def q6_k(block):
    """lower four bits 128, upper two bits 64, sixteen signed scales of 16 weights each, scale f16."""
    out = []
    for at in range(256):
        part, row, i = at // 128, at % 128 // 32, at % 32
        lower = block[64 * part + 32 * (row % 2) + i] >> 4 * (row // 2) & 15
        upper = block[128 + 32 * part + i] >> 2 * row & 3
        out.append(half(block, 208) * F(byte(block, 192 + at // 16)) * F((lower | upper << 4) - 32))
    return out


# Bytes of a block, its weights, where its float16 numbers are, and the function.
BLOCKS = {
    "F32": (4, 1, (), f32),
    "F16": (2, 1, (0,), f16),
    "BF16": (2, 1, (), bf16),
    "Q4_0": (18, 32, (0,), q4_0),
    "Q4_1": (20, 32, (0, 2), q4_1),
    "Q5_0": (22, 32, (0,), q5_0),
    "Q5_1": (24, 32, (0, 2), q5_1),
    "Q8_0": (34, 32, (0,), q8_0),
    "Q4_K": (144, 256, (0, 2), q4_k),
    "Q5_K": (176, 256, (0, 2), q5_k),
    "Q6_K": (210, 256, (208,), q6_k),
}


def random_rows(kind, rng, rows, columns):
    """Bytes of a tensor [rows, columns] of this type: any, but for numbers that are finite and of a sensible size."""
    size, weights, halves, _ = BLOCKS[kind]
    count = rows * columns // weights
    blocks = rng.integers(0, 256, (count, size), dtype=np.uint8)
    for at in halves:
        blocks[:, at : at + 2] = rng.normal(size=(count, 1)).astype(np.float16).view(np.uint8)
    if kind == "F32":
        blocks = rng.normal(size=(count, 1)).astype(np.float32).view(np.uint8)
    if kind == "BF16":
        blocks = np.ascontiguousarray(rng.normal(size=(count, 1)).astype(np.float32).view(np.uint8)[:, 2:])
    return blocks.reshape(rows, -1)


def weights(kind, stored):
    """The weights [rows, columns] in stored bytes [rows, bytes of a row]."""
    size, _, _, read = BLOCKS[kind]
    blocks = [bytes(block) for block in stored.reshape(-1, size)]
    return np.array([read(block) for block in blocks], np.float32).reshape(len(stored), -1)
