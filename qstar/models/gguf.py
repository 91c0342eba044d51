"""Weights from a GGUF file of the llama architecture, dequantised to float32.

llama.cpp rotates neighbouring pairs, so its converter interleaves the two halves of every head's query and key rows;
here they are put back. GGUF carries its tokenizer as a vocabulary and merges: `Vocabulary`.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qstar.models import hf
from qstar.models.lm import LMConfig
from qstar.typing import Params

# Pre-tokenisers of byte-level BPE that can be rebuilt exactly; True: every digit is a token of its own.
PRE_TOKENIZERS = {"gpt-2": False, "smollm": True}
SPECIAL = (3, 4)  # token types: control and user-defined, both matched whole

NAMES = {"token_embd.weight": hf.EMBEDDING, "output_norm.weight": hf.NORM, "output.weight": hf.HEAD}
LAYER_NAMES = {
    "attn_norm.weight": "input_layernorm.weight",
    "attn_q.weight": "self_attn.q_proj.weight",
    "attn_k.weight": "self_attn.k_proj.weight",
    "attn_v.weight": "self_attn.v_proj.weight",
    "attn_output.weight": "self_attn.o_proj.weight",
    "ffn_norm.weight": "post_attention_layernorm.weight",
    "ffn_gate.weight": "mlp.gate_proj.weight",
    "ffn_up.weight": "mlp.up_proj.weight",
    "ffn_down.weight": "mlp.down_proj.weight",
}


@dataclass(frozen=True)
class Vocabulary:
    """A byte-level BPE tokenizer in pieces; `qstar.data.tokenizer.byte_level_bpe` puts them together."""

    tokens: tuple[str, ...]  # spelling of every id, in the byte alphabet of GPT-2
    merges: tuple[tuple[str, str], ...]
    special: tuple[str, ...]  # tokens that are matched whole and never split
    digits: bool  # every digit is a token of its own


def read_file(path: str | Path) -> tuple[LMConfig, Params, Vocabulary]:
    """Config, float32 weights (numpy) and tokenizer of a GGUF file.

    Raises:
        ImportError: the extra `gguf` is not installed.
        FileNotFoundError: no such file.
        ValueError: not a GGUF file or one cut short, another architecture or tokenizer, a tensor type that cannot be
            dequantised, tensors that do not fit the file's own config.
    """
    path = Path(path)
    reader = _open(path)
    fields = _Fields(reader.fields, path)
    tensors = {_hf_name(tensor.name): tensor for tensor in reader.tensors}
    _check_plain(fields, tensors)
    vocabulary = _vocabulary(fields)
    cfg = _config(fields, tied=hf.HEAD not in tensors)
    # GGUF lists the fastest axis first.
    shapes = {name: tuple(int(size) for size in tensor.shape[::-1]) for name, tensor in tensors.items()}
    params = hf.assemble(cfg, shapes, lambda name: _tensor(cfg, name, tensors[name], path), str(path))
    return cfg, params, vocabulary


def _open(path: Path):
    try:
        import gguf
    except ImportError as error:
        raise ImportError(f'{path} is read by the package gguf: pip install "qstar[gguf]"') from error
    if not path.is_file():
        raise FileNotFoundError(f"no GGUF file at {path}")
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise ValueError(f"{path} does not begin with the letters GGUF: it is another kind of file")
    try:
        return gguf.GGUFReader(path)
    # The reader indexes past the end of its arrays where a file stops early.
    except (ValueError, IndexError, KeyError) as error:
        size = path.stat().st_size
        raise ValueError(f"{path} ({size} bytes) is damaged or cut short ({error}); download it again") from error


class _Fields:
    """The file's key-value pairs."""

    def __init__(self, fields: dict, path: Path):
        self._fields = fields
        self.path = path

    def get(self, name: str, default=None):
        return self._fields[name].contents() if name in self._fields else default

    def __getitem__(self, name: str):
        if name not in self._fields:
            raise ValueError(f"{self.path} lacks the field {name!r}; convert the model again with llama.cpp")
        return self.get(name)


