"""The families of language models: what a config.json of each means, and the names of a layer's tensors.

All of them are one architecture with options (`models/lm.py`), so a family is a way to spell an `LMConfig`: the options
that it always has, the defaults that its configs leave out, and its names for the rest. Settings that would change
what is computed, and that `models/lm.py` does not compute, are refused.
"""

import dataclasses
import json
import math
from dataclasses import dataclass, field

from qstar.models.lm import COMPUTED, LMConfig
from qstar.ops.rotary import Scaling

FULL, SLIDING = "full_attention", "sliding_attention"


@dataclass(frozen=True)
class Family:
    """One value of model_type."""

    architecture: str
    defaults: dict  # of entries that may be absent
    options: dict = field(default_factory=dict)  # of LMConfig, the same in every model of the family
    refused: dict = field(default_factory=dict)  # entries with the one value that is computed
    divisible: bool = False  # transformers wants the width to be a multiple of the heads


PLAIN = {"max_position_embeddings": 32768, "rms_norm_eps": 1e-6, "tie_word_embeddings": False, "rope_theta": 1e4}
SILU = {"hidden_act": "silu"}
QWEN = PLAIN | {"use_sliding_window": False, "sliding_window": 4096, "max_window_layers": 28, "num_key_value_heads": 32}
FAMILIES = {
    "llama": Family(
        "LlamaForCausalLM",
        PLAIN | {"max_position_embeddings": 2048},
        refused=SILU | {"attention_bias": False, "mlp_bias": False},
        divisible=True,
    ),
    "mistral": Family(
        "MistralForCausalLM",
        PLAIN | {"max_position_embeddings": 131072, "sliding_window": 4096, "num_key_value_heads": 8},
        refused=SILU,
    ),
    "qwen2": Family("Qwen2ForCausalLM", QWEN, {"qkv_bias": True}, SILU),
    "qwen3": Family("Qwen3ForCausalLM", QWEN | {"head_dim": 128}, {"qk_norm": True}, SILU | {"attention_bias": False}),
    "gemma3_text": Family(
        "Gemma3ForCausalLM",
        {
            "max_position_embeddings": 131072, "rms_norm_eps": 1e-6, "tie_word_embeddings": True, "rope_theta": 1e6,
            "rope_local_base_freq": 1e4, "sliding_window": 4096, "sliding_window_pattern": 6, "head_dim": 256,
            "num_key_value_heads": 4, "query_pre_attn_scalar": 256,
        },
        {"qk_norm": True, "post_norms": True, "norm_offset": 1.0, "activation": "gelu_tanh"},
        {
            "hidden_activation": "gelu_pytorch_tanh", "attention_bias": False, "final_logit_softcapping": None,
            "attn_logit_softcapping": None, "use_bidirectional_attention": False,
        },
        divisible=True,
    ),
}  # fmt: skip


# Entries of a config.json: positive integers, and whether they may be null; positive numbers; switches.
COUNTS = {
    "vocab_size": False, "hidden_size": False, "num_hidden_layers": False, "num_attention_heads": False,
    "intermediate_size": False, "max_position_embeddings": False, "num_key_value_heads": True, "head_dim": True,
    "sliding_window": True, "sliding_window_pattern": False,
}  # fmt: skip
NUMBERS = (
    "rms_norm_eps", "rope_theta", "rope_local_base_freq", "query_pre_attn_scalar", "factor", "low_freq_factor",
    "high_freq_factor", "original_max_position_embeddings",
)  # fmt: skip
SWITCHES = ("tie_word_embeddings", "use_sliding_window")
ORIGINAL = "original_max_position_embeddings"
MAX_COUNT, MAX_LAYERS = 1 << 31, 10_000  # beyond those of any model


