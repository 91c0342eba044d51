"""Read and write language models: one function for every kind of source."""

import dataclasses
import json
import math
import re
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from qstar import advice, files, paths
from qstar import config as configs
from qstar.config import TrainConfig
from qstar.data import tokenizer as tokenizers
from qstar.data.tokenizer import Tokenizer
from qstar.methods.adaptive import Adaptive
from qstar.methods.protocol import Compares, Method
from qstar.methods.verifier import ORM, PRM, Verifier
from qstar.models import lm, lora, thinker
from qstar.models.definition import Definition, differences, join, shapes
from qstar.models.formats import companions, gguf, hf, hub, llama2c, peft, thinkers
from qstar.models.formats.weights import finite, inside
from qstar.models.lm import LMConfig
from qstar.models.origins import KINDS, Pretrained, Scratch
from qstar.policy import Policy
from qstar.runs import stored
from qstar.runs.kinds import held
from qstar.thoughts.thinking import Thinks
from qstar.training import checkpoint, metrics
from qstar.typing import Params

BUNDLED = paths.PACKAGE / "bundled"
FORMAT = 1  # of model.json
EXTRAS = "thinker.safetensors"  # in an export: what a method added to the language model
# What gives the numbers of a part their meaning, as fields of `ThinkerConfig`.
MEANINGS = {"start": ("delimiter_scale",), "mixing": ("mixing", "mixing_side", "mixing_start")}


def load_model(source: str | Path) -> Policy:
    """The language model at `source`, of any kind that `KINDS` lists.

    Raises:
        FileNotFoundError: nothing there, or a file of it is missing.
        ValueError: it cannot be read, is of no family that is known, or its tokenizer does not fit its vocabulary.
        ImportError, ConnectionError: the extra or the network that this kind needs is missing.
    """
    text, path = str(source), _place(source)
    loaded = load_run(path) if stored.is_run(path) else _local(path, text)
    try:
        tokenizers.check_fits(loaded.tokenizer, loaded.lm.vocab)
    except ValueError as error:
        raise ValueError(f"{text}: {error}") from error
    return dataclasses.replace(loaded, name=text)


def load_scorer(source: str | Path) -> Policy:
    """The reward model at `source`: a run that trained one, or a classifier that `save_classifier` wrote.

    A classifier of two labels is read as a process reward model, whose scores are probabilities; of one label as an
    outcome reward model. Raises as `load_model`, and ValueError for a model of another kind.
    """
    text = str(source)
    path = stored.latest_run() if text == "latest" else _place(source)
    if stored.is_run(path):
        return load_run(path)
    if not (path / "config.json").is_file():
        raise FileNotFoundError(
            f"no reward model at {text!r}: expected a run of method=orm, prm or dpo, a classifier that qstar-prepare "
            f"wrote, or bundled:NAME{held(path, 'config.yaml')}"
        )
    beside = companions.read(path)
    tokenizer = Tokenizer.from_file(inside(path, "tokenizer.json"))
    cfg, params, score, log_odds = hf.read_classifier(path)
    tokenizer = tokenizers.without_added(tokenizer, cfg.vocab)
    tokenizers.check_fits(tokenizer, cfg.vocab)
    method = PRM() if log_odds else ORM()
    return Policy(method, method.definition(cfg), {"lm": params, "score": score}, tokenizer, text, beside)


def _place(source: str | Path) -> Path:
    """The directory of a model that is bundled or, once it is fetched, of one on the hub; else the path as it is."""
    kind, _, name = str(source).partition(":")
    if kind == "bundled":
        return _bundled(name)
    return hub.fetch(name) if kind == "hub" else files.expanded(source)


def save_model(path: str | Path, model: Policy, dtype: str = "float32") -> None:
    """Write a directory that `load_model` reads: model.json, tokenizer.json and params/ in this type."""
    path = Path(path)
    files.make(path)
    stored = jax.tree.map(lambda leaf: np.asarray(leaf, jnp.dtype(dtype)), model.language_model)
    checkpoint.save_params(path / "params", stored)
    files.write(path / "tokenizer.json", model.tokenizer.to_json())
    companions.write(path, model.tokenizer.settled(model.companions))
    contents = {"format": FORMAT, "source": model.name, "model": dataclasses.asdict(model.lm)}
    # Last: a directory with a model.json is complete.
    files.write_json(path / "model.json", contents)


