"""Weights in Hugging Face's layout: read and write directories of Llama-family models.

The family is what `models/lm.py` computes: RMSNorm, rotary positions of one base, grouped-query attention without
biases, SwiGLU. Their matrices are [out, in]; ours keep heads as axes of their own and stack the layers, so a matrix of
theirs is the transpose of ours with the axes of each side flattened.
"""

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import safetensors
import safetensors.numpy

from qstar.models import lm
from qstar.models.definition import differences
from qstar.models.lm import LMConfig
from qstar.typing import Params

FAMILIES = ("llama", "mistral")
WRITTEN = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16, "float16": np.float16}
READ = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}

# Our weight of a layer, its name there, and how many of our leading axes are inputs.
LAYER = (
    (("attention_norm", "scale"), "input_layernorm.weight", 0),
    (("query",), "self_attn.q_proj.weight", 1),
    (("key",), "self_attn.k_proj.weight", 1),
    (("value",), "self_attn.v_proj.weight", 1),
    (("out",), "self_attn.o_proj.weight", 2),
    (("mlp_norm", "scale"), "post_attention_layernorm.weight", 0),
    (("gate",), "mlp.gate_proj.weight", 1),
    (("up",), "mlp.up_proj.weight", 1),
    (("down",), "mlp.down_proj.weight", 1),
)
EMBEDDING, NORM, HEAD = "model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"


def read_directory(path: str | Path) -> tuple[LMConfig, Params]:
    """Config and float32 weights (numpy) of a Hugging Face directory.

    Raises:
        FileNotFoundError: no config.json, no *.safetensors, or a shard that the index names is missing.
        ValueError: a model outside the family, a damaged file, weights that are missing, unexpected, of another
            shape or type, or an output layer that differs though the config ties it to the embedding.
    """
    path = Path(path)
    cfg = read_config(path)
    with _Weights(path) as weights:
        return cfg, assemble(cfg, weights.shapes, weights.tensor, str(path))


def read_config(path: str | Path) -> LMConfig:
    """The config.json of a directory. Raises FileNotFoundError, or ValueError for models outside the family."""
    file = Path(path) / "config.json"
    if not file.is_file():
        raise FileNotFoundError(f"{path} has no config.json: a Hugging Face model directory is wanted")
    raw = _json(file)
    _check_family(raw, file)
    rope = raw.get("rope_parameters") or {}
    mistral = raw["model_type"] == "mistral"
    try:
        return LMConfig(
            vocab=raw["vocab_size"],
            width=raw["hidden_size"],
            layers=raw["num_hidden_layers"],
            heads=raw["num_attention_heads"],
            kv_heads=raw.get("num_key_value_heads") or (8 if mistral else raw["num_attention_heads"]),
            head_size=raw.get("head_dim") or raw["hidden_size"] // raw["num_attention_heads"],
            ff=raw["intermediate_size"],
            max_len=raw.get("max_position_embeddings", 4096 * 32 if mistral else 2048),
            rope_theta=float(rope.get("rope_theta", raw.get("rope_theta", 10000.0))),
            norm_eps=float(raw.get("rms_norm_eps", 1e-6)),
            tied=raw.get("tie_word_embeddings", False),
        )
    except KeyError as error:
        raise ValueError(f"{file} lacks {error.args[0]!r}; is it the config of a language model?") from error


def _check_family(raw: dict, file: Path) -> None:
    """Raise ValueError naming every setting that `models/lm.py` does not compute."""
    family = raw.get("model_type")
    if family not in FAMILIES:
        raise ValueError(f"{file}: model_type {family!r}; supported are {', '.join(FAMILIES)} (decoder-only, SwiGLU)")
    rope = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    # An absent sliding_window is Mistral's default, 4096: configs leave defaults out.
    window = raw.get("sliding_window", 4096) if family == "mistral" else None
    refused = {
        "attention_bias": (raw.get("attention_bias", False), "false"),
        "mlp_bias": (raw.get("mlp_bias", False), "false"),
        "rope_scaling": (None if kind == "default" else kind, "none"),
        "partial_rotary_factor": (None if rope.get("partial_rotary_factor", 1) == 1 else rope, "1"),
        "sliding_window": (window, "null"),
        "hidden_act": (None if raw.get("hidden_act", "silu") == "silu" else raw["hidden_act"], "silu"),
    }
    problems = [
        f"{name} is {value!r}, only {wanted} is supported" for name, (value, wanted) in refused.items() if value
    ]
    if problems:
        raise ValueError(f"{file}: this {family} variant is not supported:\n  " + "\n  ".join(problems))


