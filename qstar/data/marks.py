"""Tokens around a text, as a model's files name them: begin of text, ends of text, the template of conversations.

Read from the files of Hugging Face's layout that are next to a tokenizer.json, and written back to the same files.

begin  follows the tokenizer's own setting: `add_bos_token` of tokenizer_config.json, else what the post-processor of
       tokenizer.json puts before a text.
ends   in this order: `eos_token` of tokenizer_config.json, then `eos_token_id` of generation_config.json and of
       config.json. All of them end a generation. The first is trained on after a completion: it is the one that the
       tokenizer itself calls the end, where generation configs add ends of turns and of tool calls. A directory that
       names none has the special tokens of `CONVENTIONAL`.

Ids 1 and 2 of the configs are not taken where ordinary text has them: configs name them by default (`BY_DEFAULT`).
"""

import contextlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer as Backend

from qstar import files
from qstar.data import backend as backends

CONFIG, GENERATION, MODEL, MAP, TEMPLATE = (
    "tokenizer_config.json",
    "generation_config.json",
    "config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)
ADDED = "added_tokens_decoder"  # of tokenizer_config.json
FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")  # of an added token
CHAT = "qstar_chat"  # of tokenizer_config.json: prompts are messages of a conversation

CONVENTIONAL = (
    "<|endoftext|>",
    "</s>",
    "<|end_of_text|>",
    "<eos>",
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<end_of_turn>",
)
"""Spellings of tokens that end a text, in models of the families that are read."""
BY_DEFAULT = (1, 2)  # ids of configs that were made without a tokenizer
TRIED = 1000  # tokens whose spelling is tried as a text
ID_LIMIT = 1 << 32  # the library counts in 32 bits


@dataclass(frozen=True)
class Marks:
    """Of one tokenizer; ids."""

    begin: int | None = None  # begin-of-text token, where there is one
    begins: bool = False  # put before every text
    ends: tuple[int, ...] = ()  # tokens that end a text; the first is trained on after a completion
    template: str = ""  # of conversations, in Jinja
    chat: bool = False  # prompts are a user's message, in that template


def read(tokenizer_file: Path, backend: Backend) -> Marks:
    """What the files next to this tokenizer.json say. Raises ValueError for a file or a value that cannot be read."""
    beside = {name: tokenizer_file.parent / name for name in (CONFIG, GENERATION, MODEL, MAP, TEMPLATE)}
    return of({name: files.small_text(file) for name, file in beside.items() if file.is_file()}, backend)


def unlisted(tokenizer_file: Path, backend: Backend) -> list[dict]:
    """Added tokens that tokenizer_config.json lists and tokenizer.json does not, as entries of the latter."""
    beside = tokenizer_file.parent / CONFIG
    listed = files.json_object(beside).get(ADDED) if beside.is_file() else None
    if not isinstance(listed, dict | None):
        raise ValueError(f"{CONFIG}: {ADDED} is {str(listed)[:60]!r}, expected an object")
    tokens = []
    for id, token in (listed or {}).items():
        if not id.isdecimal() or not isinstance(token, dict) or not isinstance(token.get("content"), str):
            raise ValueError(f"{CONFIG}: {ADDED} has {id[:60]!r}: {str(token)[:60]}, expected an id and a token")
        if backend.token_to_id(token["content"]) is None:
            tokens.append(
                {name: token.get(name) is True for name in FLAGS} | {"id": int(id), "content": token["content"]}
            )
    return sorted(tokens, key=lambda token: token["id"])


def of(texts: Mapping[str, str], backend: Backend) -> Marks:
    """The same of files of these names and texts."""
    config, spelled = (_contents(texts, name) for name in (CONFIG, MAP))
    configs = [(name, _contents(texts, name)) for name in (GENERATION, MODEL)]
    own = post_processed(backend)
    begin = _first(
        [
            own,
            _named(config, spelled, "bos_token", backend),
            *(id for contents in configs for id in _told(*contents, "bos_token_id", backend)),
        ]
    )
    setting = _switch(config, "add_bos_token")
    begins = own is not None if setting is None else setting
    ends = [_named(config, spelled, "eos_token", backend)]
    ends += [id for contents in configs for id in _told(*contents, "eos_token_id", backend)]
    ends = [id for id in ends if id is not None]
    return Marks(
        begin,
        begins and begin is not None,
        tuple(dict.fromkeys(ends)) or conventional(backend),
        texts.get(TEMPLATE) or _template(config),
        bool(_switch(config, CHAT)),
    )


def settled(texts: Mapping[str, str], marks: Marks, backend: Backend) -> dict[str, str]:
    """These files, with `marks` where they say others, so that `read` gives the marks back.

    A directory without tokenizer_config.json says that no token comes before texts: it is given one where a tokenizer
    has such a token.
    """
    declared, changed, own = of(texts, backend), dict(texts), {}
    if marks.begin is not None and (declared.begins != marks.begins or CONFIG not in texts):
        own |= {"bos_token": backend.id_to_token(marks.begin), "add_bos_token": marks.begins}
    if marks.ends and declared.ends != marks.ends:
        own["eos_token"] = backend.id_to_token(marks.ends[0])
        changed[GENERATION] = _spelled(_contents(texts, GENERATION) | {"eos_token_id": list(marks.ends)})
    if declared.chat != marks.chat:
        own[CHAT] = marks.chat
    if own:
        changed[CONFIG] = _spelled({"tokenizer_class": "PreTrainedTokenizerFast"} | _contents(texts, CONFIG) | own)
    return changed


def conventional(backend: Backend) -> tuple[int, ...]:
    """Special tokens that are spelled as ends of texts are."""
    special = {token.content: id for id, token in backend.get_added_tokens_decoder().items() if token.special}
    return tuple(special[name] for name in CONVENTIONAL if name in special)


def post_processed(backend: Backend) -> int | None:
    """The token that the tokenizer's post-processor puts before a text. Raises ValueError where it puts several."""
    if backend.post_processor is None:
        return None
    text = _encodable(backend)
    plain, whole = (backends.encode(backend, text, special).ids for special in (False, True))
    extra = len(whole) - len(plain)
    before = next((whole[:count] for count in range(extra + 1) if whole[count : count + len(plain)] == plain), [])
    if len(before) > 1:
        raise ValueError(
            f"the post-processor of the tokenizer puts {len(before)} tokens {before} before a text, expected one at "
            'most: set "add_bos_token" to false in tokenizer_config.json, and "post_processor" to null in '
            "tokenizer.json"
        )
    return before[0] if before else None


def _encodable(backend: Backend) -> str:
    """A text of ordinary tokens, where there is one."""
    added = backend.get_added_tokens_decoder()
    spelled = (backend.id_to_token(id) for id in range(TRIED))
    for text in ("a", *(token for token in spelled if token)):
        with contextlib.suppress(ValueError):  # a word-level model without an unknown token
            ids = backends.encode(backend, text).ids
            if ids and added.keys().isdisjoint(ids):
                return text
    return ""


def known(folder: Path) -> bool:
    """Whether a directory says anything about its marks; runs of earlier versions do not."""
    return (folder / CONFIG).is_file()


def _contents(texts: Mapping[str, str], name: str) -> dict:
    contents = files.parsed(texts.get(name, "{}"), name)
    if not isinstance(contents, dict):
        raise ValueError(f"{name} holds a JSON {type(contents).__name__}, expected an object")
    return contents


def _named(config: dict, spelled: dict, name: str, backend: Backend) -> int | None:
    """Id of a token that these files name, as text or as an object with its content."""
    for contents in (config, spelled):
        token = contents.get(name)
        token = token.get("content") if isinstance(token, dict) else token
        if isinstance(token, str) and backend.token_to_id(token) is not None:
            return backend.token_to_id(token)
    return None


def _told(file: str, contents: dict, name: str, backend: Backend) -> list[int]:
    """Ids that a config names, but for those of no token and for defaults that are ordinary text here."""
    return [id for id in _ids(file, contents, name) if _is_token(id, backend) and not _by_default(id, backend)]


def _ids(file: str, contents: dict, name: str) -> list[int]:
    value = contents.get(name)
    ids = value if isinstance(value, list) else [] if value is None else [value]
    if not all(isinstance(id, int) and not isinstance(id, bool) for id in ids):
        raise ValueError(f"{file}: {name} is {str(value)[:60]!r}, expected a token id or a list of them")
    return ids


def _switch(config: dict, name: str) -> bool | None:
    value = config.get(name)
    if value is not None and not isinstance(value, bool):
        raise ValueError(f"{CONFIG}: {name} is {str(value)[:60]!r}, expected true or false")
    return value


def _is_token(id: int, backend: Backend) -> bool:
    return 0 <= id < ID_LIMIT and backend.id_to_token(id) is not None


def _by_default(id: int, backend: Backend) -> bool:
    """Whether a config may name this token of ordinary text only because it was made without a tokenizer."""
    if id not in BY_DEFAULT or id in backend.get_added_tokens_decoder():
        return False
    try:
        spellings = (backend.id_to_token(id), backends.decode(backend, [id]))
        return any(backends.encode(backend, text).ids[-1:] == [id] for text in spellings if text)
    except ValueError:  # a word-level model without an unknown token
        return False


def _template(config: dict) -> str:
    """The template of conversations; of several the default one."""
    template = config.get("chat_template")
    if isinstance(template, list):
        named = [
            entry.get("template") for entry in template if isinstance(entry, dict) and entry.get("name") == "default"
        ]
        template = named[-1] if named else None
    return template if isinstance(template, str) else ""


def _first(ids: Iterable[int | None]) -> int | None:
    return next((id for id in ids if id is not None), None)


def _spelled(contents: dict) -> str:
    return json.dumps(contents, indent=2) + "\n"
