"""What a model's directory says besides its shape, weights and tokenizer: special tokens, chat template, how it ends.

These files are kept as they are, by name, wherever the model goes: into prepared directories, runs and exports.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from qstar import files
from qstar.files import Json
from qstar.models.formats.weights import inside

TOKENIZER, GENERATION = "tokenizer_config.json", "generation_config.json"
NAMES = (
    TOKENIZER, GENERATION, "special_tokens_map.json", "added_tokens.json", "chat_template.jinja", "chat_template.json"
)  # fmt: skip
TEMPLATES = "additional_chat_templates"  # a folder of templates, beside the default one
PLAIN = {"tokenizer_class": "PreTrainedTokenizerFast"}
IDS = ("bos_token_id", "eos_token_id", "pad_token_id")

Companions = Mapping[str, str]  # text of each of `NAMES` that there is, and of each of `TEMPLATES`/*.jinja


def read(directory: Path) -> dict[str, str]:
    """Those of a directory. Where no generation_config.json is there, it is made of the ids in config.json.

    Raises ValueError for a file that is damaged, or leads out of the directory.
    """
    texts = {name: files.small_text(file) for name in NAMES if (file := inside(directory, name)).is_file()}
    for name in texts:
        if name.endswith(".json"):
            contents = files.json_object(directory / name)
            _check_ids(contents, directory / name)
            if name == GENERATION:
                _check_finite(contents, directory / name)
    folder = inside(directory, TEMPLATES)
    for file in sorted(folder.glob("*.jinja")):
        texts[f"{TEMPLATES}/{file.name}"] = files.small_text(inside(folder, file.name))
    config = inside(directory, "config.json")
    contents = files.json_object(config) if config.is_file() else {}
    _check_ids(contents, config)
    _check_finite(contents, config, allowed=(math.inf, -math.inf))  # a limit that is none
    if GENERATION not in texts:
        ids = {name: contents[name] for name in IDS if contents.get(name) is not None}
        if ids:
            texts[GENERATION] = spelled({"_from_model_config": True} | ids)
    return texts


def write(directory: Path, companions: Companions) -> None:
    """Write them. Settings that the tokenizer has written there already stay as they are, but for its class."""
    for name, contents in companions.items():
        file = directory / name
        file.parent.mkdir(exist_ok=True)
        if name.endswith(".json") and file.is_file():
            own = {key: value for key, value in files.json_object(file).items() if key != "tokenizer_class"}
            contents = spelled(json.loads(contents) | own)
        file.write_text(contents, encoding="utf-8")


def token_ids(companions: Companions, vocab: int) -> dict[str, int | list[int] | None]:
    """The entries `IDS` of a config.json; None, that there is no such token, where nothing is said of it."""
    settings = json.loads(companions.get(GENERATION, "{}"))
    ids = {name: settings.get(name) for name in IDS}
    pad = ids["pad_token_id"]
    # An embedding of transformers has a row for it.
    return ids | {"pad_token_id": pad if isinstance(pad, int) and 0 <= pad < vocab else None}


def spelled(contents: dict) -> str:
    return json.dumps(contents, indent=2) + "\n"


def _check_ids(contents: dict, file: Path) -> None:
    for name in IDS:
        value = contents.get(name)
        several = isinstance(value, list) and all(type(id) is int for id in value)
        if value is not None and type(value) is not int and not several:
            raise ValueError(f"{file}: {name} is {str(value)[:60]!r}, expected a token id, or a list of them")


def _check_finite(contents: Json, file: Path, key: str = "", allowed: Sequence[float] = ()) -> None:
    """Raise ValueError for a number at any depth that is none, or infinite."""
    if isinstance(contents, float) and not math.isfinite(contents) and contents not in allowed:
        raise ValueError(f"{file}: {key} is {json.dumps(contents)}, expected a number: put back a copy of the file")
    entries = (
        contents.items() if isinstance(contents, dict) else enumerate(contents) if isinstance(contents, list) else ()
    )
    for name, value in entries:
        _check_finite(value, file, f"{key}.{name}" if key else str(name), allowed)
