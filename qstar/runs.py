"""Open what lies on disk or on a hub: one function for every kind of source of a language model."""

import dataclasses
import math
import re
import typing
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np

from qstar import advice, files, settings
from qstar.data import marks as markings
from qstar.data import tokenizer as tokenizers
from qstar.data.tokenizer import Tokenizer
from qstar.methods.protocol import Compares, Method
from qstar.models import companions, gguf, hf, llama2c, lm, lora, peft
from qstar.models.companions import Companions
from qstar.models.definition import Definition, differences, join, shapes
from qstar.models.lm import DTYPES, REMATS, LMConfig
from qstar.models.lora import LoraConfig
from qstar.models.weights import finite, inside
from qstar.ops.attention import KERNELS
from qstar.settings import Count, OneOf, Positive
from qstar.thoughts.predict import Thinks
from qstar.training import checkpoint, metrics
from qstar.training.reference import Other
from qstar.typing import Params

BUNDLED = Path(__file__).parent / "bundled"
FORMAT = 1  # of model.json
EXTRAS = "thinker.safetensors"  # in an export: what a method added to the language model
FROZEN = "frozen"  # in a run directory: the weights that do not train

PLAIN = {int: int, float: (int, float), str: str, bool: bool}  # types of fields, and of their values in JSON
SWITCHES = ("auto", "true", "false")
# What gives the numbers of a part their meaning, as fields of `ThinkerConfig`.
MEANINGS = {"start": ("delimiter_scale",), "mixing": ("mixing", "mixing_side", "mixing_start")}

KINDS = """a model is one of
  bundled:NAME       a small model that comes with qstar
  DIRECTORY          of a Hugging Face model (config.json, *.safetensors, tokenizer.json), made by qstar-prepare, or a
                     run of qstar-train: the language model in its newest checkpoint, adapters merged; or of adapters
                     in peft's layout (adapter_config.json): the model that they name, with them merged
  FILE.gguf          of the Llama, Mistral, Qwen 2 and 3 and Gemma 3 families
  FILE.bin           of llama2.c in its legacy form, with its tokenizer.bin beside it
  hub:ORG/NAME       fetched from the Hugging Face hub (ORG/NAME alone works where no such path exists)"""


@dataclass(frozen=True)
class Loaded:
    """A language model read from somewhere."""

    config: LMConfig
    params: Params  # float32
    tokenizer: Tokenizer
    source: str
    extras: Params = field(default_factory=dict)  # what a method added to it in a run: delimiters, mixing head
    method: Method | None = None  # that method
    companions: Companions = field(default_factory=dict)  # special tokens, chat template and the like, see there


def load_model(source: str | Path) -> Loaded:
    """The language model at `source`, of any kind that `KINDS` lists.

    Raises:
        FileNotFoundError: nothing there, or a file of it is missing.
        ValueError: it cannot be read, is of no family that is known, or its tokenizer does not fit its vocabulary.
        ImportError, ConnectionError: the extra or the network that this kind wants is not there.
    """
    text = str(source)
    if text.startswith("bundled:"):
        loaded = _huggingface(_bundled(text.removeprefix("bundled:")))
    elif text.startswith("hub:"):
        loaded = _huggingface(hf.fetch(text.removeprefix("hub:")))
    elif is_run(text):
        run = load_run(Path(text).expanduser())
        loaded = Loaded(run.lm, run.language_model, run.tokenizer, text, run.extras, run.method, run.companions)
    else:
        loaded = _local(text)
    try:
        tokenizers.check_fits(loaded.tokenizer, loaded.config.vocab)
    except ValueError as error:
        raise ValueError(f"{text}: {error}") from error
    return dataclasses.replace(loaded, source=text)


def is_run(source: str | Path) -> bool:
    """Whether this is the directory of a run."""
    path = Path(source).expanduser()
    return (path / "config.yaml").is_file() and not (path / "model.json").is_file()


def save_model(path: str | Path, model: Loaded, dtype: str = "float32") -> None:
    """Write a directory that `load_model` reads: model.json, tokenizer.json and params/ in this type."""
    path = Path(path)
    files.make(path)
    stored = jax.tree.map(lambda leaf: np.asarray(leaf, jnp.dtype(dtype)), model.params)
    checkpoint.save_params(path / "params", stored)
    files.write(path / "tokenizer.json", model.tokenizer.to_json())
    companions.write(path, model.tokenizer.settled(model.companions))
    contents = {"format": FORMAT, "source": model.source, "model": dataclasses.asdict(model.config)}
    # Last: a directory with a model.json is complete.
    files.write_json(path / "model.json", contents)


