"""Text to token ids and back: one class over the `tokenizers` library, and builders for tokenizers without a file.

`encode` adds nothing to a piece of text; `encode_whole` is for a text from its beginning, and puts the begin-of-text
token before it where the tokenizer's settings (`data/marks.py`) ask for one. A special token's own spelling inside the
text does become that token, so text from outside should not contain it.
"""

import contextlib
import dataclasses
import functools
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as Backend

from qstar import files
from qstar.data import backend as backends
from qstar.data import chat
from qstar.data import marks as markings
from qstar.data.marks import Marks
from qstar.tasks import conversation
from qstar.tasks.conversation import Message

KEPT, LONGEST_KEPT = 1 << 15, 4096  # prompts whose ids are kept, and the characters of the longest of them
MAX_SIZE = 1 << 24  # of a vocabulary; the largest in use have a sixtieth of it


@dataclass(frozen=True)
class Style:
    """How byte-level BPE cuts text before it merges."""

    words: str | None = None  # a regular expression of what stays together; None: that of GPT-2
    digits: bool = False  # before that, every digit is cut out
    composed: bool = False  # text in Unicode's composed form: one character for a letter and its accent
    entries_first: bool = False  # a word that is an entry is that token, whatever the merges make of it


# Words as Llama 3 and Qwen 2 know them; they differ in how many digits a token may have.
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
STYLES = {
    "gpt-2": Style(),
    "smollm": Style(digits=True),  # StarCoder as well
    "llama3": Style(words=_WORDS % "{1,3}", entries_first=True),
    "qwen2": Style(words=_WORDS % "", composed=True),  # Qwen 2.5 and 3 as well
}


_BORDERS = "\x01\n.0a"  # characters that few tokens join with others; the first, of bytes, none
_INCOMPLETE = "\ufffd"  # what bytes that make no character are decoded to