def _json(file: Path) -> dict:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{file} is not JSON ({error}); copy or download it again") from error


class _Weights:
    """The tensors of a directory's safetensors files, read one at a time."""

    def __init__(self, path: Path):
        self._files = {}
        self._open = []
        for file in _weight_files(path):
            opened = _open_weights(file)
            self._open.append(opened)
            self._files.update({name: (file, opened) for name in opened.keys()})

    def __enter__(self) -> "_Weights":
        return self

    def __exit__(self, *_) -> None:
        for opened in self._open:
            opened.__exit__(None, None, None)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tuple(opened.get_slice(name).get_shape()) for name, (_, opened) in self._files.items()}

    def tensor(self, name: str) -> np.ndarray:
        file, opened = self._files[name]
        dtype = opened.get_slice(name).get_dtype()
        if dtype not in READ:
            raise ValueError(f"{file}: {name} is stored as {dtype}; supported are {', '.join(READ)}")
        return opened.get_tensor(name).astype(np.float32)


def _weight_files(path: Path) -> list[Path]:
    index = path / "model.safetensors.index.json"
    if index.is_file():
        files = [path / name for name in sorted(set(_json(index)["weight_map"].values()))]
        missing = [file.name for file in files if not file.is_file()]
        if missing:
            raise FileNotFoundError(f"{path} lacks {', '.join(missing)}, named by {index.name}; download it again")
        return files
    # Some directories hold a second copy of the weights under other names, consolidated.safetensors.
    files = [file for file in [path / "model.safetensors"] if file.is_file()] or sorted(path.glob("*.safetensors"))
    if not files:
        raise FileNotFoundError(
            f"{path} has no *.safetensors; weights in PyTorch's .bin form are loaded with transformers and saved again "
            "with save_pretrained, which writes safetensors"
        )
    return files


def _open_weights(file: Path):
    try:
        return safetensors.safe_open(file, framework="numpy").__enter__()
    except safetensors.SafetensorError as error:
        size = file.stat().st_size
        raise ValueError(f"{file} ({size} bytes) is damaged or cut short ({error}); download it again") from error


def assemble(
    cfg: LMConfig, shapes: dict[str, tuple[int, ...]], tensor: Callable[[str], np.ndarray], source: str
) -> Params:
    """Our parameters from tensors under Hugging Face's names. Raises ValueError when they do not fit `cfg`.

    Args:
        shapes: shape of every tensor there is.
        tensor: gives one of them in float32.
    """
    _check_shapes(cfg, shapes, source)
    abstract = lm.definition(cfg).abstract
    blocks = {}
    for path, name, _ in LAYER:
        stack = np.empty(_leaf(abstract["blocks"], path).shape, np.float32)
        for layer in range(cfg.layers):
            stack[layer] = tensor(f"model.layers.{layer}.{name}").T.reshape(stack.shape[1:])
        _leaf(blocks, path[:-1], create=True)[path[-1]] = stack
    params = {"embedding": tensor(EMBEDDING), "blocks": blocks, "norm": {"scale": tensor(NORM)}}
    if not cfg.tied:
        params["head"] = tensor(HEAD)
    elif HEAD in shapes:
        _check_tied(params["embedding"], tensor(HEAD), source)
    return params


def _leaf(tree: dict, path: tuple[str, ...], create: bool = False):
    for name in path:
        tree = tree.setdefault(name, {}) if create else tree[name]
    return tree


def _check_shapes(cfg: LMConfig, found: dict[str, tuple[int, ...]], source: str) -> None:
    wanted = {name: shape for name, _, shape in _places(cfg)}
    # Old exports carry the rotary frequencies; tied models may carry the output layer a second time.
    spare = {HEAD: wanted[EMBEDDING]} if cfg.tied and HEAD in found else {}
    found = {name: shape for name, shape in found.items() if not name.endswith("rotary_emb.inv_freq")}
    problems = differences(wanted | spare, found)
    if problems:
        hint = "; set tie_word_embeddings if the model ties them" if HEAD not in found and not cfg.tied else ""
        raise ValueError(f"weights of {source} do not fit its config:\n  {problems}{hint}")


def _check_tied(embedding: np.ndarray, head: np.ndarray, source: str) -> None:
    if not np.array_equal(embedding, head):
        gap = float(np.max(np.abs(embedding - head)))
        raise ValueError(
            f"{source}: config says tie_word_embeddings, but lm_head.weight differs from the embedding by up to "
            f"{gap:.3g}; set tie_word_embeddings to false if the output layer is its own"
        )