def read(raw: dict, source: str) -> LMConfig:
    """The shape that a config.json describes.

    Raises ValueError for what `models/lm.py` does not compute, for entries of another type, and for numbers that no
    model has.
    """
    kind = raw.get("model_type")
    if not isinstance(kind, str) or kind not in FAMILIES:
        raise ValueError(
            f"{source}: model_type {kind!r}; supported are {', '.join(FAMILIES)} (decoder-only, gated feed-forward)"
        )
    family = FAMILIES[kind]
    full = family.defaults | raw
    wrong = _wrong_values(full) or _contradictions(kind, full)
    if wrong:
        raise ValueError(f"{source}: " + "; ".join(wrong))
    try:
        problems = _problems(kind, full)
        if problems:
            raise ValueError(f"{source}: this {kind} variant is not supported:\n  " + "\n  ".join(problems))
        head_size = full.get("head_dim") or full["hidden_size"] // full["num_attention_heads"]
        return LMConfig(
            vocab=full["vocab_size"],
            width=full["hidden_size"],
            layers=full["num_hidden_layers"],
            heads=full["num_attention_heads"],
            kv_heads=full.get("num_key_value_heads") or full["num_attention_heads"],
            head_size=head_size,
            ff=full["intermediate_size"],
            max_len=full["max_position_embeddings"],
            norm_eps=float(full["rms_norm_eps"]),
            tied=full["tie_word_embeddings"],
            **family.options,
            **_attention(kind, full, head_size),
        )
    except KeyError as error:
        raise ValueError(f"{source} lacks {error.args[0]!r}; is it the config of a language model?") from error
    except ValueError as error:
        raise ValueError(str(error) if source in str(error) else f"{source}: {error}") from error


def _wrong_values(full: dict) -> list[str]:
    """Entries that are of another type, or that no model has, a line each."""
    wrong = []
    for name, optional in COUNTS.items():
        value, limit = full.get(name), MAX_LAYERS if name == "num_hidden_layers" else MAX_COUNT
        if name in full and not (optional and value is None) and not (type(value) is int and 0 < value < limit):
            wrong.append(f"{name} is {_short(value)}, expected a positive integer below {limit}")
    if "max_window_layers" in full and not (type(full["max_window_layers"]) is int and full["max_window_layers"] >= 0):
        wrong.append(f"max_window_layers is {_short(full['max_window_layers'])}, expected an integer from 0")
    for name in SWITCHES:
        if name in full and not isinstance(full[name], bool):
            wrong.append(f"{name} is {_short(full[name])}, expected true or false")
    types = full.get("layer_types")
    if types is not None and not (isinstance(types, list) and all(isinstance(type, str) for type in types)):
        wrong.append(f"layer_types is {_short(types)}, expected a list of names")
    return wrong + _wrong_numbers(full)


def _wrong_numbers(full: dict) -> list[str]:
    wrong = []
    for name in ("rope_scaling", "rope_parameters"):
        if full.get(name) is not None and not isinstance(full[name], dict):
            wrong.append(f"{name} is {_short(full[name])}, expected an object")
    ropes = [full[name] for name in ("rope_scaling", "rope_parameters") if isinstance(full.get(name), dict)]
    for rope, name in ((rope, name) for rope in ropes for name in (FULL, SLIDING)):
        if rope.get(name) is not None and not isinstance(rope[name], dict):
            wrong.append(f"rope_parameters.{name} is {_short(rope[name])}, expected an object")
    ropes += [value for rope in ropes for value in rope.values() if isinstance(value, dict)]
    for entries in (full, *ropes):
        for name in NUMBERS:
            value = entries.get(name, 1)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
                wrong.append(f"{name} is {_short(value)}, expected a positive number")
    return wrong


def _contradictions(kind: str, full: dict) -> list[str]:
    """What is said twice of rotary positions and differs, a line each: versions of transformers take either."""
    scaling, parameters = (full.get(name) or {} for name in ("rope_scaling", "rope_parameters"))
    if kind == "gemma3_text":  # where rope_scaling adds to what is said of the layers that see everything
        parameters = parameters.get(FULL) or {}
        scaling = {"rope_theta": parameters.get("rope_theta"), **scaling} if scaling else {}
    lines = []
    if scaling and parameters:
        first, second = _rotary(full, scaling), _rotary(full, parameters)
        differ = [name for name in first if first[name] != second.get(name, first[name])]
        if differ:
            lines.append(f"rope_scaling and rope_parameters differ in {', '.join(differ)}: remove one of the two")
    for rope in (scaling, parameters):
        lengths = {entries[ORIGINAL] for entries in (full, rope) if ORIGINAL in entries}
        if _rope_kind(rope) == "llama3" and len(lengths) > 1:
            lines.append(f"{ORIGINAL} is {full[ORIGINAL]}, and {rope[ORIGINAL]} of the rotary positions: remove one")
    return lines