def save_huggingface(path: str | Path, model: Loaded, dtype: str = "float32") -> None:
    """Write a directory that transformers loads, and beside it what a method added to the model in a run."""
    beside = model.tokenizer.settled(model.companions)
    ids = companions.token_ids(beside, model.config.vocab)
    hf.write_directory(path, model.config, model.params, model.tokenizer.exported_json(), dtype, ids)
    companions.write(Path(path), beside)
    if model.extras:
        hf.write_tensors(Path(path) / EXTRAS, model.extras, dtype)


def save_adapter(path: str | Path, source: str | Path, dtype: str = "float32") -> LMConfig:
    """Write the adapters of the run `source` in peft's layout, and beside them what its method added to the model.

    Returns the shape of the model that they belong to. Raises ValueError where there are none.
    """
    run = load_run(source)
    base = getattr(run.config.model, "source", None)
    if not run.config.lora.rank or base is None:
        why = "a model from scratch" if run.config.lora.rank else "trained without adapters (lora.rank = 0)"
        raise ValueError(f"{source} is {why}: write it with --to huggingface")
    peft.write(path, run.config.lora, run.params[lora.NAME], base, dtype)
    if run.extras:
        hf.write_tensors(Path(path) / EXTRAS, run.extras, dtype)
    return run.lm


def _local(text: str) -> Loaded:
    path = Path(text).expanduser()
    if path.is_file() and path.suffix == ".gguf":
        return _gguf(path)
    if path.is_file() and path.suffix == ".bin":
        return _llama2c(path)
    if (path / "model.json").is_file():
        return _checkpoint(path)
    if (path / peft.CONFIG).is_file():
        return _adapted(path)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise FileNotFoundError(f"{path} holds neither a config.json nor a model.json; {KINDS}")
        return _huggingface(path)
    if path.exists():
        raise ValueError(f"{path} is a file, but no .gguf or .bin; {KINDS}")
    if re.fullmatch(r"[\w.-]+/[\w.-]+", text) and not text.startswith("."):
        return _huggingface(hf.fetch(text))
    raise FileNotFoundError(f"no model at {text!r}; {KINDS}")


def _bundled(name: str) -> Path:
    names = sorted(path.parent.name for path in BUNDLED.glob("*/config.json"))
    if name not in names:
        raise ValueError(f"no bundled model {name!r}; there are: {', '.join(names) or 'none in this installation'}")
    return BUNDLED / name


def _huggingface(path: Path) -> Loaded:
    # What is small is read first: a damaged file is named before gigabytes are read.
    beside = companions.read(path)
    config = hf.read_config(path)
    tokenizer = tokenizers.without_added(Tokenizer.from_file(inside(path, "tokenizer.json")), config.vocab)
    config, params = hf.read_directory(path)
    return Loaded(config, params, tokenizer, str(path), companions=beside)


def _gguf(path: Path) -> Loaded:
    config, params, pieces = gguf.read_file(path)
    try:
        if pieces.style:
            vocab = {token: id for id, token in enumerate(pieces.tokens)}
            tokenizer = tokenizers.byte_level_bpe(vocab, pieces.merges, pieces.special, pieces.style)
        else:
            tokenizer = tokenizers.sentencepiece_bpe(pieces.tokens, pieces.scores, pieces.special, pieces.prefix)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    tokenizer = tokenizer.told_by(pieces.companions)
    # A file names one end or a few; readers of the format take the conventional spellings for ends as well.
    ends = tuple(dict.fromkeys((*tokenizer.ends, *tokenizer.conventional_ends())))
    tokenizer = tokenizer.marked(dataclasses.replace(tokenizer.marks, ends=ends))
    return Loaded(config, params, tokenizer, str(path), companions=pieces.companions)


def _adapted(path: Path) -> Loaded:
    base = load_model(peft.base_of(path))
    adapter, adapters = peft.read(path, base.config)
    definition = lora.adapted(lm.definition(base.config), adapter)
    params = definition.merged({**base.params, lora.NAME: adapters})
    return Loaded(base.config, params, base.tokenizer, str(path), companions=base.companions)


