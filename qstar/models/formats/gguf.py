"""Weights from a GGUF file of the Llama, Mistral, Qwen 2 and 3 or Gemma 3 family, dequantised to float32.

The file's fields are renamed to entries of a config.json, whose meaning `models/formats/families.py` knows. llama.cpp's
converter changes three things, undone here: it interleaves the two halves of every head's query and key rows in
architecture llama, whose rotary pairs are neighbours there; it adds 1 to Gemma's norms; and it leaves Llama 3's
rotary scaling as one factor per frequency. GGUF carries its tokenizer in pieces: `Vocabulary`.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import numpy as np

from qstar.models.formats import companions, families, gguf_header, hf
from qstar.models.formats.weights import finite
from qstar.models.lm import LMConfig
from qstar.ops import rotary
from qstar.ops.rotary import Scaling
from qstar.typing import Params

ARCHITECTURES = {"llama": "llama", "qwen2": "qwen2", "qwen3": "qwen3", "gemma3": "gemma3_text"}

# llama.cpp's names of the ways to cut text before byte-level BPE, and those of `qstar.data.tokenizer.STYLES`.
PRE_TOKENIZERS = {
    "gpt-2": "gpt-2", "smollm": "smollm", "llama-bpe": "llama3", "llama3": "llama3", "llama-v3": "llama3",
    "qwen2": "qwen2",
}  # fmt: skip
UNKNOWN, CONTROL, USER_DEFINED = 2, 3, 4  # types of tokens that are matched whole

# Fields of an architecture that change what is computed, with the one value of them that is.
COMPUTED = {
    "expert_count": 0, "attention.causal": True, "attention.clamp_kqv": 0, "attention.max_alibi_bias": 0,
    "attention.scale": 0, "attn_logit_softcapping": 0, "final_logit_softcapping": 0, "logit_scale": 1,
    "embedding_scale": 1, "residual_scale": 1, "use_parallel_residual": False, "rope.scale_linear": 1,
}  # fmt: skip

ROPE_FACTORS = "rope_freqs.weight"
NAMES = {"token_embd": hf.EMBEDDING, "output_norm": hf.NORM, "output": hf.HEAD}
LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
GEMMA_LAYER_NAMES = LAYER_NAMES | {
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}


@dataclass(frozen=True)
class Vocabulary:
    """A tokenizer in pieces: of byte-level BPE where it has a style, else of SentencePiece.

    `byte_level_bpe` and `sentencepiece_bpe` of `qstar.data.tokenizer` put them together.
    """

    tokens: tuple[str, ...]  # spelling of every id
    special: tuple[str, ...]  # tokens that are matched whole and never split
    merges: tuple[tuple[str, str], ...] = ()  # byte-level: pairs in the order of their merging
    style: str = ""  # byte-level: how text is cut into words
    scores: tuple[float, ...] = ()  # SentencePiece: the higher, the earlier a piece is made
    prefix: bool = False  # SentencePiece: a space is put before the text
    companions: dict[str, str] = field(default_factory=dict)  # special tokens, chat template and the like


def read_file(path: str | Path) -> tuple[LMConfig, Params, Vocabulary]:
    """Config, float32 weights (numpy) and tokenizer of a GGUF file.

    Raises:
        ImportError: the extra `gguf` is not installed.
        FileNotFoundError: no such file.
        ValueError: not a GGUF file or one cut short, a part of a split one, another architecture or tokenizer, a
            setting that is not computed, a tensor type that cannot be dequantised, tensors that do not fit the file's
            own config.
    """
    path = Path(path)
    reader = _open(path)
    fields = _Fields(reader.fields, path)
    _check_plain(fields)
    _check_types(reader.tensors, path)
    vocabulary = _vocabulary(fields)
    tensors = {_hf_name(fields.architecture, tensor.name): tensor for tensor in reader.tensors}
    if len(tensors) < len(reader.tensors):
        raise ValueError(f"{path} holds tensors under two of their names; convert the model again with llama.cpp")
    factors = tensors.pop(ROPE_FACTORS, None)
    rope = _rope(fields, None if factors is None else _dequantised(factors, path))
    cfg = families.read(_entries(fields, rope, tied=hf.HEAD not in tensors), str(path))
    # GGUF lists the fastest axis first.
    shapes = {name: tuple(int(size) for size in tensor.shape[::-1]) for name, tensor in tensors.items()}
    weight = _Weights(cfg, tensors, path, interleaved=fields.architecture == "llama")
    return cfg, hf.assemble(cfg, shapes, weight, str(path)), vocabulary


def _open(path: Path):
    try:
        import gguf
    except ImportError as error:
        raise ImportError(f'{path} is read by the package gguf: pip install ".[gguf]"') from error
    if not path.is_file():
        raise FileNotFoundError(f"no GGUF file at {path}")
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise ValueError(f"{path} does not begin with the letters GGUF: it is another kind of file")
    block_sizes = {int(type): sizes for type, sizes in gguf.GGML_QUANT_SIZES.items()}
    try:
        gguf_header.check(path, block_sizes)
        return gguf.GGUFReader(path)
    # The reader's errors have no type of their own.
    except (ValueError, IndexError, KeyError) as error:
        size = path.stat().st_size
        raise ValueError(f"{path} ({size} bytes) is damaged or cut short ({error}); download it again") from error


class _Fields:
    """The file's key-value pairs."""

    def __init__(self, fields: dict, path: Path):
        self._fields = fields
        self.path = path
        self.architecture = self.text("general.architecture")

    def get(self, name: str, default=None):
        return self._fields[name].contents() if name in self._fields else default

    def text(self, name: str, *default: str) -> str:
        value = self.get(name, *default) if default else self[name]
        if not isinstance(value, str):
            raise ValueError(f"{self.path}: {name} is {str(value)[:60]}, expected a text")
        return value

    def switch(self, name: str, default: bool) -> bool:
        value = self.get(name, default)
        if not isinstance(value, bool):
            raise ValueError(f"{self.path}: {name} is {str(value)[:60]}, expected true or false of type bool")
        return value

    def items(self, name: str, kind: type, count: int | None = None) -> list:
        """A list of texts or numbers, of this length where one is given."""
        values = self[name]
        if not isinstance(values, list) or not all(isinstance(value, kind) for value in values):
            raise ValueError(f"{self.path}: {name} is {str(values)[:60]}, expected a list of {kind.__name__}")
        if count is not None and len(values) != count:
            raise ValueError(f"{self.path}: {name} has {len(values)} entries, expected {count}")
        return values

    def __getitem__(self, name: str):
        if name not in self._fields:
            raise ValueError(f"{self.path} lacks the field {name!r}; convert the model again with llama.cpp")
        return self.get(name)

    def own(self, name: str, *default):
        """A field of the architecture: the one value, where it is given for every layer."""
        name = f"{self.architecture}.{name}"
        value = self.get(name, *default) if default else self[name]
        if not isinstance(value, list):
            return value
        if len(set(value)) != 1:  # none, or several
            raise ValueError(f"{self.path}: {name} is {value}; only models whose layers are all alike are read")
        return value[0]

    def count(self, name: str, *default) -> int:
        value = self.own(name, *default)
        if isinstance(value, bool) or not isinstance(value, int):
            self._refuse(name, value, "an integer")
        return value

    def real(self, name: str, *default) -> float:
        value = self.own(name, *default)
        if not _is_real(value):
            self._refuse(name, value, "a finite number in float32")
        return _shortest(value)

    def positive(self, name: str, *default) -> int:
        value = self.count(name, *default)
        if value < 1:
            self._refuse(name, value, "a positive integer")
        return value

    def _refuse(self, name: str, value: object, expected: str) -> NoReturn:
        raise ValueError(f"{self.path}: {self.architecture}.{name} is {str(value)[:60]}, expected {expected}")


