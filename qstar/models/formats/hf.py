"""Weights in Hugging Face's layout: read and write directories of the models in `models/formats/families.py`.

Their matrices are [out, in]; ours keep heads as axes of their own and stack the layers, so a matrix of theirs is the
transpose of ours with the axes of each side flattened.
"""

import dataclasses
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax
import ml_dtypes
import numpy as np
import safetensors.numpy

from qstar import files
from qstar.models import lm
from qstar.models.definition import differences
from qstar.models.formats import companions, families
from qstar.models.formats.families import LayerTensor
from qstar.models.formats.weights import Tensors, inside
from qstar.models.lm import LMConfig
from qstar.settings import LARGEST
from qstar.typing import Params

WRITTEN = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16, "float16": np.float16}

BUFFER = "rotary_emb.inv_freq"  # frequencies that old exports carry, computed here
EMBEDDING, NORM, HEAD = "model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"
CLASSIFIERS = {"token-classification": "ForTokenClassification", "sequence-classification": "ForSequenceClassification"}
SCORE, SCORE_BIAS = "score.weight", "score.bias"  # of a classifier


def read_directory(path: str | Path) -> tuple[LMConfig, Params]:
    """Config and float32 weights (numpy) of a Hugging Face directory.

    The sizes of the config are compared with the headers of the files before memory is taken for them.

    Raises:
        FileNotFoundError: no config.json, no *.safetensors, or a shard that the index names is missing.
        ValueError: a model outside the families, a damaged file, a file outside the directory, weights that are
            missing, unexpected, of another shape or type, NaN or infinite, or an output layer that differs though the
            config ties it to the embedding.
    """
    path = Path(path)
    cfg = read_config(path)
    kind = classifier_of(files.json_object(inside(path, "config.json")))
    if kind is not None:
        raise ValueError(f"{path} holds a reward model (a {kind} classifier), no language model: give it as a scorer")
    with Tensors(*_weight_files(path)) as tensors:
        shapes = tensors.shapes
        tensors.check_types([name for name in shapes if not name.endswith(BUFFER)])
        return cfg, assemble(cfg, shapes, tensors, str(path))


def read_config(path: str | Path) -> LMConfig:
    """The config.json of a directory. Raises FileNotFoundError, or ValueError for models outside the families."""
    file = inside(Path(path), "config.json")
    if not file.is_file():
        raise FileNotFoundError(f"{path} has no config.json: expected a Hugging Face model directory")
    return families.read(files.json_object(file), str(file))


def read_classifier(path: str | Path) -> tuple[LMConfig, Params, Params, bool]:
    """What `write_classifier` writes: shape and weights of the language model, those of the head, and whether the head
    gives log-odds (two labels) or a score (one).

    A classifier has no output layer, so the language model is read as one whose output layer is its embedding.

    Raises FileNotFoundError and ValueError as `read_directory`, and ValueError for a directory of another kind of model
    and for a head of more labels.
    """
    path = Path(path)
    cfg = dataclasses.replace(read_config(path), tied=True)
    entries = files.json_object(inside(path, "config.json"))
    beside = entries.get("score_bias", 0.0)
    if isinstance(beside, bool) or not isinstance(beside, int | float) or not abs(beside) <= LARGEST:
        raise ValueError(f"{path / 'config.json'}: score_bias is {str(beside)[:40]!r}, expected a number")
    if classifier_of(entries) is None:
        raise ValueError(
            f"{path} holds {entries.get('architectures')}, which gives no scores: expected a directory that "
            f"qstar-prepare wrote with --to {' or '.join(CLASSIFIERS)}"
        )
    with Tensors(*_weight_files(path)) as tensors:
        head = {name: shape for name, shape in tensors.shapes.items() if name in (SCORE, SCORE_BIAS)}
        rows = next(iter(head.get(SCORE, ())), 0)
        expected = {SCORE: (rows, cfg.width)} | ({SCORE_BIAS: (rows,)} if SCORE_BIAS in head else {})
        if rows not in (1, 2) or head != expected:
            raise ValueError(
                f"{path}: the head is {head or 'missing'}; expected {SCORE} of 1 or 2 labels and width {cfg.width}"
            )
        trunk = {name: shape for name, shape in tensors.shapes.items() if name not in head}
        tensors.check_types([*head, *(name for name in trunk if not name.endswith(BUFFER))])
        params = assemble(cfg, trunk, tensors, str(path))
        weight = tensors(SCORE)
        bias = tensors(SCORE_BIAS) if SCORE_BIAS in head else np.zeros(rows, np.float32)
    beside = np.float32(beside)
    with np.errstate(all="ignore"):  # differences of damaged weights overflow, which is refused where they are used
        if rows == 1:
            return cfg, params, {"weight": weight[0], "bias": bias[0] + beside}, False
        # The log-odds of two labels are the difference of their logits.
        return cfg, params, {"weight": weight[1] - weight[0], "bias": bias[1] - bias[0] + beside}, True