def _llama2c(path: Path) -> Loaded:
    config, params, pieces = llama2c.read_file(path)
    special = [token for token in ("<unk>", "<s>", "</s>") if token in pieces.tokens]
    try:
        tokenizer = tokenizers.sentencepiece_bpe(pieces.tokens, pieces.scores, special)
    except ValueError as error:
        raise ValueError(f"{path.parent / llama2c.TOKENIZER}: {error}") from error
    tokenizer = tokenizer.told_by(pieces.companions)
    # Stories stand one after another with <s> between them: a model that writes one has ended, as llama2.c has it.
    ends = tuple(dict.fromkeys((*tokenizer.ends, *tokenizer.begin)))
    tokenizer = tokenizer.marked(dataclasses.replace(tokenizer.marks, ends=ends))
    return Loaded(config, params, tokenizer, str(path), companions=pieces.companions)


def _checkpoint(path: Path) -> Loaded:
    file = path / "model.json"
    contents = files.read_json(file)
    if contents.get("format") != FORMAT:
        again = advice.command("qstar-prepare", str(contents.get("source", "SOURCE")), f"{path}-again")
        raise ValueError(
            f"{file} is of format {contents.get('format')!r}, this qstar reads {FORMAT}; run qstar-prepare again, into "
            f"another folder:\n{again}"
        )
    config = shape(file, "model")
    _check_sizes(config, checkpoint.params_shapes(path / "params"), path)
    params = jax.tree.map(lambda leaf: leaf.astype(np.float32), checkpoint.load_params(path / "params"))
    for leaf, weight in jax.tree_util.tree_leaves_with_path(params):
        finite(weight, jax.tree_util.keystr(leaf, simple=True, separator="/"), path / "params")
    tokenizer = Tokenizer.from_file(path / "tokenizer.json")
    return Loaded(config, params, tokenizer, str(path), companions=companions.read(path))


def _check_sizes(config: LMConfig, stored: dict[str, tuple[int, ...]], source: Path) -> None:
    """Raise ValueError where weights of these shapes are not those of the model, before memory is taken for either."""
    total = sum(math.prod(shape) for shape in stored.values())
    for name in ("vocab", "width", "layers", "heads", "kv_heads", "head_size", "ff"):
        if getattr(config, name) > total:
            raise ValueError(f"{source}: {name} = {getattr(config, name)} does not fit its {total} weights")
    problems = differences(shapes(lm.definition(config).abstract), stored)
    if problems:
        raise ValueError(f"{source} do not fit this model:\n  {problems}\nis it a checkpoint of another model?")


@dataclass(frozen=True)
class Pretrained:
    """A language model to start from.

    Of a run, what its method added to the language model (start, end and pause embeddings, mixing head, gate) is gone
    on from as well, where the new method has such a part; `extras=false` starts these anew.
    """

    source: str  # bundled:NAME, DIRECTORY, FILE.gguf, FILE.bin, hub:ORG/NAME, or a run: see qstar-prepare --help
    extras: bool = True  # of a run, go on from what its method added to the language model
    # begin-of-text token before every text; auto: the tokenizer's own setting
    begin: Annotated[str, OneOf(SWITCHES)] = "auto"
    # every prompt is a message in the chat template; auto: as a run was trained, else false
    chat: Annotated[str, OneOf(SWITCHES)] = "auto"
    dtype: Annotated[str, OneOf(DTYPES)] = "float32"  # of the matrix products; weights are kept in float32
    # What the backward pass computes again: `full`, every layer, the least memory; `minimal`, all but products with
    # weights; `none`.
    remat: Annotated[str, OneOf(REMATS)] = "full"
    attention: Annotated[str, OneOf(KERNELS)] = "einsum"  # what computes the text's attention to itself

    def __post_init__(self):
        object.__setattr__(self, "remat", lm.remat_of(self.remat))
        for name in ("begin", "chat"):
            object.__setattr__(self, name, _switch(getattr(self, name)))
        settings.check(self, "model")

    def load(self, seed: int) -> Loaded:
        loaded = load_model(self.source)
        config = dataclasses.replace(loaded.config, **{name: getattr(self, name) for name in lm.COMPUTED})
        extras = loaded.extras if self.extras else {}
        tokenizer = loaded.tokenizer.beginning(self.begin).chatting(self.chat)
        return dataclasses.replace(loaded, config=config, tokenizer=tokenizer, extras=extras)


def _switch(value: object) -> str:
    """A setting of `SWITCHES` as text, also where YAML has made a truth of it."""
    return str(value).lower()