def _is_real(value: object) -> bool:
    """Whether this is a number that is finite in float32; the file's may be of float64."""
    return (
        isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= float(np.finfo(np.float32).max)
    )  # NaN is not


def _shortest(value: float) -> float:
    """The shortest decimal that is this float32: 1e-05, not 9.999999747378752e-06."""
    return float(str(np.float32(value)))


def _check_plain(fields: _Fields) -> None:
    """Raise ValueError for what `models/lm.py` does not compute, or what is no whole model."""
    architecture, path = fields.architecture, fields.path
    if architecture not in ARCHITECTURES:
        raise ValueError(f"{path}: architecture {architecture!r}; supported are {', '.join(ARCHITECTURES)}")
    if fields.get("general.type", "model") != "model":
        raise ValueError(f"{path}: general.type is {fields.get('general.type')!r}; expected a whole model")
    if fields.get("split.count", 0) not in (0, 1):
        raise ValueError(
            f"{path} is one of {fields.get('split.count')} parts (split.count); join them with llama-gguf-split --merge"
        )
    for name, only in COMPUTED.items():
        value = fields.own(name, None)
        if value is not None and value != only:
            raise ValueError(f"{path}: {architecture}.{name} is {value}, only {only} is supported")
    head_size = _head_size(fields)
    for name in ("attention.value_length", "rope.dimension_count"):
        if fields.count(name, head_size) != head_size:
            raise ValueError(
                f"{path}: {architecture}.{name} is {fields.own(name)}, only the size of a head's keys, {head_size}, is "
                "supported"
            )