def classifier_of(entries: Mapping[str, Any]) -> str | None:
    """The kind of `CLASSIFIERS` that a config.json describes; None for other models."""
    architectures = entries.get("architectures")
    named = str(architectures[0]) if isinstance(architectures, list) and architectures else ""
    return next((kind for kind, ending in CLASSIFIERS.items() if named.endswith(ending)), None)


def _weight_files(path: Path) -> tuple[list[Path], dict[str, Path]]:
    """The files to read, as transformers finds them, and the file of every tensor that an index names."""
    # A single file goes before an index, which may be left over from other weights.
    single, index = inside(path, "model.safetensors"), inside(path, "model.safetensors.index.json")
    if single.is_file():
        return [single], {}
    if index.is_file():
        homes = _shards(path, index)
        return sorted(set(homes.values())), homes
    unindexed = [inside(path, file.name) for file in sorted(path.glob("*.safetensors"))]
    if not unindexed:
        raise FileNotFoundError(
            f"{path} has no *.safetensors; weights in PyTorch's .bin form are loaded with transformers and saved again "
            "with save_pretrained, which writes safetensors"
        )
    return unindexed, {}


def _shards(path: Path, index: Path) -> dict[str, Path]:
    """File of every tensor that an index names."""
    names = files.json_object(index).get("weight_map")
    if not isinstance(names, dict) or not names:
        raise ValueError(f"{index}: weight_map is {_kind(names)}, expected an object from tensors to names of files")
    wrong = {tensor: name for tensor, name in names.items() if not isinstance(name, str) or not name}
    if wrong:
        tensor, name = next(iter(wrong.items()))
        raise ValueError(f"{index}: the file of {tensor} is {_kind(name)}, expected the name of a file")
    try:
        homes = {name: inside(path, name) for name in sorted(set(names.values()))}
    except ValueError as error:
        raise ValueError(f"{index} names a file that is not read: {error}") from error
    missing = [name for name, file in homes.items() if not file.is_file()]
    if missing:
        raise FileNotFoundError(f"{path} lacks {', '.join(missing)}, named by {index.name}; download it again")
    return {tensor: homes[name] for tensor, name in names.items()}


def _kind(value: object) -> str:
    return f"a JSON {type(value).__name__}" if value or isinstance(value, int) else repr(value)


def assemble(
    cfg: LMConfig, shapes: dict[str, tuple[int, ...]], tensor: Callable[[str], np.ndarray], source: str
) -> Params:
    """Our parameters from tensors under Hugging Face's names. Raises ValueError when they do not fit `cfg`.

    Args:
        shapes: shape of every tensor there is.
        tensor: gives one of them in float32.
    """
    _check_shapes(cfg, shapes, source)
    blocks = {}
    for leaf in families.layer_tensors(cfg):
        stack = np.empty((cfg.layers, *leaf.shape), np.float32)
        for layer in range(cfg.layers):
            stack[layer] = tensor(f"model.layers.{layer}.{leaf.name}").T.reshape(leaf.shape)
        _leaf(blocks, leaf.path[:-1], create=True)[leaf.path[-1]] = stack
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