def _places(cfg: LMConfig) -> Iterator[tuple[str, Callable[[Params], np.ndarray], tuple[int, ...]]]:
    """Name of every tensor there, how to make it from our parameters, and its shape."""
    abstract = lm.definition(cfg).abstract
    yield EMBEDDING, lambda params: params["embedding"], abstract["embedding"].shape
    for layer in range(cfg.layers):
        for path, name, inputs in LAYER:
            shape = _leaf(abstract["blocks"], path).shape[1:]
            sides = (math.prod(shape[:inputs]), math.prod(shape[inputs:])) if inputs else shape
            make = _flatten(path, layer, sides)
            yield f"model.layers.{layer}.{name}", make, sides[::-1]
    yield NORM, lambda params: params["norm"]["scale"], abstract["norm"]["scale"].shape
    if not cfg.tied:
        yield HEAD, lambda params: params["head"], abstract["head"].shape


def _flatten(path: tuple[str, ...], layer: int, sides: tuple[int, ...]) -> Callable[[Params], np.ndarray]:
    return lambda params: np.asarray(_leaf(params["blocks"], path)[layer]).reshape(sides).T


def write_directory(
    path: str | Path, cfg: LMConfig, params: Params, tokenizer_json: str | None, dtype: str = "float32"
) -> None:
    """Write a directory that transformers loads with `AutoModelForCausalLM` and `AutoTokenizer`.

    Args:
        tokenizer_json: contents of tokenizer.json; None writes weights and config only.
        dtype: stored type of the weights, float32, bfloat16 or float16.
    """
    if dtype not in WRITTEN:
        raise ValueError(f"dtype {dtype!r}: choose one of {', '.join(WRITTEN)}")
    if cfg.width % cfg.heads:
        raise ValueError(f"transformers refuses a Llama of width {cfg.width} that {cfg.heads} heads do not divide")
    lm.definition(cfg).check(params)
    path = Path(path)
    path.mkdir(parents=True, exist_ok=True)
    tensors = {name: np.ascontiguousarray(make(params), WRITTEN[dtype]) for name, make, _ in _places(cfg)}
    # transformers refuses files whose metadata does not name a framework.
    safetensors.numpy.save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    if tokenizer_json is not None:
        (path / "tokenizer.json").write_text(tokenizer_json, encoding="utf-8")
        _write_json(path / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast"})
    _write_json(path / "config.json", _config(cfg, dtype))


def _config(cfg: LMConfig, dtype: str) -> dict:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
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
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "torch_dtype": dtype,
    }


def write_tensors(file: Path, tree: Params, dtype: str) -> None:
    """Write a tree of weights as one safetensors file; `mixing.first` names leaf `first` under `mixing`."""
    flat = jax.tree_util.tree_leaves_with_path(tree)
    tensors = {
        jax.tree_util.keystr(path, simple=True, separator="."): np.ascontiguousarray(leaf, WRITTEN[dtype])
        for path, leaf in flat
    }
    safetensors.numpy.save_file(tensors, file, metadata={"format": "pt"})


def _write_json(file: Path, contents: dict) -> None:
    file.write_text(json.dumps(contents, indent=2) + "\n", encoding="utf-8")


def fetch(hub_id: str) -> Path:
    """Directory of a model from the Hugging Face hub, downloaded once and kept in its cache.

    Raises:
        ImportError: the extra `hub` is not installed.
        ConnectionError: no network and no copy in the cache.
        ValueError: the hub has no such model, or not for this account.
    """
    try:
        import huggingface_hub
        from huggingface_hub import errors
    except ImportError as error:
        raise ImportError(f'{hub_id} is on the Hugging Face hub: pip install "qstar[hub]" to fetch it') from error
    try:
        found = huggingface_hub.snapshot_download(
            hub_id, allow_patterns=["*.json", "*.safetensors"], ignore_patterns=["consolidated*", "original/*"]
        )
    except (errors.RepositoryNotFoundError, errors.HFValidationError) as error:
        raise ValueError(f"the Hugging Face hub has no model {hub_id!r} that this account may read") from error
    except OSError as error:  # no network, nothing in the cache, a server's refusal
        raise ConnectionError(
            f"could not fetch {hub_id} from the Hugging Face hub ({str(error).splitlines()[0]}); on a machine with a "
            f"network run `hf download {hub_id} --local-dir DIR`, copy DIR here and give its path"
        ) from error
    return Path(found)