def _rotary(full: dict, rope: dict) -> dict:
    """What a statement of rotary positions sets, whether it says so or leaves it out."""
    theta, length = rope.get("rope_theta"), full.get(ORIGINAL) or full["max_position_embeddings"]
    said = {"rope_type": _rope_kind(rope), "rope_theta": full["rope_theta"] if theta is None else theta}
    if said["rope_type"] != "default":
        said |= {name: rope.get(name) for name in ("factor", "low_freq_factor", "high_freq_factor")}
        said[ORIGINAL] = rope.get(ORIGINAL, length)
    return said


def _short(value: object) -> str:
    text = json.dumps(value) if not isinstance(value, int) else str(value) if abs(value) < 10**40 else "a huge number"
    return text if len(text) <= 60 else f"{text[:57]}..."


def _problems(kind: str, raw: dict) -> list[str]:
    """Settings that are not computed, a line each."""
    supported = FAMILIES[kind].refused | {"quantization_config": None, "partial_rotary_factor": 1, "is_causal": True}
    given = [(name, raw[name], only) for name, only in supported.items() if name in raw]
    wide, near = _rope_parameters(kind, raw)
    for rope, kinds in ((wide, ("default", "linear", "llama3")), (near, ("default",))):
        if any(isinstance(value, dict) for value in rope.values()):
            given.append(("rope_parameters", rope, "one set for all layers"))
        elif _rope_kind(rope) not in kinds:
            given.append(("rope_scaling", _rope_kind(rope), ", ".join(kinds)))
        given.append(("partial_rotary_factor", rope.get("partial_rotary_factor", 1), 1))
    given += _window_problems(kind, raw)
    spelled = lambda only: json.dumps(only) if only is None or isinstance(only, bool) else only  # noqa: E731
    return [
        f"{name} is {value!r}, only {spelled(only)} is supported"
        for name, value, only in given
        # What is off may be spelled null or false, but 0 is a number to divide by.
        if value != only and (value or only or type(value) in (int, float))
    ]


def _window_problems(kind: str, raw: dict) -> list[tuple]:
    types, window, layers = raw.get("layer_types"), raw.get("sliding_window"), raw["num_hidden_layers"]
    problems = []
    flat = [name for name in raw.get("rope_parameters") or {} if name not in (FULL, SLIDING)]
    if kind == "gemma3_text" and flat:  # which transformers does not read
        problems.append(("rope_parameters", raw["rope_parameters"], f"an object for {FULL} and one for {SLIDING}"))
    if SLIDING in (types or ()) and SLIDING not in _layer_types(kind, raw):
        problems.append(("layer_types", types, f"{FULL}, for there is no window,"))
    if types is not None and (set(types) - {FULL, SLIDING} or len(types) != layers):
        problems.append(("layer_types", types, f"{FULL} or {SLIDING} for each of {layers} layers"))
    # What transformers itself does not read, or cannot run.
    if kind == "mistral" and window is not None and FULL in (types or ()):
        problems.append(("layer_types", types, SLIDING))
    if kind == "gemma3_text" and window is None and SLIDING in (types or (SLIDING,)):
        problems.append(("sliding_window", None, "a number of positions"))
    return problems


def _rope_parameters(kind: str, raw: dict) -> tuple[dict, dict]:
    """What is said of rotary positions: of layers that see everything, and of those with a window where they differ."""
    rope = {"rope_theta": raw["rope_theta"]} | (raw.get("rope_scaling") or {}) | (raw.get("rope_parameters") or {})
    if kind != "gemma3_text":
        return rope, {}
    wide, near = rope.pop(FULL, None) or {}, rope.pop(SLIDING, None) or {}
    return rope | wide, {"rope_theta": raw["rope_local_base_freq"]} | near