@dataclass(frozen=True)
class Scratch:
    """A new model with random weights. `tokenizer` is a tokenizer.json, or `characters:` and an alphabet."""

    tokenizer: str = "characters:"  # a tokenizer.json, or `characters:` and an alphabet
    # begin-of-text token before every text; auto: the tokenizer's own setting
    begin: Annotated[str, OneOf(SWITCHES)] = "auto"
    width: Count = 128  # of the residual stream
    layers: Count = 2  # transformer blocks
    heads: Count = 4  # of queries
    kv_heads: Count = 4  # heads of keys and values; fewer than heads: grouped-query attention
    head_size: Count = 32  # channels of a head
    ff: Count = 384  # width of the feed-forward
    max_len: Count = 2048  # tokens of the context
    rope_theta: Positive = 10000.0  # base of the rotary frequencies
    tied: bool = True  # the output layer is the embedding
    dtype: Annotated[str, OneOf(DTYPES)] = "float32"  # of the matrix products; weights are kept in float32
    # What the backward pass computes again: `full`, every layer, the least memory; `minimal`, all but products with
    # weights; `none`.
    remat: Annotated[str, OneOf(REMATS)] = "full"
    attention: Annotated[str, OneOf(KERNELS)] = "einsum"  # what computes the text's attention to itself

    def __post_init__(self):
        object.__setattr__(self, "remat", lm.remat_of(self.remat))
        object.__setattr__(self, "begin", _switch(self.begin))
        self._shape(vocab=1)  # checks the sizes
        settings.check(self, "model")

    def _shape(self, vocab: int) -> LMConfig:
        own = ("tokenizer", "begin")
        return LMConfig(
            vocab=vocab, **{name: value for name, value in dataclasses.asdict(self).items() if name not in own}
        )

    def load(self, seed: int) -> Loaded:
        kind, _, alphabet = self.tokenizer.partition(":")
        if kind == "characters":
            tokenizer, beside = tokenizers.characters(alphabet), {}
        else:
            tokenizer, beside = Tokenizer.from_file(self.tokenizer), companions.read(Path(self.tokenizer).parent)
        tokenizer, config = tokenizer.beginning(self.begin), self._shape(tokenizer.size)
        return Loaded(config, lm.definition(config).init(jax.random.key(seed)), tokenizer, "scratch", companions=beside)


# --- runs ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """A trained run, opened: all that its directory knows."""

    path: Path
    config: Any  # qstar.config.TrainConfig
    method: Method  # resolved
    lm: LMConfig
    definition: Definition
    params: Params  # frozen ones included
    tokenizer: Tokenizer
    step: int
    companions: Companions = field(default_factory=dict)

    @property
    def language_model(self) -> Params:
        """The weights of the language model alone, float32 or better (numpy); adapters are merged into them."""
        params = self.definition.merged(self.params) if self.definition.frozen else self.params
        # Weights that were trained in bfloat16 as well.
        wide = lambda leaf: np.asarray(leaf, np.promote_types(np.asarray(leaf).dtype, np.float32))  # noqa: E731
        return jax.tree.map(wide, params.get("lm", params))

    @property
    def extras(self) -> Params:
        """What the method added to the language model."""
        return {
            name: part for name, part in self.params.items() if "lm" in self.params and name not in ("lm", lora.NAME)
        }

    @property
    def metrics(self) -> list[dict]:
        """The lines of metrics.jsonl."""
        return metrics.records(self.path)


def shape(file: Path, part: str = "") -> LMConfig:
    """The shape of a language model from a JSON file, or from a part of it. Raises ValueError with file and line."""
    contents = files.read_json(file)
    if part:
        files.check(contents, f"{file}, line 1", "a prepared model", **{part: dict})
        contents = contents[part]
    fields, types = {one.name: one for one in dataclasses.fields(LMConfig)}, typing.get_type_hints(LMConfig)
    for name, value in contents.items():
        where = files.place(file, name)
        if name not in fields:
            raise ValueError(f"{where}: {name!r} is no field of a model's shape, which has {', '.join(fields)}")
        if types[name] in PLAIN:
            files.check({name: value}, where, "the shape of a model", **{name: PLAIN[types[name]]})
    missing = [name for name, one in fields.items() if one.default is dataclasses.MISSING and name not in contents]
    if missing:
        raise ValueError(f"{file}, line 1: lacks {', '.join(missing)}; put back a copy of the file")
    try:
        return LMConfig(**contents)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{file}: {error}") from error