class Tokenizer:
    """A `tokenizers` tokenizer; build one with `from_json`, `from_file` or the functions below."""

    def __init__(self, backend: Backend, marks: Marks | None = None):
        self._backend = backend
        self.marks = Marks() if marks is None else marks
        _encode_all(backend)
        vocabulary = backend.get_vocab(with_added_tokens=True)
        self._size = max(vocabulary.values(), default=-1) + 1
        if self._size > MAX_SIZE:  # the library writes a line for every id up to the largest
            raise ValueError(f"a token has the id {self._size - 1}, expected one below {MAX_SIZE}")
        # Word-level models without an unknown token fail on foreign text with a message that names no character.
        self._alphabet = frozenset(vocabulary) if _knows_its_words_only(backend) else None

    @classmethod
    def from_json(cls, text: str) -> "Tokenizer":
        """From the text of a tokenizer.json. Raises ValueError when it is not one."""
        return cls(_read(text))

    @classmethod
    def from_file(cls, path: str | Path) -> "Tokenizer":
        """From a tokenizer.json and the files of settings next to it. Raises FileNotFoundError or ValueError."""
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"no tokenizer at {path}: expected a tokenizer.json of the `tokenizers` library")
        try:
            text = files.small_text(path)
            tokenizer = cls.from_json(text)
            unlisted = markings.unlisted(path, tokenizer._backend)
            if unlisted:
                contents = json.loads(text)
                added = [*(contents.get("added_tokens") or ()), *unlisted]
                tokenizer = cls.from_json(json.dumps(contents | {"added_tokens": added}))
            return tokenizer.marked(markings.read(path, tokenizer._backend))
        except ValueError as error:
            raise ValueError(str(error) if str(error).startswith(str(path)) else f"{path}: {error}") from error

    def to_json(self) -> str:
        return self._backend.to_str(pretty=True)

    def exported_json(self) -> str:
        """tokenizer.json for other libraries, which follow its post-processor: it begins texts as the settings do."""
        own = markings.post_processed(self._backend)
        if own == (self.marks.begin if self.marks.begins else None):
            return self.to_json()
        changed = backends.read(self._backend.to_str())
        changed.post_processor = None
        if self.marks.begins:
            begin = self._backend.id_to_token(self.marks.begin)
            changed.post_processor = processors.TemplateProcessing(
                single=f"{begin} $A", pair=f"{begin} $A {begin} $B", special_tokens=[(begin, self.marks.begin)]
            )
        return changed.to_str(pretty=True)

    def told_by(self, texts: Mapping[str, str]) -> "Tokenizer":
        """With the settings that files of these names and texts say (`models/formats/companions.py`)."""
        return self.marked(markings.of(texts, self._backend))

    def settled(self, texts: Mapping[str, str]) -> dict[str, str]:
        """These files, with this tokenizer's settings where they say others."""
        return markings.settled(texts, self.marks, self._backend)

    def marked(self, marks: Marks) -> "Tokenizer":
        """The same tokenizer with other settings."""
        return Tokenizer(self._backend, marks)

    def beginning(self, setting: str) -> "Tokenizer":
        """With the begin-of-text token before every text, or without: true, false, or auto, as it is.

        Raises ValueError for true where the tokenizer has no such token.
        """
        if setting == "auto":
            return self
        if setting == "true" and self.marks.begin is None:
            raise ValueError(
                "model.begin = true, but the files of this tokenizer name no begin-of-text token (bos_token): expected "
                "auto or false"
            )
        return self.marked(dataclasses.replace(self.marks, begins=setting == "true"))

    @property
    def spells_characters(self) -> bool:
        """Whether the tokens are characters, or words of them: one of `characters`."""
        return self._alphabet is not None

    def chatting(self, setting: str) -> "Tokenizer":
        """With every prompt as a user's message in the chat template, or without: true, false, or auto, as it is.

        Raises ValueError for true where the tokenizer has no template.
        """
        if setting == "auto":
            return self
        if setting == "true" and not self.marks.template:
            raise ValueError(
                "model.chat = true, but the files of this tokenizer have no chat template (chat_template.jinja, or "
                "chat_template in tokenizer_config.json): expected auto or false"
            )
        return self.marked(dataclasses.replace(self.marks, chat=setting == "true"))

    def conventional_ends(self) -> tuple[int, ...]:
        """Special tokens that are spelled as ends of texts are (`marks.CONVENTIONAL`)."""
        return markings.conventional(self._backend)

    def summary(self) -> str:
        """The tokens around a text, for summaries of runs; "" where this tokenizer has none."""
        marks, parts = self.marks, []
        if marks.begin is not None:
            where = "before every text" if marks.begins else "not put before texts"
            parts.append(f"begin of text {self.token(marks.begin)} (id {marks.begin}) {where}")
        if marks.ends:
            parts.append("end of text " + ", ".join(f"{self.token(id)} (id {id})" for id in marks.ends))
        if marks.chat:
            parts.append("prompts in the chat template")
        return "; ".join(parts)

    @property
    def begin(self) -> tuple[int, ...]:
        """Ids before every text: the begin-of-text token, or nothing."""
        return (self.marks.begin,) if self.marks.begins else ()

    @property
    def ends(self) -> tuple[int, ...]:
        """Ids that end a generation; they are not part of its text."""
        return self.marks.ends

    def encode(self, text: str) -> list[int]:
        """Token ids of the text. A character tokenizer raises ValueError on a character outside its alphabet."""
        with self._naming_foreign(text):
            return backends.encode(self._backend, text).ids

    def encode_whole(self, text: str) -> list[int]:
        """Token ids of a text from its beginning: what models are trained on and asked."""
        return self._begun(self.encode(text))

    def encode_prompt(self, prompt: str) -> list[int]:
        """Token ids of what a model continues: a text from its beginning, or a conversation up to the reply.

        A conversation (`tasks/conversation.py`), and any prompt where `chat` is set, is written in the tokenizer's chat
        template.
        """
        messages = self._messages(prompt)
        return self._begun(self._kept(prompt)) if messages is None else self._templated(messages, reply=True)

    def reply_end(self, prompt: str) -> list[int]:
        """The end-of-text token after what follows this prompt, where there is one.

        The tokenizer's own end of text; in a conversation that which its template writes after a reply.
        """
        messages = self._messages(prompt)
        if messages is None:
            return list(self.ends[:1])
        closed = self._templated([{"role": "user", "content": "a"}, {"role": "assistant", "content": "a"}], reply=False)
        ends = [id for id in reversed(closed) if id in self.ends]
        return ends[:1] or list(self.ends[:1])

    def encode_pair(self, prompt: str, completion: str) -> tuple[list[int], list[int]]:
        """Token ids of a prompt and of what follows it, encoded together as one text from its beginning.

        A token that holds characters of both belongs to the completion. In a conversation the completion is the reply,
        with the end that the template writes after it.
        """
        messages = self._messages(prompt)
        if messages is not None:
            return self._encode_reply(messages, completion)
        before, ids = self._kept(prompt), self._kept(prompt + completion)
        cut = next((i for i, pair in enumerate(zip(before, ids, strict=False)) if pair[0] != pair[1]), None)
        if cut is None:
            cut = min(len(before), len(ids))
        else:  # where the prompt ends in other tokens than by itself, some of them may hold nothing but it
            spelled = self.decode(before)
            while cut < len(ids) and spelled.startswith(self.decode(ids[: cut + 1])):
                cut += 1
        return self._begun(ids[:cut]), ids[cut:]

    def _kept(self, text: str) -> list[int]:
        """As `encode`, of what is asked for several times: the prompts of self-training, in every iteration."""
        if len(text) > LONGEST_KEPT:
            return self.encode(text)
        with self._naming_foreign(text):
            return _ids(self._backend, text).tolist()

    def _begun(self, ids: list[int]) -> list[int]:
        """With the begin-of-text token, unless the text spells it already."""
        return ids if tuple(ids[:1]) == self.begin else [*self.begin, *ids]

    def _encode_reply(self, messages: list[Message], reply: str) -> tuple[list[int], list[int]]:
        before = self._templated(messages, reply=True)
        ids = self._templated([*messages, {"role": "assistant", "content": reply.strip()}], reply=False)
        pairs = enumerate(zip(before, ids, strict=False))
        cut = next((i for i, pair in pairs if pair[0] != pair[1]), min(len(before), len(ids)))
        end = next((i for i in range(cut, len(ids)) if ids[i] in self.ends), len(ids) - 1)
        return ids[:cut], ids[cut : end + 1]

    def _messages(self, prompt: str) -> list[Message] | None:
        """The conversation that a prompt is; None for a text to continue."""
        messages = conversation.parsed(prompt)
        return [{"role": "user", "content": prompt}] if messages is None and self.marks.chat else messages

    def _templated(self, messages: Sequence[Message], reply: bool) -> list[int]:
        """Token ids of a conversation. Raises ValueError where the tokenizer has no template, or it fails.

        Special tokens are what the template writes: where a message spells one, its characters are encoded as text. A
        character that appears nowhere else is put into such a spelling, and its tokens are taken out again.
        """
        if not self.marks.template:
            raise ValueError(
                "messages need a chat template, and the files of this tokenizer have none (chat_template.jinja, or "
                "chat_template in tokenizer_config.json): use a chat model, or model.chat=false and plain prompts"
            )
        texts = "".join(message["content"] for message in messages)
        border = next(
            chr(code) for code in (*range(0xFDD0, 0xFDF0), *range(0xF0000, 0xFFFFE)) if chr(code) not in texts
        )
        special = [re.escape(t.content) for t in self._backend.get_added_tokens_decoder().values() if t.special]
        pattern = re.compile("|".join(sorted(special, key=len, reverse=True)) or r"(?!)")
        apart = lambda text: pattern.sub(lambda match: f"{match[0][0]}{border}{match[0][1:]}", text)  # noqa: E731
        ids = {"bos_token": self.marks.begin, "eos_token": next(iter(self.ends), None)}
        tokens = {name: "" if id is None else self._backend.id_to_token(id) for name, id in ids.items()}
        literal = [message | {"content": apart(message["content"])} for message in messages]
        text = chat.render(self.marks.template, literal, tokens, reply)
        encoded = backends.encode(self._backend, text)
        return [id for id, (start, end) in zip(encoded.ids, encoded.offsets, strict=True) if text[start:end] != border]

    def encode_after(self, text: str) -> list[int]:
        """Token ids of a text that goes on after another one: without the space that some put before a text."""
        if isinstance(self._backend.model, models.WordLevel):  # which puts no space before a text
            return self.encode(text)
        for char in _BORDERS:
            border, joint = self.encode(char), self.encode(char + text)
            # A vocabulary without the character would leave it out, or join its unknown token with the text's.
            if border and self.decode(border).endswith(char) and joint[: len(border)] == border:
                return joint[len(border) :]
        return self.encode(text)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of the ids, special tokens included; ids without a spelling (padding of the vocabulary) give nothing."""
        return backends.decode(self._backend, [int(i) for i in ids])

    def lengths(self, ids: Sequence[int]) -> list[int]:
        """Characters of the decoded text that are whole after the first 0, 1, 2, ... of the ids.

        The bytes of a character may be several tokens; it is whole after the last of them. Each token is decoded with
        the few before it, so that a text of any length takes linear time.
        """
        whole, start, upto = [0], 0, 0  # the text is known up to `upto`, and decoded from `start` on
        before = ""
        for count in range(1, len(ids) + 1):
            text = self.decode(ids[start:count])
            whole.append(whole[-1])
            if len(text) > len(before) and not text.endswith(_INCOMPLETE):
                whole[-1] += len(text) - len(before)
                start, upto = upto, count
                before = self.decode(ids[start:upto])
        whole[-1] = len(self.decode(ids))  # bytes that make no character to the end of the text
        return whole

    def token(self, id: int) -> str:
        """Readable text of one token; `<id>` where the vocabulary has no such entry."""
        return self.decode([id]) if self._backend.id_to_token(int(id)) is not None else f"<{int(id)}>"

    def spellings(self, ids: Iterable[int]) -> list[str]:
        """Readable text of every token."""
        return [self.token(id) for id in ids]

    def id_of(self, text: str) -> int | None:
        """The one token that this text encodes to, else the vocabulary entry of that name, else None."""
        if self._alphabet is None or set(text) <= self._alphabet:
            ids = self.encode(text)
            # A byte that the vocabulary lacks would vanish. Some decoders drop a leading space.
            if len(ids) == 1 and self.decode(ids).lstrip(" ") == text.lstrip(" "):
                return ids[0]
        return self._backend.token_to_id(text)

    @property
    def size(self) -> int:
        """Largest id + 1."""
        return self._size

    @contextlib.contextmanager
    def _naming_foreign(self, text: str) -> Iterator[None]:
        """What a text cannot be encoded for as a ValueError that names the character, where that is known."""
        try:
            yield
        except ValueError:
            if self._alphabet is not None:
                self._check_alphabet(text)
            raise

    def _check_alphabet(self, text: str) -> None:
        added = {token.content for token in self._backend.get_added_tokens_decoder().values()}
        spelled = re.compile("|".join(map(re.escape, sorted(added, key=len, reverse=True))) or r"(?!)")
        inside = {at for match in spelled.finditer(text) for at in range(*match.span())}
        foreign = next((at for at, char in enumerate(text) if at not in inside and char not in self._alphabet), None)
        if foreign is not None:
            alphabet = "".join(sorted(entry for entry in self._alphabet if len(entry) == 1))
            raise ValueError(
                f"character {text[foreign]!r} at {foreign} is not in this tokenizer's alphabet {alphabet!r}; "
                "rewrite the text, or use a model with a larger vocabulary"
            )


@functools.lru_cache(maxsize=8)
def _read(text: str) -> Backend:
    """One for all tokenizers of the same file, so that they share `_ids`."""
    backend = backends.read(text)
    _check_ids(files.parsed(text, "it"), backend)
    return backend


def _check_ids(contents: dict, backend: Backend) -> None:
    """Raise ValueError where ids are not those of the file: the library numbers added tokens as they come."""
    words = contents["model"].get("vocab")
    named: dict[int, str] = {}
    for word, id in words.items() if isinstance(words, dict) else ():
        if named.setdefault(id, word) != word:
            raise ValueError(f"the tokens {named[id]!r} and {word!r} have the same id, {id}: use an undamaged copy")
    for token in contents.get("added_tokens") or ():
        given = backend.token_to_id(token["content"])
        if given not in (token["id"], None):
            raise ValueError(
                f"the added token {token['content']!r} has the id {token['id']} in the file, and {given} in the "
                "library `tokenizers`, which numbers added tokens in their order from the size of the vocabulary on: "
                "put it into the vocabulary of the model, or use an undamaged copy"
            )


@functools.lru_cache(maxsize=KEPT)
def _ids(backend: Backend, text: str) -> np.ndarray:
    """The ids of the last `KEPT` prompts. A corpus is read once: it would only push them out."""
    return np.asarray(backends.encode(backend, text).ids, np.int32)


def _knows_its_words_only(backend: Backend) -> bool:
    return isinstance(backend.model, models.WordLevel) and backend.model.token_to_id(backend.model.unk_token) is None


def _encode_all(backend: Backend) -> None:
    """Switch off what a tokenizer.json may carry from its training that makes encoding lose, add or draw tokens."""
    backend.no_truncation()
    backend.no_padding()
    if isinstance(backend.model, models.BPE):
        backend.model.dropout = None  # merges left out at random


def characters(alphabet: str, words: Sequence[str] = ()) -> Tokenizer:
    """A tokenizer whose tokens are these characters, numbered in this order, and after them these words.

    A word, of characters of the alphabet, is one token wherever it appears; of two that begin alike the longer one.

    Raises ValueError for a character or a word that appears twice, and a word that the alphabet cannot spell.
    """
    if not alphabet or len(set(alphabet)) != len(alphabet):
        twice = sorted({char for char in alphabet if alphabet.count(char) > 1})
        raise ValueError(f"alphabet {alphabet!r}: expected at least one character, each once; repeated: {twice}")
    strange = [word for word in words if len(word) < 2 or not set(word) <= set(alphabet)]
    if strange or len(set(words)) != len(words):
        raise ValueError(f"words {list(words)}: expected different ones of at least two characters of {alphabet!r}")
    backend = Backend(models.WordLevel({entry: i for i, entry in enumerate([*alphabet, *words])}, unk_token=""))
    spelled = [re.escape(word) for word in sorted(words, key=len, reverse=True)]
    backend.pre_tokenizer = pre_tokenizers.Split(Regex("|".join([*spelled, r"[\s\S]"])), "isolated")
    backend.decoder = decoders.Fuse()
    return Tokenizer(backend)


def byte_level_bpe(
    vocab: dict[str, int], merges: Sequence[tuple[str, str]], special: Sequence[str], style: str
) -> Tokenizer:
    """Byte-level BPE (GPT-2) from its parts, as files of weights without a tokenizer.json carry them.

    Args:
        special: entries of the vocabulary that are never split and never come out of merges.
        style: one of `STYLES`.

    Raises:
        ValueError: a merge or a special token that the vocabulary lacks.
    """
    missing = [token for token in special if token not in vocab]
    if missing:
        raise ValueError(f"special tokens {missing[:5]} are not in the vocabulary of {len(vocab)} entries")
    with backends.refusing("the merges do not fit the vocabulary"):
        backend = Backend(models.BPE(vocab=vocab, merges=list(merges), ignore_merges=STYLES[style].entries_first))
    backend.pre_tokenizer = pre_tokenizers.Sequence(_cuts(STYLES[style]))
    if STYLES[style].composed:
        backend.normalizer = normalizers.NFC()
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    return Tokenizer(backend)


def _cuts(style: Style) -> list[pre_tokenizers.PreTokenizer]:
    by_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=style.words is None)
    digits = [pre_tokenizers.Digits(individual_digits=True)] if style.digits else []
    words = [] if style.words is None else [pre_tokenizers.Split(Regex(style.words), "isolated")]
    return [*digits, *words, by_bytes]


def sentencepiece_bpe(
    tokens: Sequence[str], scores: Sequence[float], special: Sequence[str], prefix: bool = True
) -> Tokenizer:
    """BPE as SentencePiece trains it: spaces are part of pieces, characters without a piece become bytes (<0x0A>).

    Of all adjacent pairs the one that makes the piece of the highest score is merged first.

    Args:
        tokens: spelling of every id, with spaces as " " or "\u2581".
        special: entries that are never split and never come out of merges; spaces in them as in `tokens`.
        prefix: a space is put before the text, and taken off when decoding (Llama 2, Mistral; not Gemma).

    Raises:
        ValueError: a special token, or one of the bytes, that the vocabulary lacks.
    """
    tokens, special = ([token.replace(" ", "\u2581") for token in given] for given in (tokens, special))
    vocab = {token: id for id, token in enumerate(tokens)}
    missing = [token for token in (*special, *(f"<0x{byte:02X}>" for byte in range(256))) if token not in vocab]
    if missing:
        raise ValueError(f"tokens {missing[:5]} are not in the vocabulary of {len(vocab)} entries")
    score, never = dict(zip(tokens, scores, strict=True)), set(special)
    splits = [(piece[:cut], piece[cut:]) for piece in vocab for cut in range(1, len(piece))]
    whole = [pair for pair in splits if pair[0] in vocab and pair[1] in vocab and "".join(pair) not in never]
    merges = sorted(whole, key=lambda pair: -score["".join(pair)])
    backend = Backend(models.BPE(vocab=vocab, merges=merges, byte_fallback=True))
    spaces = normalizers.Replace(" ", "\u2581")
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), spaces]) if prefix else spaces
    pieces = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    backend.decoder = decoders.Sequence([*pieces, decoders.Strip(" ", 1, 0)] if prefix else pieces)
    # Runs of spaces (Gemma) are looked for after the normaliser, where they are spelled as here; one that puts a space
    # before the text would put it before them too.
    added = [AddedToken(token, special=True, normalized="\u2581" in token and not prefix) for token in special]
    backend.add_special_tokens(added)
    return Tokenizer(backend)


def without_added(tokenizer: Tokenizer, vocab: int) -> Tokenizer:
    """The tokenizer without added tokens whose ids a model of `vocab` tokens has not.

    Gemma 3's tokenizer names an image token, the models that read only text embed everything but that.
    """
    contents = json.loads(tokenizer.to_json())
    kept = [token for token in contents["added_tokens"] if token["id"] < vocab]
    if len(kept) == len(contents["added_tokens"]):
        return tokenizer
    dropped = {token["content"] for token in contents["added_tokens"] if token["id"] >= vocab}
    words = contents["model"]["vocab"]
    if isinstance(words, dict):  # a list of pairs in unigram models, which do not hold added tokens
        contents["model"]["vocab"] = {word: id for word, id in words.items() if word not in dropped}
    marks = tokenizer.marks
    begin = marks.begin if marks.begin is not None and marks.begin < vocab else None
    marks = dataclasses.replace(
        marks,
        begin=begin,
        begins=marks.begins and begin is not None,
        ends=tuple(id for id in marks.ends if id < vocab),
    )
    return Tokenizer.from_json(json.dumps(contents | {"added_tokens": kept})).marked(marks)


def check_fits(tokenizer: Tokenizer, vocab: int) -> None:
    """Raise ValueError when the tokenizer has ids that a model of `vocab` tokens has not."""
    if tokenizer.size > vocab:
        raise ValueError(
            f"the tokenizer has ids up to {tokenizer.size - 1}, the model embeds only {vocab} tokens (ids up to "
            f"{vocab - 1}); use the tokenizer that came with this model"
        )