def save_huggingface(path: str | Path, model: Policy, dtype: str = "float32") -> None:
    """Write a directory that transformers loads, and beside it what a method added to the model in a run."""
    beside = model.tokenizer.settled(model.companions)
    ids = companions.token_ids(beside, model.lm.vocab)
    hf.write_directory(path, model.lm, model.language_model, model.tokenizer.exported_json(), dtype, ids)
    companions.write(Path(path), beside)
    if model.extras:
        hf.write_tensors(Path(path) / EXTRAS, model.extras, dtype)


def save_classifier(path: str | Path, source: str | Path, kind: str, dtype: str = "float32") -> LMConfig:
    """Write the reward model of the run `source` as a classifier of tokens or of sequences that transformers loads.

    Returns the shape of its language model. Raises ValueError for a run of another method.
    """
    run = load_run(source)
    if not isinstance(run.method, Verifier):
        raise ValueError(
            f"{source} was trained with {configs.given('method', run.method)}, which has no score head: "
            "write it with --to huggingface, or name a run of method=orm or method=prm"
        )
    beside = run.tokenizer.settled(run.companions)
    ids = companions.token_ids(beside, run.lm.vocab)
    log_odds = run.method.error == "cross_entropy"
    tokenizer = run.tokenizer.exported_json()
    hf.write_classifier(path, run.lm, run.language_model, run.params["score"], kind, log_odds, tokenizer, dtype, ids)
    companions.write(Path(path), beside)
    return run.lm


def save_thinker(path: str | Path, run: Policy, dtype: str = "float32") -> None:
    """Write a model with its thoughts, as a directory that transformers loads with `trust_remote_code=True`.

    Raises ValueError for a model that does not think, or whose thoughts depend on other texts.
    """
    if not isinstance(run.method, Thinks):
        raise ValueError(
            f"{run.name} was trained with {configs.given('method', run.method)}, which does not think: "
            "write it with --to huggingface, or name a run of a method that thinks"
        )
    thinking, cfg = run.method.thinking, run.definition.abstract_model.cfg
    gate_at = run.method.gate_at if isinstance(run.method, Adaptive) else None
    habits = thinkers.Habits(thinking.thought_len, thinking.mix, thinking.fill, gate_at)
    beside = dict(run.tokenizer.settled(run.companions))
    ids = companions.token_ids(beside, run.lm.vocab)
    # Texts have none of them either.
    suppressed = {"suppress_tokens": list(cfg.tokens.forbidden)} if cfg.tokens.forbidden else {}
    said = json.loads(beside.get(companions.GENERATION, "{}")) | {"use_cache": False} | suppressed
    beside[companions.GENERATION] = companions.spelled(said)
    params = {"lm": run.language_model, **run.extras}
    thinkers.write(Path(path), cfg, habits, params, run.tokenizer.exported_json(), dtype, ids)
    companions.write(Path(path), beside)


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


def _local(path: Path, text: str) -> Policy:
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
            what = held(path, "config.yaml") or f"; {KINDS}"
            raise FileNotFoundError(f"{path} holds neither a config.json nor a model.json{what}")
        return _huggingface(path)
    if path.exists():
        raise ValueError(f"{path} is a file, but no .gguf or .bin; {KINDS}")
    if re.fullmatch(r"[\w.-]+/[\w.-]+", text) and not text.startswith("."):
        return _local(_fetched(text), text)
    raise FileNotFoundError(f"no model at {text!r}; {KINDS}")


def _fetched(name: str) -> Path:
    """ORG/NAME on the hub, where it is no folder here: errors say both."""
    try:
        return hub.fetch(name)
    except (ImportError, ConnectionError, ValueError) as error:
        raise type(error)(f"there is no folder {name} here (qstar-prepare makes one), and {error}") from error


def _bundled(name: str) -> Path:
    names = sorted(path.parent.name for path in BUNDLED.glob("*/config.json"))
    if name not in names:
        raise ValueError(f"no bundled model {name!r}; there are: {', '.join(names) or 'none in this installation'}")
    return BUNDLED / name