def _check_types(tensors: Iterable, path: Path) -> None:
    by_type = {tensor.tensor_type: tensor.name for tensor in reversed(list(tensors))}
    unread = {type: name for type, name in by_type.items() if not _is_read(type)}
    if unread:
        import gguf

        types = [type.name for type in gguf.GGMLQuantizationType if _is_read(type)]
        raise ValueError(
            f"{path}: "
            + ", ".join(f"{name} is stored as {type.name}" for type, name in unread.items())
            + f", which the package gguf cannot dequantise; it reads {', '.join(types)}: take another quantisation of "
            "the model, such as Q8_0 or Q4_K_M, or make one with llama-quantize"
        )


def _is_read(type) -> bool:
    """Whether the package dequantises a block of zeros of this type."""
    import gguf

    try:
        gguf.quants.dequantize(np.zeros((1, gguf.GGML_QUANT_SIZES[type][1]), np.uint8), type)
    except NotImplementedError:
        return False
    return True


def _entries(fields: _Fields, rope: dict, tied: bool) -> dict:
    """The file's shape as entries of a config.json."""
    heads, layers = fields.positive("attention.head_count"), fields.positive("block_count")
    if layers > families.MAX_LAYERS:
        raise ValueError(f"{fields.path}: {fields.architecture}.block_count is {layers}, which no model has")
    window = _window(fields, layers)
    kind = ARCHITECTURES[fields.architecture]
    entries = {
        "model_type": "mistral" if kind == "llama" and window["sliding_window"] else kind,
        "vocab_size": fields.count("vocab_size", len(fields.items("tokenizer.ggml.tokens", str))),
        "hidden_size": fields.count("embedding_length"),
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": fields.count("attention.head_count_kv", heads),
        "head_dim": _head_size(fields),
        "intermediate_size": fields.count("feed_forward_length"),
        "max_position_embeddings": fields.count("context_length"),
        "rms_norm_eps": fields.real("attention.layer_norm_rms_epsilon"),
        "rope_parameters": {families.FULL: rope} if kind == "gemma3_text" else rope,
        "tie_word_embeddings": tied,
    }
    return entries | window | (_gemma(fields) if kind == "gemma3_text" else {})