def _check_shapes(cfg: LMConfig, shapes: dict[str, tuple[int, ...]], source: str) -> None:
    layers = _layers(shapes)
    several = f"num_hidden_layers is {cfg.layers}, the tensors are those of {layers} layers"
    if cfg.layers > len(shapes):  # too many to be listed
        raise ValueError(f"weights of {source} do not fit its config: {several}")
    expected = {name: shape for name, _, shape in _places(cfg)}
    # Old exports carry the rotary frequencies; tied models may carry the output layer a second time.
    spare = {HEAD: expected[EMBEDDING]} if cfg.tied and HEAD in shapes else {}
    shapes = {name: shape for name, shape in shapes.items() if not name.endswith(BUFFER)}
    problems = differences(expected | spare, shapes)
    if problems:
        problems += f"\n  {several}" if layers != cfg.layers else ""
        hint = "; set tie_word_embeddings if the model ties them" if HEAD not in shapes and not cfg.tied else ""
        raise ValueError(f"weights of {source} do not fit its config:\n  {problems}{hint}")


def _layers(names: Iterable[str]) -> int:
    """The number of layers that tensors of these names belong to; 0 where none tells."""
    numbers = [re.match(r"model\.layers\.([0-9]{1,9})\.", name) for name in names]
    return max((int(number[1]) + 1 for number in numbers if number), default=0)


def _check_tied(embedding: np.ndarray, head: np.ndarray, source: str) -> None:
    if not np.array_equal(embedding, head):
        gap = float(np.max(np.abs(embedding - head)))
        raise ValueError(
            f"{source}: config says tie_word_embeddings, but lm_head.weight differs from the embedding by up to "
            f"{gap:.3g}; set tie_word_embeddings to false if the output layer is its own"
        )


def _places(cfg: LMConfig) -> Iterator[tuple[str, Callable[[Params], np.ndarray], tuple[int, ...]]]:
    """Name of every tensor there, how to make it from our parameters, and its shape."""
    yield EMBEDDING, lambda params: params["embedding"], (cfg.vocab, cfg.width)
    leaves = families.layer_tensors(cfg)
    for layer in range(cfg.layers):
        for leaf in leaves:
            yield f"model.layers.{layer}.{leaf.name}", _flatten(leaf, layer), leaf.sides[::-1]
    yield NORM, lambda params: params["norm"]["scale"], (cfg.width,)
    if not cfg.tied:
        yield HEAD, lambda params: params["head"], (cfg.vocab, cfg.width)


def _flatten(leaf: LayerTensor, layer: int) -> Callable[[Params], np.ndarray]:
    return lambda params: np.asarray(_leaf(params["blocks"], leaf.path)[layer]).reshape(leaf.sides).T


def write_directory(
    path: str | Path,
    cfg: LMConfig,
    params: Params,
    tokenizer_json: str | None,
    dtype: str = "float32",
    ids: Mapping[str, int | list[int] | None] = MappingProxyType(dict.fromkeys(companions.IDS)),
) -> None:
    """Write a directory that transformers loads with `AutoModelForCausalLM` and `AutoTokenizer`.

    Args:
        tokenizer_json: contents of tokenizer.json; None writes weights and config only.
        dtype: stored type of the weights, float32, bfloat16 or float16.
        ids: of the tokens that begin, end and pad a text, as entries of config.json. Were they left out, transformers
            would put those of the first Llama in their place.
    """
    contents = _config(cfg, dtype) | dict(ids)
    lm.definition(cfg).check(params)
    write_files(Path(path), contents, tensors(cfg, params), tokenizer_json, dtype)


def tensors(cfg: LMConfig, params: Params) -> dict[str, np.ndarray]:
    """The weights under Hugging Face's names."""
    return {name: make(params) for name, make, _ in _places(cfg)}


_GEMMA = "Gemma3ForCausalLM"  # whose classifier of sequences has another name, and which has none of tokens