def describe(
    directory: Path, config: LMConfig, tokenizer: Tokenizer, beside: Companions = MappingProxyType({})
) -> None:
    """Write what `load_run` needs besides the configuration: the shape of the model, its tokenizer and companions."""
    directory.mkdir(parents=True, exist_ok=True)
    files.write_json(directory / "lm.json", dataclasses.asdict(config))
    files.write(directory / "tokenizer.json", tokenizer.to_json())
    companions.write(directory, tokenizer.settled(beside))


def carried_on(loaded: Loaded, method: Method) -> Params:
    """The extras of a loaded run that a run of `method` goes on from.

    Raises ValueError where a number of theirs means something else to `method` than it did in that run.
    """
    definition = method.definition(loaded.config)
    kept = {name: part for name, part in loaded.extras.items() if name in definition.abstract}
    if not kept:
        return {}
    new, old = (one.bind(one.abstract).cfg for one in (definition, loaded.method.definition(loaded.config)))
    for part, fields in MEANINGS.items():
        for name in fields if part in kept else ():
            if getattr(new, name) != getattr(old, name):
                raise ValueError(
                    f"model.source = {loaded.source}: its {part} was trained with method.{name} = "
                    f"{getattr(old, name)!r}, this run has {getattr(new, name)!r}: give method.{name} the value of "
                    "then, or start the parts that its method added anew with model.extras=false"
                )
    return kept


def other_model(method: Method, loaded: Loaded) -> Other | None:
    """The model of the run that a method compares with, or None where it names none.

    Raises FileNotFoundError for a directory that is no run, ValueError for another tokenizer or a method that does not
    think.
    """
    if not isinstance(method, Compares) or not method.reference.run:
        return None
    path = Path(method.reference.run)  # never `latest`: what that means changes before a run is resumed
    run = load_run(path.absolute())
    if run.tokenizer.to_json() != loaded.tokenizer.to_json():
        raise ValueError(f"{path} has another tokenizer than {loaded.source}: their predictions cannot be compared")
    if not isinstance(run.method, Thinks):
        raise ValueError(
            f"{path} was trained with {type(run.method).__name__}, which does not think: name a run of a method that "
            "does"
        )
    return Other(run.method, run.definition, run.params)


def keep_frozen(directory: Path, frozen: Params, cfg: LoraConfig) -> None:
    """Keep what checkpoints leave out: the frozen weights themselves, or the number that tells them from others."""
    if cfg.keep_base:
        checkpoint.save_params(directory / FROZEN, frozen)
    else:
        files.write_json(directory / f"{FROZEN}.json", {"crc32": _checksum(frozen)})


def frozen_weights(directory: Path, definition: Definition, lm_params: Callable[[], Params]) -> Params | None:
    """The frozen weights of a run (numpy), or None where everything trains.

    Args:
        lm_params: reads the language model that the run began with; called where the run kept no copy.

    Raises ValueError when these are other weights by now.
    """
    if not definition.frozen:
        return None
    if (directory / FROZEN).is_dir():
        return checkpoint.load_params(directory / FROZEN)
    frozen = definition.freeze(lm_params())
    file = directory / f"{FROZEN}.json"
    kept = files.read_json(file)
    files.check(kept, f"{file}, line 1", "the checksum of the frozen weights", crc32=int)
    if _checksum(frozen) != kept["crc32"]:
        raise ValueError(
            f"{directory} was trained on a frozen model of which it kept no copy (lora.keep_base=false), and "
            "model.source has other weights now: put those of then back"
        )
    return frozen


def _checksum(params: Params) -> int:
    found = 0
    for leaf in jax.tree.leaves(params):
        found = zlib.crc32(np.ascontiguousarray(leaf).view(np.uint8), found)
    return found


def latest_run(root: str | Path = "runs", trained_alone: bool = False) -> Path:
    """The run directory under `root` that was started last, of those that have a checkpoint.

    Args:
        trained_alone: leave out the trainings that are iterations of self-training, which goes on by itself.

    Raises FileNotFoundError when there is none.
    """
    # A run's control lies inside it and is a run as well, but not the one that is meant.
    started = [file for file in Path(root).glob("**/config.yaml") if not (file.parent.parent / "config.yaml").is_file()]
    if trained_alone:
        started = [file for file in started if not (file.parent.parent / "improve.yaml").is_file()]
    saved = [file for file in started if saved_steps(file.parent)]
    if saved:
        return _newest(saved).parent
    if started:
        raise FileNotFoundError(
            f"no run under {Path(root).absolute()} has a checkpoint yet, of {len(started)} that were started, the last "
            f"one in {_newest(started).parent}: go on with that one by its name, or start one with qstar-train"
        )
    raise FileNotFoundError(f"no run under {Path(root).absolute()}: start one with qstar-train, or name a directory")