def _huggingface(path: Path) -> Policy:
    # What is small is read first: a damaged file is named before gigabytes are read.
    beside = companions.read(path)
    config = hf.read_config(path)
    tokenizer = tokenizers.without_added(Tokenizer.from_file(inside(path, "tokenizer.json")), config.vocab)
    config, params = hf.read_directory(path)
    return Policy.of_language_model(config, params, tokenizer, str(path), beside)


def _gguf(path: Path) -> Policy:
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
    return Policy.of_language_model(config, params, tokenizer, str(path), pieces.companions)


def _adapted(path: Path) -> Policy:
    base = load_model(peft.base_of(path))
    adapter, adapters = peft.read(path, base.lm)
    definition = lora.adapted(lm.definition(base.lm), adapter)
    params = definition.merged({**base.language_model, lora.NAME: adapters})
    return Policy.of_language_model(base.lm, params, base.tokenizer, str(path), base.companions)


def _llama2c(path: Path) -> Policy:
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
    return Policy.of_language_model(config, params, tokenizer, str(path), pieces.companions)


def _checkpoint(path: Path) -> Policy:
    file = path / "model.json"
    contents = files.read_json(file)
    if contents.get("format") != FORMAT:
        source, out = (advice.path(name) for name in (contents.get("source", "SOURCE"), f"{path}-again"))
        again = advice.command("qstar-prepare", source, out)
        raise ValueError(
            f"{file} is of format {contents.get('format')!r}, this qstar reads {FORMAT}; run qstar-prepare again, into "
            f"another folder:\n{again}"
        )
    config = stored.shape(file, "model")
    _check_sizes(config, checkpoint.params_shapes(path / "params"), path)
    params = jax.tree.map(lambda leaf: leaf.astype(np.float32), checkpoint.load_params(path / "params"))
    for leaf, weight in jax.tree_util.tree_leaves_with_path(params):
        finite(weight, jax.tree_util.keystr(leaf, simple=True, separator="/"), path / "params")
    tokenizer = Tokenizer.from_file(path / "tokenizer.json")
    return Policy.of_language_model(config, params, tokenizer, str(path), companions.read(path))


def _check_sizes(config: LMConfig, stored: dict[str, tuple[int, ...]], source: Path) -> None:
    """Raise ValueError where weights of these shapes are not those of the model, before memory is taken for either."""
    total = sum(math.prod(shape) for shape in stored.values())
    for name in ("vocab", "width", "layers", "heads", "kv_heads", "head_size", "ff"):
        if getattr(config, name) > total:
            raise ValueError(f"{source}: {name} = {getattr(config, name)} does not fit its {total} weights")
    problems = differences(shapes(lm.definition(config).abstract), stored)
    if problems:
        raise ValueError(f"{source} do not fit this model:\n  {problems}\nis it a checkpoint of another model?")


def initial_model(source: Pretrained | Scratch, seed: int) -> Policy:
    """The language model that a configuration starts from; `seed` draws the weights of one from scratch."""
    if isinstance(source, Scratch):
        kind, _, alphabet = source.tokenizer.partition(":")
        if kind == "characters":
            tokenizer, beside = tokenizers.characters(alphabet), {}
        else:
            tokenizer, beside = Tokenizer.from_file(source.tokenizer), companions.read(Path(source.tokenizer).parent)
        tokenizer, config = tokenizer.beginning(source.begin), source.shape(tokenizer.size)
        return Policy.of_language_model(
            config, lm.definition(config).init(jax.random.key(seed)), tokenizer, "scratch", beside
        )
    loaded = load_model(source.source)
    config = dataclasses.replace(loaded.lm, **{name: getattr(source, name) for name in lm.COMPUTED})
    tokenizer = loaded.tokenizer.beginning(source.begin).chatting(source.chat)
    params = loaded.language_model
    if not (source.extras and loaded.extras):
        return Policy.of_language_model(config, params, tokenizer, loaded.name, loaded.companions)
    definition, params = loaded.method.definition(config), {"lm": params, **loaded.extras}
    return Policy(loaded.method, definition, params, tokenizer, loaded.name, loaded.companions)


