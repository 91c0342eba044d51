"""What a run directory holds besides checkpoints: shape, tokenizer, frozen weights; and which directories are runs."""

import contextlib
import dataclasses
import typing
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax
import numpy as np

from qstar import config as configs
from qstar import files
from qstar.config import TrainConfig
from qstar.data import marks as markings
from qstar.data.tokenizer import Tokenizer
from qstar.models.definition import Definition
from qstar.models.formats import companions
from qstar.models.formats.companions import Companions
from qstar.models.lm import LMConfig
from qstar.models.lora import LoraConfig
from qstar.runs.kinds import Kind, held, newest
from qstar.thoughts.thinking import Thinks
from qstar.training import checkpoint
from qstar.typing import Params

if typing.TYPE_CHECKING:
    from qstar.data.rationales import Query

SUMS = "checksums.json"  # in a run directory: of these of its files
DESCRIBED = ("lm.json", "tokenizer.json")
FROZEN = "frozen"  # in a run directory: the weights that do not train
PLAIN = {int: int, float: (int, float), str: str, bool: bool}  # types of fields, and of their values in JSON


def shape(file: Path, part: str = "") -> LMConfig:
    """The shape of a language model from a JSON file, or from a part of it. Raises ValueError with file and line."""
    contents = files.read_json(file)
    if part:
        files.check(contents, f"{file}, line 1", "a prepared model", **{part: dict})
        contents = contents[part]
    fields, types = {field.name: field for field in dataclasses.fields(LMConfig)}, typing.get_type_hints(LMConfig)
    for name, value in contents.items():
        where = files.place(file, name)
        if name not in fields:
            raise ValueError(f"{where}: {name!r} is not a field of a model's shape, which has {', '.join(fields)}")
        if types[name] in PLAIN:
            files.check({name: value}, where, "the shape of a model", **{name: PLAIN[types[name]]})
    missing = [name for name, field in fields.items() if field.default is dataclasses.MISSING and name not in contents]
    if missing:
        raise ValueError(f"{file}, line 1: lacks {', '.join(missing)}; put back a copy of the file")
    try:
        return LMConfig(**contents)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{file}: {error}") from error


def is_run(source: str | Path) -> bool:
    """Whether this is the directory of a run."""
    path = files.expanded(source)
    return (path / "config.yaml").is_file() and not (path / "model.json").is_file()


def describe(
    directory: Path, config: LMConfig, tokenizer: Tokenizer, beside: Companions = MappingProxyType({})
) -> None:
    """Write what `load_run` needs besides the configuration: the shape of the model, its tokenizer and companions."""
    directory.mkdir(parents=True, exist_ok=True)
    files.write_json(directory / "lm.json", dataclasses.asdict(config))
    files.write(directory / "tokenizer.json", tokenizer.to_json())
    companions.write(directory, tokenizer.settled(beside))
    files.write_json(directory / SUMS, {name: files.checksum(directory / name) for name in DESCRIBED})


def check_described(directory: Path) -> None:
    """Raise ValueError where the shape or the tokenizer of a run is not what was written when it began.

    Its weights would be read as those of another model. Runs of earlier versions have no checksums.
    """
    file = directory / SUMS
    for name, written in (files.read_json(file) if file.is_file() else {}).items():
        if files.checksum(directory / name) != written:
            raise ValueError(
                f"{directory / name} holds other bytes than were written when the run began: put back a copy of it; if "
                f"it was changed on purpose, delete {file}"
            )


def keep_frozen(directory: Path, frozen: Params, cfg: LoraConfig) -> None:
    """Keep what checkpoints leave out: the frozen weights themselves, or their checksum."""
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
            "model.source has other weights now: put the earlier ones back"
        )
    return frozen


def _checksum(params: Params) -> int:
    checksum = 0
    for leaf in jax.tree.leaves(params):
        checksum = zlib.crc32(np.ascontiguousarray(leaf).view(np.uint8), checksum)
    return checksum


def latest_run(root: str | Path = "runs") -> Path:
    """The newest run under `root` with a checkpoint, a training within self-training included."""
    return RUN.latest(root)


def latest_thinker(root: str | Path = "runs") -> Path:
    """The newest run under `root` with a checkpoint of a model that thinks."""
    return THINKER.latest(root)


def _thinks(directory: Path) -> bool:
    with contextlib.suppress(ValueError):  # a damaged configuration: whoever opens it says so
        return isinstance(configs.load(directory / RUN.file, schema=TrainConfig).method, Thinks)
    return False


def latest_store(root: str | Path = "runs") -> Path:
    """The rationales of the self-training under `root` that sampled last.

    Raises FileNotFoundError when there are none.
    """
    from qstar.data import rationales as store  # here: it imports Parquet

    stores = [
        file for file in Path(root).glob(f"**/{store.FOLDER}/{store.ABOUT}") if any(file.parent.glob("*.parquet"))
    ]
    if not stores:
        raise FileNotFoundError(
            f"no rationales under {Path(root).absolute()}: sample some with qstar-improve, or name a run directory"
        )
    return newest(stores).parent


def steps(path: str | Path) -> list[int]:
    """Steps of the checkpoints in a run directory, ascending. Raises FileNotFoundError where there are none."""
    saved = saved_steps(Path(path))
    if not saved and (runs := held(Path(path), "config.yaml")) and not is_run(path):
        raise FileNotFoundError(f"{path} is not a run directory (no config.yaml in it){runs}")
    if not saved:
        raise FileNotFoundError(
            f"{Path(path) / 'checkpoints'} holds no committed checkpoint: did the run get as far as its first save?"
        )
    return saved


def tokenizer_of(path: Path) -> Tokenizer:
    """The tokenizer of a run, which puts the begin-of-text token where it did in training."""
    tokenizer = Tokenizer.from_file(path / "tokenizer.json")
    # Earlier versions wrote no settings, and trained without that token.
    return tokenizer if markings.known(path) else tokenizer.beginning("false")


def saved_steps(path: Path) -> list[int]:
    """Steps of the checkpoints in a run directory, ascending; none where nothing has been saved."""
    # A save in flight has another name until it is committed.
    return sorted(
        int(folder.name)
        for folder in (path / "checkpoints").glob("*")
        if folder.name.isdigit() and any(folder.glob("*"))
    )


# A run's control lies inside it and is a run as well, but not the one that is meant.
RUN = Kind(
    "train",
    "run",
    TrainConfig,
    "config.yaml",
    groups=("mesh",),
    part_of=("config.yaml",),
    has_results=lambda directory: bool(saved_steps(directory)),
)
THINKER = dataclasses.replace(RUN, noun="run of a method that thinks", is_meant=_thinks)
TRAINING = dataclasses.replace(
    RUN, part_of=("config.yaml", "improve.yaml")
)  # not one that qstar-improve resumes itself


def rationales(path: str | Path = "latest", where: "Query | None" = None, columns: Sequence[str] | None = None) -> Any:
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
