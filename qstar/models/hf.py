"""Weights in Hugging Face's layout: read and write directories of the models in `models/families.py`.

Their matrices are [out, in]; ours keep heads as axes of their own and stack the layers, so a matrix of theirs is the
transpose of ours with the axes of each side flattened.
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

from qstar.models import families, lm
from qstar.models.definition import differences
from qstar.models.lm import LMConfig
from qstar.typing import Params

WRITTEN = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16, "float16": np.float16}
READ = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}

EMBEDDING, NORM, HEAD = "model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"


def read_directory(path: str | Path) -> tuple[LMConfig, Params]:
    """Config and float32 weights (numpy) of a Hugging Face directory.

    Raises:
        FileNotFoundError: no config.json, no *.safetensors, or a shard that the index names is missing.
        ValueError: a model outside the families, a damaged file, weights that are missing, unexpected, of another
            shape or type, or an output layer that differs though the config ties it to the embedding.
    """
    path = Path(path)
    cfg = read_config(path)
    with _Weights(path) as weights:
        return cfg, assemble(cfg, weights.shapes, weights.tensor, str(path))


def read_config(path: str | Path) -> LMConfig:
    """The config.json of a directory. Raises FileNotFoundError, or ValueError for models outside the families."""
    file = Path(path) / "config.json"
    if not file.is_file():
        raise FileNotFoundError(f"{path} has no config.json: a Hugging Face model directory is wanted")
    return families.read(_json(file), str(file))


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
    for one in families.layer_tensors(cfg):
        stack = np.empty(_leaf(abstract["blocks"], one.path).shape, np.float32)
        for layer in range(cfg.layers):
            stack[layer] = tensor(f"model.layers.{layer}.{one.name}").T.reshape(stack.shape[1:])
        _leaf(blocks, one.path[:-1], create=True)[one.path[-1]] = stack
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
        for one in families.layer_tensors(cfg):
            shape = _leaf(abstract["blocks"], one.path).shape[1:]
            sides = (math.prod(shape[: one.inputs]),) if one.inputs else ()
            sides += (math.prod(shape[one.inputs :]),)
            yield f"model.layers.{layer}.{one.name}", _flatten(one.path, layer, sides), sides[::-1]
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
    contents = families.write(cfg, dtype)
    lm.definition(cfg).check(params)
    path = Path(path)
    path.mkdir(parents=True, exist_ok=True)
    tensors = {name: np.ascontiguousarray(make(params), WRITTEN[dtype]) for name, make, _ in _places(cfg)}
    # transformers refuses files whose metadata does not name a framework.
    safetensors.numpy.save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    if tokenizer_json is not None:
        (path / "tokenizer.json").write_text(tokenizer_json, encoding="utf-8")
        _write_json(path / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast"})
    _write_json(path / "config.json", contents)


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
