"""Weights in the legacy file of llama2.c, as the TinyStories models come in: seven sizes and then float32 matrices.

Like llama.cpp it rotates neighbouring pairs of channels; here the two halves of every head are put apart. The tokenizer
is a file beside it, `tokenizer.bin`: pieces of a SentencePiece model with their scores.
"""

import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qstar.models.lm import LMConfig
from qstar.typing import Params

HEADER = struct.Struct("<7i")
MAX_SIZE = 1 << 20  # no size in the header of a real model is beyond it
MARKED = {"\n<s>\n": "<s>", "\n</s>\n": "</s>"}  # as llama2.c shows them


@dataclass(frozen=True)
class Pieces:
    """A SentencePiece vocabulary; `qstar.data.tokenizer.sentencepiece_bpe` makes a tokenizer of it."""

    tokens: tuple[str, ...]
    scores: tuple[float, ...]  # of two adjacent pairs, the one that makes the piece of higher score is merged first


def read_file(path: str | Path) -> tuple[LMConfig, Params, Pieces]:
    """Config, float32 weights (numpy) and tokenizer of a file of weights with its tokenizer.bin beside it.

    Raises:
        FileNotFoundError: one of the two is missing.
        ValueError: another kind of file, or one that is cut short.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no llama2.c weights at {path}")
    with path.open("rb") as file:
        cfg = _config(file.read(HEADER.size), path)
    pieces = _pieces(path.parent / "tokenizer.bin", cfg.vocab)
    return cfg, _weights(cfg, path), pieces


def _config(header: bytes, path: Path) -> LMConfig:
    sizes = HEADER.unpack(header) if len(header) == HEADER.size else (0,) * 7
    width, ff, layers, heads, kv_heads, vocab, max_len = sizes
    positive = (width, ff, layers, heads, kv_heads, abs(vocab), max_len)
    if not all(0 < size < MAX_SIZE for size in positive) or width % heads:
        raise ValueError(
            f"{path} does not begin with the sizes of a legacy llama2.c model: it is another kind of file; weights of "
            "PyTorch are read from a directory, as safetensors"
        )
    return LMConfig(
        # A negative vocabulary says that the output layer is a matrix of its own.
        vocab=abs(vocab), width=width, layers=layers, heads=heads, kv_heads=kv_heads, head_size=width // heads, ff=ff,
        max_len=max_len, tied=vocab > 0,
    )  # fmt: skip


def _weights(cfg: LMConfig, path: Path) -> Params:
    layers, d, h, g, k, f = cfg.layers, cfg.width, cfg.heads, cfg.kv_heads, cfg.head_size, cfg.ff
    rotary = cfg.max_len * k // 2  # cosines, then sines: computed here
    shapes = {
        "embedding": (cfg.vocab, d), "attention_norm": (layers, d), "query": (layers, h, k, d),
        "key": (layers, g, k, d), "value": (layers, g, k, d), "out": (layers, d, h, k), "mlp_norm": (layers, d),
        "gate": (layers, f, d), "down": (layers, d, f), "up": (layers, f, d), "norm": (d,), "rotary": (2, rotary),
    }  # fmt: skip
    if not cfg.tied:
        shapes["head"] = (cfg.vocab, d)
    sizes = {name: int(np.prod(shape)) for name, shape in shapes.items()}
    wanted, found = HEADER.size + 4 * sum(sizes.values()), path.stat().st_size
    if found != wanted:
        raise ValueError(
            f"{path} has {found} bytes, its header promises {wanted}: it is damaged or another kind of file"
        )
    numbers = np.fromfile(path, "<f4", offset=HEADER.size)
    parts = np.split(numbers, np.cumsum(list(sizes.values()))[:-1])
    at = {name: part.reshape(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}
    blocks = {name: np.moveaxis(at[name], -1, 1) for name in ("value", "gate", "up", "down")}
    blocks |= {name: np.moveaxis(_apart(at[name]), -1, 1) for name in ("query", "key")}
    blocks |= {name: {"scale": at[name]} for name in ("attention_norm", "mlp_norm")}
    blocks["out"] = np.moveaxis(at["out"], 1, -1)
    params = {"embedding": at["embedding"], "blocks": blocks, "norm": {"scale": at["norm"]}}
    return params if cfg.tied else params | {"head": at["head"]}


def _apart(weight: np.ndarray) -> np.ndarray:
    """[L heads K D] with the channels of a head from pairs (a0 b0 a1 b1 ...) to halves (a0 a1 ... b0 b1 ...)."""
    return np.concatenate([weight[:, :, 0::2], weight[:, :, 1::2]], axis=2)


def _pieces(path: Path, count: int) -> Pieces:
    if not path.is_file():
        raise FileNotFoundError(
            f"no tokenizer at {path}: the tokenizer.bin that belongs to the weights is wanted there"
        )
    contents, at, found = path.read_bytes(), 4, []  # behind the length of the longest piece
    try:
        for _ in range(count):
            score, length = struct.unpack_from("<fi", contents, at)
            found.append((contents[at + 8 : at + 8 + length].decode("utf-8"), score))
            at += 8 + length
    except (struct.error, UnicodeDecodeError) as error:
        raise ValueError(f"{path} ends or breaks off after {len(found)} of {count} pieces ({error})") from error
    if at != len(contents):
        raise ValueError(f"{path} goes on behind its {count} pieces: it is the tokenizer of another model")
    return Pieces(tuple(MARKED.get(token, token) for token, _ in found), tuple(score for _, score in found))