def _head_size(fields: _Fields) -> int:
    plain = fields.count("embedding_length") // fields.positive("attention.head_count")
    return fields.count("attention.key_length", plain)


def _gemma(fields: _Fields) -> dict:
    """What files of Gemma 3 leave to the reader: of the published sizes that of 62 layers scales its scores apart."""
    plain = fields.count("embedding_length") // fields.positive("attention.head_count")
    return {
        "query_pre_attn_scalar": plain if fields.count("block_count") == 62 else _head_size(fields),
        "rope_local_base_freq": fields.real("rope.freq_base_swa", 10000.0),
    }


def _window(fields: _Fields, layers: int) -> dict:
    """The window, and which layers have it: a period, of which the last sees everything, or one boolean a layer."""
    gemma = fields.architecture == "gemma3"
    window = fields.count("attention.sliding_window", 0) or None
    # As stored, not as `own` shortens it: a list of one boolean is not a period.
    pattern = fields.get(f"{fields.architecture}.attention.sliding_window_pattern", 6 if gemma else None)
    if fields.architecture.startswith("qwen") and pattern is None:
        window = None  # as in llama.cpp: Qwen's configs name a window that none of its layers has
    if window is None:
        return {"sliding_window": None, "use_sliding_window": False}
    config = {"sliding_window": window, "use_sliding_window": True}
    if pattern is None:
        return config
    period = type(pattern) is int and pattern >= 0
    if not period and not (isinstance(pattern, list) and all(isinstance(slides, bool) for slides in pattern)):
        raise ValueError(
            f"{fields.path}: {fields.architecture}.attention.sliding_window_pattern is {str(pattern)[:60]}, expected a "
            "period or a list of booleans"
        )
    if period:
        pattern = [not pattern or layer % pattern < pattern - 1 for layer in range(layers)]
    return config | {"layer_types": [families.SLIDING if slides else families.FULL for slides in pattern]}


def _rope(fields: _Fields, factors: np.ndarray | None) -> dict:
    """Rotary positions, of the layers that see everything where others have a window."""
    theta = fields.real("rope.freq_base", 10000.0)
    kind, factor = fields.own("rope.scaling.type", "linear"), fields.real("rope.scaling.factor", 0.0) or 1.0
    if kind not in ("none", "linear"):
        raise ValueError(
            f"{fields.path}: {fields.architecture}.rope.scaling.type is {kind!r}, only none, linear and llama3's "
            f"({ROPE_FACTORS}) are supported"
        )
    linear = kind == "linear" and factor != 1
    if factors is None or np.all(factors == 1):
        scaling = {"rope_type": "linear", "factor": factor} if linear else {"rope_type": "default"}
        return {"rope_theta": theta} | scaling
    if linear:
        raise ValueError(f"{fields.path}: both {ROPE_FACTORS} and rope.scaling.factor = {factor} scale its positions")
    return {"rope_theta": theta} | _llama3(fields, theta, factors.astype(float))