def write_classifier(
    path: str | Path,
    cfg: LMConfig,
    params: Params,
    score: Params,
    kind: str,
    log_odds: bool,
    tokenizer_json: str | None,
    dtype: str = "float32",
    ids: Mapping[str, int | list[int] | None] = MappingProxyType(dict.fromkeys(companions.IDS)),
) -> None:
    """Write a scorer as a directory that transformers loads with `AutoModelForTokenClassification`, or with
    `AutoModelForSequenceClassification`, whose logits are those of a text's last token.

    Log-odds become two labels, as TRL's reward models have them: the logits are 0 and the log-odds, so that their
    softmax is the score of label 1. Other scores are one label, a regression. Classifiers of sequences have no bias in
    transformers: that of the head is `score_bias` in config.json, to be added to the last logit.

    Args:
        score: weights of the head, `weight` [D] and `bias`.
        kind: of `CLASSIFIERS`.

    Raises ValueError for a family that has no such class.
    """
    contents = _config(cfg, dtype) | dict(ids)
    (causal,) = contents["architectures"]
    if causal == _GEMMA and kind == "token-classification":
        raise ValueError(f"transformers has no {kind} of {contents['model_type']}: choose sequence-classification")
    causal = causal.replace("Gemma3For", "Gemma3TextFor")
    weight, bias = (np.atleast_1d(np.asarray(score[name], np.float32)) for name in ("weight", "bias"))
    rows = 2 if log_odds else 1
    head = {SCORE: np.zeros((rows, cfg.width), np.float32)}
    head[SCORE][-1] = weight
    if kind == "token-classification":
        head[SCORE_BIAS] = np.zeros(rows, np.float32)
        head[SCORE_BIAS][-1:] = bias
    contents |= {
        "architectures": [causal.replace("ForCausalLM", CLASSIFIERS[kind])],
        "num_labels": rows,
        "problem_type": "single_label_classification" if log_odds else "regression",
        "id2label": {"0": "wrong", "1": "right"} if log_odds else {"0": "score"},
        "label2id": {"wrong": 0, "right": 1} if log_odds else {"score": 0},
        "classifier_dropout": 0.0,
        **({} if SCORE_BIAS in head else {"score_bias": float(bias[0])}),
    }
    lm.definition(cfg).check(params)
    trunk = tensors(cfg, params)
    trunk.pop(HEAD, None)
    write_files(Path(path), contents, trunk | head, tokenizer_json, dtype)


def _config(cfg: LMConfig, dtype: str) -> dict:
    if dtype not in WRITTEN:
        raise ValueError(f"dtype {dtype!r}: choose one of {', '.join(WRITTEN)}")
    return families.write(cfg, dtype)


def write_files(
    path: Path, contents: dict, tensors: Mapping[str, np.ndarray], tokenizer_json: str | None, dtype: str
) -> None:
    """Write config.json, model.safetensors and, where it is given, tokenizer.json."""
    path.mkdir(parents=True, exist_ok=True)
    stored = {name: np.ascontiguousarray(leaf, WRITTEN[dtype]) for name, leaf in tensors.items()}
    # transformers refuses files whose metadata does not name a framework.
    safetensors.numpy.save_file(stored, path / "model.safetensors", metadata={"format": "pt"})
    if tokenizer_json is not None:
        (path / "tokenizer.json").write_text(tokenizer_json, encoding="utf-8")
        companions.write(path, {companions.TOKENIZER: companions.spelled(companions.PLAIN)})
    (path / "config.json").write_text(companions.spelled(contents), encoding="utf-8")


def write_tensors(file: Path, tree: Params, dtype: str) -> None:
    """Write a tree of weights as one safetensors file; `mixing.first` names leaf `first` under `mixing`."""
    flat = jax.tree_util.tree_leaves_with_path(tree)
    tensors = {
        jax.tree_util.keystr(path, simple=True, separator="."): np.ascontiguousarray(leaf, WRITTEN[dtype])
        for path, leaf in flat
    }
    safetensors.numpy.save_file(tensors, file, metadata={"format": "pt"})