def _rope_kind(rope: dict) -> str:
    return rope.get("rope_type", rope.get("type", "default"))


def _attention(kind: str, raw: dict, head_size: int) -> dict:
    """Fields of LMConfig about windows, rotary positions and scales."""
    wide, near = _rope_parameters(kind, raw)
    sliding = [layer for layer, type in enumerate(_layer_types(kind, raw)) if type == SLIDING]
    length = raw.get(ORIGINAL) or raw["max_position_embeddings"]
    fields = {"rope_theta": float(wide["rope_theta"]), "rope_scaling": _scaling(wide, length)}
    if sliding:
        fields["window"] = raw["sliding_window"]
        fields["global_layers"] = tuple(layer for layer in range(raw["num_hidden_layers"]) if layer not in sliding)
    if kind == "gemma3_text":
        local, scalar = float(near["rope_theta"]), raw["query_pre_attn_scalar"]
        fields["local_rope_theta"] = (
            local if sliding and (local != fields["rope_theta"] or fields["rope_scaling"]) else None
        )
        fields["query_scalar"] = None if scalar == head_size else float(scalar)
        fields["embed_scale"] = math.sqrt(raw["hidden_size"])
    return fields


def _layer_types(kind: str, raw: dict) -> list[str]:
    layers = range(raw["num_hidden_layers"])
    off = kind.startswith("qwen") and not raw["use_sliding_window"]
    if kind == "llama" or off or raw["sliding_window"] is None:
        return [FULL for _ in layers]
    if raw.get("layer_types") is not None:
        return raw["layer_types"]
    if kind == "gemma3_text":
        return [SLIDING if (layer + 1) % raw["sliding_window_pattern"] else FULL for layer in layers]
    first = raw["max_window_layers"] if kind.startswith("qwen") else 0
    return [SLIDING if layer >= first else FULL for layer in layers]


def _scaling(rope: dict, max_len: int) -> Scaling | None:
    kind = _rope_kind(rope)
    if kind == "default":
        return None
    if kind == "linear":
        return Scaling(float(rope["factor"]))
    return Scaling(
        float(rope["factor"]),
        float(rope["low_freq_factor"]),
        float(rope["high_freq_factor"]),
        rope.get(ORIGINAL, max_len),
    )


def write(cfg: LMConfig, dtype: str) -> dict:
    """Contents of the config.json from which `read` gives this shape: of the first family that can spell it.

    Raises ValueError where none can.
    """
    shape = dataclasses.replace(cfg, **{name: getattr(LMConfig, name) for name in COMPUTED})
    for kind, family in FAMILIES.items():
        contents = _contents(kind, shape, dtype)
        if not (family.divisible and cfg.width % cfg.heads) and read(contents, kind) == shape:
            return contents
    own = {item.name: getattr(shape, item.name) for item in dataclasses.fields(shape)}
    settings = {name: value for name, value in own.items() if value != getattr(LMConfig, name, None)}
    raise ValueError(
        f"no model of transformers ({', '.join(FAMILIES)}) has this shape: "
        + ", ".join(f"{name} = {value}" for name, value in settings.items())
    )