# --- runs ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, repr=False)
class Run(Policy):
    """A trained run, opened: the policy that it trained, and all that its directory knows."""

    _: dataclasses.KW_ONLY
    path: Path
    config: TrainConfig
    step: int

    @property
    def metrics(self) -> list[dict]:
        """The lines of metrics.jsonl."""
        return metrics.records(self.path)


def load_run(path: str | Path = "latest", step: int | None = None) -> Run:
    """Open a run directory, or `latest`; `step` picks a checkpoint (default: the newest).

    Raises FileNotFoundError for a directory that is no run or holds no checkpoint, ValueError for one of another model.
    """
    path = stored.latest_run() if str(path) == "latest" else Path(path)
    if not (path / "config.yaml").is_file():
        way = held(path, "config.yaml") or ": qstar-train makes one"
        raise FileNotFoundError(f"{path} is not a run directory (no config.yaml in it){way}")
    cfg = configs.load(path / "config.yaml")
    config = stored.shape(path / "lm.json")
    tokenizer = stored.tokenizer_of(path)
    stored.check_described(path)
    definition = lora.adapted(cfg.method.definition(config, tokenizer), cfg.lora)
    with checkpoint.Checkpoints(path / "checkpoints", every=1, keep=2**31) as saved:
        step = saved.latest if step is None else step
        trained = saved.load_params(step)
    params = join(
        trained, stored.frozen_weights(path, definition, lambda: initial_model(cfg.model, cfg.seed).language_model)
    )
    definition.check(params, f"the weights of {path}")
    whole = (cfg.method, definition, params, tokenizer, str(path), companions.read(path))
    return Run(*whole, path=path, config=cfg, step=step)


def definition_for(run: Run, method: Method) -> Definition:
    """The model of a run as another setting of its method asks it: with the tokens that this one names."""
    if not isinstance(method, Thinks):
        return run.definition
    tokens = method.definition(run.lm, run.tokenizer).abstract_model.cfg.tokens
    cfg = dataclasses.replace(run.definition.abstract_model.cfg, tokens=tokens)
    return lora.adapted(thinker.definition(cfg), run.config.lora)


def other_model(method: Method, loaded: Policy) -> Policy | None:
    """The model of the run that a method compares with, or None where it names none.

    Raises FileNotFoundError for a directory that is no run, ValueError for another tokenizer or a method that does not
    think.
    """
    if not isinstance(method, Compares) or method.reference is None or not method.reference.run:
        return None
    path = Path(method.reference.run)  # never `latest`: what that means changes before a run is resumed
    run = load_run(path.absolute())
    if run.tokenizer.to_json() != loaded.tokenizer.to_json():
        raise ValueError(f"{path} has another tokenizer than {loaded.name}: their predictions cannot be compared")
    if not isinstance(run.method, Thinks):
        raise ValueError(
            f"{path} was trained with {configs.given('method', run.method)}, which does not think: "
            "name a run of a method that does"
        )
    return run


def carried_on(loaded: Policy, method: Method) -> Params:
    """The extras of a loaded run that a run of `method` starts from.

    Raises ValueError where a number of theirs means something else to `method` than it did in that run.
    """
    definition = method.definition(loaded.lm, loaded.tokenizer)
    kept = {name: part for name, part in loaded.extras.items() if name in definition.abstract}
    if not kept:
        return {}
    trained = loaded.method.definition(loaded.lm, loaded.tokenizer)
    new, old = definition.abstract_model.cfg, trained.abstract_model.cfg
    for part, fields in MEANINGS.items():
        for name in fields if part in kept else ():
            if getattr(new, name) != getattr(old, name):
                raise ValueError(
                    f"model.source = {loaded.name}: its {part} was trained with method.{name} = "
                    f"{getattr(old, name)!r}, this run has {getattr(new, name)!r}: give method.{name} the value of "
                    "then, or start the parts that its method added fresh with model.extras=false"
                )
    return kept


def as_begun(directory: Path, loaded: Policy) -> Policy:
    """The model with the begin-of-text token as the run in this directory has it, where it has begun already."""
    if not (directory / "tokenizer.json").is_file():
        return loaded
    begins = stored.tokenizer_of(directory).marks.begins
    if begins == loaded.tokenizer.marks.begins:
        return loaded
    return dataclasses.replace(loaded, tokenizer=loaded.tokenizer.beginning("true" if begins else "false"))