def _llama3(fields: _Fields, theta: float, factors: np.ndarray) -> dict:
    """The llama3 scaling that divides the frequencies by these factors.

    The file says neither where the ramp begins and ends, 1 and 4 turns in all of Meta's models, nor the length that
    the turns are counted in: a frequency on the ramp tells it.
    """
    low, high, factor = 1.0, 4.0, float(np.max(factors))
    size = _head_size(fields)
    if factors.shape == (size // 2,) and factor > 1:
        plain = rotary.frequencies(size, theta, None, np.float64)
        keep = (1 / factors - 1 / factor) / (1 - 1 / factor)
        lengths = 2 * np.pi * (low + keep * (high - low)) / plain
        on_ramp = lengths[(keep > 1e-3) & (keep < 1 - 1e-3)]
        for length in (fields.count("rope.scaling.original_context_length", 8192), *np.round(on_ramp).astype(int)):
            scaled = rotary.frequencies(size, theta, Scaling(factor, low, high, int(length)), np.float64)
            if np.allclose(plain / scaled, factors, rtol=1e-5):
                return {
                    "rope_type": "llama3", "factor": factor, "low_freq_factor": low, "high_freq_factor": high,
                    "original_max_position_embeddings": int(length),
                }  # fmt: skip
    raise ValueError(
        f"{fields.path}: the factors in {ROPE_FACTORS} ({factors.size} between {factors.min():.4g} and {factor:.4g}) "
        f"are not those of llama3's scaling of {size // 2} frequencies with a ramp from 1 to 4 turns; use the model's "
        "Hugging Face directory"
    )


def _vocabulary(fields: _Fields) -> Vocabulary:
    kind, pre = fields.text("tokenizer.ggml.model"), fields.text("tokenizer.ggml.pre", "default")
    tokens = tuple(fields.items("tokenizer.ggml.tokens", str))
    ids = {}
    for id, token in enumerate(tokens):
        if ids.setdefault(token, id) != id:  # a text could be encoded to one of the two only
            raise ValueError(f"{fields.path}: tokenizer.ggml.tokens has {token!r} twice, as ids {ids[token]} and {id}")
    types = [1] * len(tokens)
    if fields.get("tokenizer.ggml.token_type") is not None:
        types = fields.items("tokenizer.ggml.token_type", int, len(tokens))
    spelled, beside = list(zip(tokens, types, strict=True)), _companions(fields, tokens, kind, pre)
    if kind == "gpt2" and pre in PRE_TOKENIZERS:
        merges = tuple(tuple(merge.split(" ")) for merge in fields.items("tokenizer.ggml.merges", str))
        wrong = next((merge for merge in merges if len(merge) != 2), None)
        if wrong is not None:
            raise ValueError(f"{fields.path}: tokenizer.ggml.merges has {' '.join(wrong)!r}, expected two tokens")
        special = tuple(token for token, type in spelled if type in (CONTROL, USER_DEFINED))
        return Vocabulary(tokens, special, merges, PRE_TOKENIZERS[pre], companions=beside)
    if kind == "llama" and not fields.switch("tokenizer.ggml.remove_extra_whitespaces", False):
        special = tuple(token for token, type in spelled if type in (UNKNOWN, CONTROL, USER_DEFINED))
        prefix = fields.switch("tokenizer.ggml.add_space_prefix", True)
        scores = fields.items("tokenizer.ggml.scores", float, len(tokens))
        if not all(map(math.isfinite, scores)):
            raise ValueError(f"{fields.path}: tokenizer.ggml.scores holds NaN or infinity")
        return Vocabulary(tokens, special, scores=tuple(scores), prefix=prefix, companions=beside)
    raise ValueError(
        f"{fields.path}: tokenizer {kind!r} (tokenizer.ggml.model) with pre-tokeniser {pre!r} (tokenizer.ggml.pre) "
        f"cannot be rebuilt, only 'llama' that keeps all spaces, and 'gpt2' with one of {', '.join(PRE_TOKENIZERS)}; "
        "use the model's Hugging Face directory, which holds its tokenizer.json"
    )


def _companions(fields: _Fields, tokens: Sequence[str], kind: str, pre: str) -> dict[str, str]:
    """What the file says of special tokens, of templates, and of how to generate, as Hugging Face's files."""
    begins = fields.switch("tokenizer.ggml.add_bos_token", kind == "llama" or PRE_TOKENIZERS.get(pre) == "llama3")
    config = companions.PLAIN | {"add_bos_token": begins, "clean_up_tokenization_spaces": False}
    if fields.switch("tokenizer.ggml.add_eos_token", False):
        config["add_eos_token"] = True
    for name, token in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding")):
        id = _token_id(fields, token, len(tokens))
        if id is not None:
            config[f"{name}_token"] = tokens[id]
    named = [] if fields.get("tokenizer.chat_templates") is None else fields.items("tokenizer.chat_templates", str)
    templates = {name: fields.text(f"tokenizer.chat_template.{name}") for name in named}
    if fields.get("tokenizer.chat_template") is not None:
        templates = {"default": fields.text("tokenizer.chat_template")} | templates
    if templates.keys() == {"default"}:
        config["chat_template"] = templates["default"]
    elif templates:
        config["chat_template"] = [{"name": name, "template": text} for name, text in templates.items()]
    beside = {companions.TOKENIZER: companions.spelled(config)}
    generation = _generation(fields, len(tokens))
    return beside | ({companions.GENERATION: companions.spelled(generation)} if generation else {})


def _generation(fields: _Fields, count: int) -> dict:
    ends = [_token_id(fields, token, count) for token in ("eos", "eot", "eom")]
    ends = list(dict.fromkeys(id for id in ends if id is not None))
    settings = {
        "bos_token_id": _token_id(fields, "bos", count),
        "eos_token_id": ends[0] if len(ends) == 1 else ends or None,
        "pad_token_id": _token_id(fields, "padding", count),
    }
    for key, name in (("temp", "temperature"), ("top_k", "top_k"), ("top_p", "top_p")):
        value = fields.get(f"general.sampling.{key}")
        if value is None:
            continue
        if not _is_real(value):
            raise ValueError(f"{fields.path}: general.sampling.{key} is {str(value)[:60]}, expected a finite number")
        settings |= {"do_sample": True, name: value if isinstance(value, int) else _shortest(value)}
    return {name: value for name, value in settings.items() if value is not None}


def _token_id(fields: _Fields, token: str, count: int) -> int | None:
    name = f"tokenizer.ggml.{token}_token_id"
    id = fields.get(name)
    if id is not None and (isinstance(id, bool) or not isinstance(id, int)):
        raise ValueError(f"{fields.path}: {name} is {str(id)[:60]}, expected the id of a token")
    return id if id is not None and 0 <= id < count else None  # outside the vocabulary: no such token


def _hf_name(architecture: str, name: str) -> str:
    """Hugging Face's name of a tensor; names outside the architecture stay, and are refused with the rest."""
    parts = name.split(".")
    names = GEMMA_LAYER_NAMES if architecture == "gemma3" else LAYER_NAMES
    if len(parts) == 4 and parts[0] == "blk" and parts[2] in names:
        return f"model.layers.{parts[1]}.{names[parts[2]]}.{parts[3]}"
    return NAMES[parts[0]] if len(parts) == 2 and parts[0] in NAMES and parts[1] == "weight" else name


class _Weights:
    """Gives a tensor under Hugging Face's name, as it was before the conversion."""

    def __init__(self, cfg: LMConfig, tensors: dict, path: Path, interleaved: bool):
        self._tensors, self._path = tensors, path
        self._offset = np.float32(cfg.norm_offset)
        self._heads = {"q_proj": cfg.heads, "k_proj": cfg.kv_heads} if interleaved else {}

    def __call__(self, name: str) -> np.ndarray:
        weight = _dequantised(self._tensors[name], self._path)
        if name.endswith("norm.weight"):
            return weight - self._offset
        heads = self._heads.get(name.split(".")[-2], 0)
        return _deinterleave(weight, heads) if heads else weight


def _dequantised(tensor, path: Path) -> np.ndarray:
    import gguf

    with np.errstate(all="ignore"):  # damaged scales overflow; `finite` says so
        weight = np.array(gguf.quants.dequantize(tensor.data, tensor.tensor_type), np.float32)
    return finite(weight, tensor.name, path)


def _deinterleave(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows of every head from pairs (a0 b0 a1 b1 ...) to halves (a0 a1 ... b0 b1 ...)."""
    rows, width = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, width).swapaxes(1, 2).reshape(rows, width)
