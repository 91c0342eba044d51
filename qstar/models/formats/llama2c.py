"""Weights in the legacy file of llama2.c, as the TinyStories models come in: seven sizes and then float32 matrices.

Like llama.cpp it rotates neighbouring pairs of channels; here the two halves of every head are put apart. The tokenizer
is a file next to it, `tokenizer.bin`: pieces of a SentencePiece model with their scores.
"""

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from qstar import files
from qstar.models.formats import companions
from qstar.models.formats.weights import finite
from qstar.models.lm import LMConfig
from qstar.typing import Params

TOKENIZER = "tokenizer.bin"
HEADER = struct.Struct("<7i")
MAX_SIZE = 1 << 20  # no size in the header of a real model is beyond it
MARKED = {"\n<s>\n": "<s>", "\n</s>\n": "</s>"}  # as llama2.c shows them


@dataclass(frozen=True)
class Pieces:
    """A SentencePiece vocabulary; `qstar.data.tokenizer.sentencepiece_bpe` makes a tokenizer of it."""

    tokens: tuple[str, ...]
    scores: tuple[float, ...]  # of two adjacent pairs, the one that makes the piece of higher score is merged first
    companions: dict[str, str] = field(default_factory=dict)


def read_file(path: str | Path) -> tuple[LMConfig, Params, Pieces]:
    """Config, float32 weights (numpy) and tokenizer of a file of weights with its tokenizer.bin next to it.

    Raises:
        FileNotFoundError: one of the two is missing.
        ValueError: another kind of file, one that is cut short, or numbers that are NaN or infinite.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no llama2.c weights at {path}")
    with path.open("rb") as file:
        cfg = _config(file.read(HEADER.size), path)
    _check_size(cfg, path)
    pieces = _pieces(path.parent / TOKENIZER, cfg.vocab)
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
    try:
        return LMConfig(
            # A negative vocabulary says that the output layer is a matrix of its own.
            vocab=abs(vocab), width=width, layers=layers, heads=heads, kv_heads=kv_heads, head_size=width // heads,
            ff=ff, max_len=max_len, tied=vocab > 0,
        )  # fmt: skip
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _shapes(cfg: LMConfig) -> dict[str, tuple[int, ...]]:
    """What the file holds, in its order."""
    layers, d, h, g, k, f = cfg.layers, cfg.width, cfg.heads, cfg.kv_heads, cfg.head_size, cfg.ff
    rotary = cfg.max_len * k // 2  # cosines, then sines: computed here
    shapes = {
        "embedding": (cfg.vocab, d), "attention_norm": (layers, d), "query": (layers, h, k, d),
        "key": (layers, g, k, d), "value": (layers, g, k, d), "out": (layers, d, h, k), "mlp_norm": (layers, d),
        "gate": (layers, f, d), "down": (layers, d, f), "up": (layers, f, d), "norm": (d,), "rotary": (2, rotary),
    }  # fmt: skip
    return shapes if cfg.tied else shapes | {"head": (cfg.vocab, d)}


def _check_size(cfg: LMConfig, path: Path) -> None:
    expected, size = HEADER.size + 4 * sum(map(math.prod, _shapes(cfg).values())), path.stat().st_size
    if size != expected:
        raise ValueError(f"{path} has {size} bytes, its header says {expected}: it is damaged or another kind of file")


def _weights(cfg: LMConfig, path: Path) -> Params:
    shapes = _shapes(cfg)
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    numbers = np.fromfile(path, "<f4", offset=HEADER.size)
    parts = np.split(numbers, np.cumsum(list(sizes.values()))[:-1])
    named = zip(shapes.items(), parts, strict=True)
    at = {name: finite(part.reshape(shape), name, path) for (name, shape), part in named}
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
        raise FileNotFoundError(f"no tokenizer at {path}: expected the tokenizer.bin that belongs to the weights there")
    contents, at, pieces = files.small_bytes(path), 4, []  # after the length of the longest piece
    try:
        for _ in range(count):
            score, length = struct.unpack_from("<fi", contents, at)
            if not math.isfinite(score) or not 0 <= length <= len(contents) - at - 8:
                raise ValueError(f"a piece of {length} bytes with the score {score}")
            pieces.append((contents[at + 8 : at + 8 + length].decode("utf-8"), score))
            at += 8 + length
    except (struct.error, ValueError) as error:
        raise ValueError(f"{path} ends or breaks off after {len(pieces)} of {count} pieces ({error})") from error
    if at != len(contents):
        raise ValueError(f"{path} goes on after its {count} pieces: it is the tokenizer of another model")
    tokens = tuple(MARKED.get(token, token) for token, _ in pieces)
    ids: dict[str, int] = {}
    for id, token in enumerate(tokens):
        if ids.setdefault(token, id) != id:
            raise ValueError(
                f"{path} has the piece {token!r} twice, as ids {ids[token]} and {id}: use an undamaged copy"
            )
    return Pieces(tokens, tuple(score for _, score in pieces), _companions(tokens))


def _companions(tokens: Sequence[str]) -> dict[str, str]:
    """What llama2.c does implicitly: texts begin with <s>, which ends them as well as </s> does."""
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    there = {name: token for name, token in names.items() if token in tokens}
    config = companions.PLAIN | there | {"add_bos_token": "<s>" in tokens}
    ids = {f"{name}_id": tokens.index(token) for name, token in there.items() if name != "unk_token"}
    return {companions.TOKENIZER: companions.spelled(config), companions.GENERATION: companions.spelled(ids)}