def _check_plain(fields: _Fields, tensors: dict) -> None:
    """Raise ValueError for what `models/lm.py` does not compute."""
    architecture = fields["general.architecture"]
    if architecture != "llama":
        raise ValueError(f"{fields.path}: architecture {architecture!r}; only llama is supported")
    if fields.get("llama.expert_count", 0):
        raise ValueError(f"{fields.path}: {fields.get('llama.expert_count')} experts; only dense models are supported")
    scaling = fields.get("llama.rope.scaling.type", "none")
    if scaling != "none" or "rope_freqs.weight" in tensors:
        raise ValueError(f"{fields.path}: its rotary positions are scaled ({scaling}); only unscaled are supported")


def _config(fields: _Fields, tied: bool) -> LMConfig:
    width, heads = fields["llama.embedding_length"], fields["llama.attention.head_count"]
    return LMConfig(
        vocab=fields.get("llama.vocab_size", len(fields["tokenizer.ggml.tokens"])),
        width=width,
        layers=fields["llama.block_count"],
        heads=heads,
        kv_heads=fields.get("llama.attention.head_count_kv", heads),
        head_size=fields.get("llama.attention.key_length", width // heads),
        ff=fields["llama.feed_forward_length"],
        max_len=fields["llama.context_length"],
        rope_theta=float(fields.get("llama.rope.freq_base", 10000.0)),
        norm_eps=_shortest(fields["llama.attention.layer_norm_rms_epsilon"]),
        tied=tied,
    )


def _shortest(value: float) -> float:
    """The shortest decimal that is this float32: 1e-05, not 9.999999747378752e-06."""
    return float(str(np.float32(value)))


def _vocabulary(fields: _Fields) -> Vocabulary:
    kind, pre = fields["tokenizer.ggml.model"], fields.get("tokenizer.ggml.pre", "default")
    if kind != "gpt2" or pre not in PRE_TOKENIZERS:
        raise ValueError(
            f"{fields.path}: tokenizer {kind!r} with pre-tokeniser {pre!r} cannot be rebuilt, only 'gpt2' with one of "
            f"{', '.join(PRE_TOKENIZERS)}; use the model's Hugging Face directory, which holds its tokenizer.json"
        )
    tokens = fields["tokenizer.ggml.tokens"]
    types = fields.get("tokenizer.ggml.token_type", [1] * len(tokens))
    merges = tuple(tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"])
    special = tuple(token for token, type in zip(tokens, types, strict=True) if type in SPECIAL)
    return Vocabulary(tuple(tokens), merges, special, PRE_TOKENIZERS[pre])


def _hf_name(name: str) -> str:
    """Hugging Face's name of a tensor; names outside the architecture stay, and are refused with the rest."""
    parts = name.split(".", 2)
    if len(parts) == 3 and parts[0] == "blk" and parts[2] in LAYER_NAMES:
        return f"model.layers.{parts[1]}.{LAYER_NAMES[parts[2]]}"
    return NAMES.get(name, name)


def _tensor(cfg: LMConfig, name: str, tensor, path: Path) -> np.ndarray:
    import gguf

    try:
        weight = np.array(gguf.quants.dequantize(tensor.data, tensor.tensor_type), np.float32)
    except NotImplementedError as error:
        raise ValueError(
            f"{path}: {tensor.name} is stored as {tensor.tensor_type.name}, which the package gguf cannot dequantise; "
            "use another quantisation of the model"
        ) from error
    heads = {"q_proj": cfg.heads, "k_proj": cfg.kv_heads}.get(name.split(".")[-2], 0)
    return _deinterleave(weight, heads) if heads else weight


def _deinterleave(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows of every head from pairs (a0 b0 a1 b1 ...) to halves (a0 a1 ... b0 b1 ...)."""
    rows, width = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, width).swapaxes(1, 2).reshape(rows, width)