def latest_store(root: str | Path = "runs") -> Path:
    """The rationales of the self-training under `root` that sampled last.

    Raises FileNotFoundError when there are none.
    """
    from qstar.data import rationales as store  # here: it imports Parquet

    found = [file for file in Path(root).glob(f"**/{store.FOLDER}/{store.ABOUT}") if any(file.parent.glob("*.parquet"))]
    if not found:
        raise FileNotFoundError(
            f"no rationales under {Path(root).absolute()}: sample some with qstar-improve, or name a run directory"
        )
    return _newest(found).parent


def _newest(of: Sequence[Path]) -> Path:
    return max(of, key=lambda file: (file.stat().st_mtime, str(file)))


def steps(path: str | Path) -> list[int]:
    """Steps of the checkpoints in a run directory, ascending. Raises FileNotFoundError where there are none."""
    found = saved_steps(Path(path))
    if not found:
        raise FileNotFoundError(
            f"{Path(path) / 'checkpoints'} holds no committed checkpoint: did the run get as far as its first save?"
        )
    return found


def _tokenizer_of(path: Path) -> Tokenizer:
    """The tokenizer of a run, which puts the begin-of-text token where it did in training."""
    tokenizer = Tokenizer.from_file(path / "tokenizer.json")
    # Earlier versions wrote no settings, and trained without that token.
    return tokenizer if markings.known(path) else tokenizer.beginning("false")


def as_begun(directory: Path, loaded: Loaded) -> Loaded:
    """The model with the begin-of-text token as the run in this directory has it, where it has begun already."""
    if not (directory / "tokenizer.json").is_file():
        return loaded
    begins = _tokenizer_of(directory).marks.begins
    if begins == loaded.tokenizer.marks.begins:
        return loaded
    return dataclasses.replace(loaded, tokenizer=loaded.tokenizer.beginning("true" if begins else "false"))


def saved_steps(path: Path) -> list[int]:
    """Steps of the checkpoints in a run directory, ascending; none where nothing has been saved."""
    # A save in flight has another name until it is committed.
    return sorted(
        int(one.name) for one in (path / "checkpoints").glob("*") if one.name.isdigit() and any(one.glob("*"))
    )


def load_run(path: str | Path = "latest", step: int | None = None) -> Run:
    """Open a run directory, or `latest`; `step` picks a checkpoint (default: the newest).

    Raises FileNotFoundError for a directory that is no run or holds no checkpoint, ValueError for one of another model.
    """
    from qstar import config as configs  # it knows this module

    path = latest_run() if str(path) == "latest" else Path(path)
    if not (path / "config.yaml").is_file():
        raise FileNotFoundError(f"{path} is no run directory (no config.yaml in it): qstar-train makes one")
    cfg = configs.load(path / "config.yaml")
    config = shape(path / "lm.json")
    tokenizer = _tokenizer_of(path)
    method = cfg.method.resolve(tokenizer)
    definition = lora.adapted(method.definition(config), cfg.lora)
    with checkpoint.Checkpoints(path / "checkpoints", every=1, keep=2**31) as saved:
        step = saved.latest if step is None else step
        trained = saved.load_params(step)
    params = join(trained, frozen_weights(path, definition, lambda: cfg.model.load(cfg.seed).params))
    definition.check(params, f"the weights of {path}")
    return Run(path, cfg, method, config, definition, params, tokenizer, step, companions.read(path))


def rationales(path: str | Path = "latest", where: Any = None, columns: Sequence[str] | None = None) -> Any:
    """All that a self-training run sampled, right or wrong: a pandas data frame, or a pyarrow table without pandas.

    Args:
        path: the directory of a run, or `latest`, the newest that has sampled.
        where: a query, as in `qstar.data.rationales`: `CORRECT & of_iteration(3)`.

    Raises FileNotFoundError for a run without rationales, ValueError for damaged files.
    """
    from qstar.data import rationales as store

    folder = latest_store() if str(path) == "latest" else Path(path) / store.FOLDER
    table = store.Store.open(folder).rows(where, columns)
    try:
        import pandas  # noqa: F401
    except ImportError:
        return table
    return table.to_pandas()