def _contents(kind: str, cfg: LMConfig, dtype: str) -> dict:
    contents = {
        "architectures": [FAMILIES[kind].architecture],
        "model_type": kind,
        "vocab_size": cfg.vocab,
        "hidden_size": cfg.width,
        "num_hidden_layers": cfg.layers,
        "num_attention_heads": cfg.heads,
        "num_key_value_heads": cfg.kv_heads,
        "head_dim": cfg.head_size,
        "intermediate_size": cfg.ff,
        "max_position_embeddings": cfg.max_len,
        "rope_theta": cfg.rope_theta,
        "rms_norm_eps": cfg.norm_eps,
        "tie_word_embeddings": cfg.tied,
        **FAMILIES[kind].refused,
        "torch_dtype": dtype,
    }
    if cfg.rope_scaling is not None:
        contents["rope_scaling"] = _rope_scaling(cfg.rope_scaling)
    if kind != "llama":
        contents["sliding_window"] = cfg.window
    if kind == "gemma3_text" and cfg.window is None:
        # transformers makes the mask of layers with a window even where there are none: it needs a number.
        contents["sliding_window"] = FAMILIES[kind].defaults["sliding_window"]
    if kind in ("qwen2", "qwen3", "gemma3_text"):
        contents["layer_types"] = [SLIDING if windowed else FULL for windowed in cfg.windowed]
    if kind in ("qwen2", "qwen3"):
        contents["use_sliding_window"] = cfg.window is not None
    if kind == "gemma3_text":
        contents["rope_local_base_freq"] = cfg.local_rope_theta or cfg.rope_theta
        # transformers wants an integer here.
        contents["query_pre_attn_scalar"] = round(cfg.query_scalar or cfg.head_size)
    return contents


def _rope_scaling(scaling: Scaling) -> dict:
    if scaling.original_len is None:
        return {"rope_type": "linear", "factor": scaling.factor}
    return {
        "rope_type": "llama3",
        "factor": scaling.factor,
        "low_freq_factor": scaling.low,
        "high_freq_factor": scaling.high,
        "original_max_position_embeddings": scaling.original_len,
    }


@dataclass(frozen=True)
class LayerTensor:
    """A weight of every layer: where it is in our blocks, their name, our shape, how many leading axes are inputs."""

    path: tuple[str, ...]
    name: str
    shape: tuple[int, ...]
    inputs: int

    @property
    def sides(self) -> tuple[int, ...]:
        """The shape with the axes of inputs and those of outputs flattened: (inputs, outputs), or (outputs,)."""
        inputs = (math.prod(self.shape[: self.inputs]),) if self.inputs else ()
        return (*inputs, math.prod(self.shape[self.inputs :]))


def layer_tensors(cfg: LMConfig) -> list[LayerTensor]:
    """Every tensor of a layer."""
    queries, keys = (cfg.heads, cfg.head_size), (cfg.kv_heads, cfg.head_size)
    matrices = {
        "query": ("self_attn.q_proj", (cfg.width, *queries), 1),
        "key": ("self_attn.k_proj", (cfg.width, *keys), 1),
        "value": ("self_attn.v_proj", (cfg.width, *keys), 1),
        "out": ("self_attn.o_proj", (*queries, cfg.width), 2),
        "gate": ("mlp.gate_proj", (cfg.width, cfg.ff), 1),
        "up": ("mlp.up_proj", (cfg.width, cfg.ff), 1),
        "down": ("mlp.down_proj", (cfg.ff, cfg.width), 1),
    }
    norms = {"attention_norm": ("input_layernorm", cfg.width)}
    if cfg.post_norms:
        # In Gemma the name means what it says: the norm after the attention.
        norms |= {
            "attention_post_norm": ("post_attention_layernorm", cfg.width),
            "mlp_norm": ("pre_feedforward_layernorm", cfg.width),
            "mlp_post_norm": ("post_feedforward_layernorm", cfg.width),
        }
    else:
        norms |= {"mlp_norm": ("post_attention_layernorm", cfg.width)}
    if cfg.qk_norm:
        norms |= {
            "query_norm": ("self_attn.q_norm", cfg.head_size),
            "key_norm": ("self_attn.k_norm", cfg.head_size),
        }
    tensors = [LayerTensor((path,), f"{name}.weight", *rest) for path, (name, *rest) in matrices.items()]
    tensors += [LayerTensor((path, "scale"), f"{name}.weight", (size,), 0) for path, (name, size) in norms.items()]
    if cfg.qkv_bias:
        biases = {"query": queries, "key": keys, "value": keys}
        tensors += [
            LayerTensor((f"{path}_bias",), f"{matrices[path][0]}.bias", shape, 0) for path, shape in biases.items()
        ]
    return tensors
