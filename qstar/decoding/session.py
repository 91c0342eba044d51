"""Rows of text that grow step by step: prompts are read once, good rows are forked, the others are dropped.

    session = Session(definition, params, tokenizer, prompts, sampling)
    firsts = session.write([session.start(0)] * 4, keys, delimiters=["\\n"])       four first steps of prompt 0
    seconds = session.write([firsts[2].row] * 4, keys, delimiters=["\\n"])         four second steps of the best one

A row is a value: any number of rows go on from it, now or later. Its keys stay where the call that wrote it left them,
and are gathered from there for the rows that go on; the oldest are dropped where they take too much memory, and what
they held is read again when it is needed. All rows of a call write together, each until its step ends. Whether a
token completes a delimiter or a stop is looked up on the device, so that nothing is written that is thrown away; the
decoded text has the last word.
"""

import dataclasses
import functools
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from qstar.decoding import cache, stops, write
from qstar.decoding import sampling as choosing
from qstar.decoding.cache import Keys, Prompts
from qstar.decoding.generate import Tokenizer
from qstar.decoding.sampling import Choice, Sampling
from qstar.decoding.stops import Automaton
from qstar.models import cost
from qstar.models.cost import Cost, Pass
from qstar.models.definition import Definition
from qstar.ops import rows as texts
from qstar.ops import vocabulary
from qstar.sharding import shard
from qstar.structs import Batch
from qstar.typing import Array, Bool, Float, Int, Params
from qstar.typing import Keys as RowKeys

KEPT_BYTES = 2**30
"""Of keys of earlier rows; above this limit the oldest are dropped."""


@dataclass(eq=False)
class _Held:
    """The keys that the rows of one call left."""

    own: tuple[Keys, ...] | None  # rows [B R]; None: let go
    size: int  # bytes


@dataclass(frozen=True, eq=False)
class Row:
    """A text after a prompt, to be gone on from."""

    prompt: int  # its number in the session
    ids: tuple[int, ...] = ()  # as they were sampled
    text: str = ""  # of these but for what is shown, before the stop where there is one
    finished: bool = False  # a stop text or token was written
    held: _Held | None = field(default=None, repr=False)
    slot: int = 0  # among the rows of its prompt in what is held
    fed: int = 0  # columns of it that are there
    shown: int = 0  # the first of `ids`, which are read like a part of the prompt: no stop is looked for in them

    @property
    def own(self) -> tuple[int, ...]:
        """The tokens of the text."""
        return self.ids[self.shown :]


@dataclass(frozen=True, eq=False)
class Step:
    """What a call wrote for a row. Arrays have an entry a token."""

    row: Row  # with this step
    text: str  # of the step, delimiter and stop included; of an end-of-text token nothing
    ids: tuple[int, ...]
    logprobs: Float[np.ndarray, "T"]  # natural log, the model's own: temperature 1, nothing left out
    behaviour: Float[np.ndarray, "T"]  # of the distribution that was drawn from
    margins: Float[np.ndarray, "T"]  # nats between the two likeliest tokens
    gaps: Float[np.ndarray, "T"]  # between their probabilities
    ended: bool  # by a delimiter or a stop, not by the limit


@struct.dataclass
class Columns(write.Columns):
    gap: Float[Array, "B R M"]  # between the probabilities of the two likeliest tokens


@struct.dataclass
class _State:
    """Of a call, between two columns."""

    own: tuple[Keys, ...]
    fed: Int[Array, "B R"]  # tokens whose keys are in `own`, the last one of the prompt among them
    newest: Int[Array, "B R"]
    automaton: Int[Array, "B R"]
    count: Int[Array, "B R"]  # tokens written
    live: Bool[Array, "B R"]
    columns: Columns
    steps: Int[Array, ""]  # columns computed


@struct.dataclass
class _Asked:
    """The inputs of a call, row by row."""

    given: Int[Array, "B R F"]  # tokens to read before the first new one
    given_count: Int[Array, "B R"]
    first: Int[Array, "B R"]  # of these: number in the row
    limit: Int[Array, "B R"]  # new tokens
    rank: Int[Array, "B R"]  # of the first new token among the likeliest
    words: Array  # of the keys, [B R _]


class Session:
    """Some prompts, read once, and the rows that are written after them.

    Args:
        definition: of any model; its language model writes.
        prompts: texts or ids.
        sampling: `max_new_tokens` limits a row as a whole; stops end it.
        layers: `write.unrolled` of the same weights, where they are there already.
        size: prompts are filled up to this number, so that batches of several sizes share a program; on a mesh, which
            is the one that is set, a number that its data axes divide.
        keep: bytes of keys of earlier rows.

    Raises ValueError for prompts that the model cannot read and continue, and for tokens that it does not know.
    """

    def __init__(
        self,
        definition: Definition,
        params: Params,
        tokenizer: Tokenizer,
        prompts: Sequence[str | Sequence[int]],
        sampling: Sampling,
        *,
        layers: tuple | None = None,
        size: int | None = None,
        keep: int = KEPT_BYTES,
    ):
        cfg = definition.abstract_model.lm.cfg
        encode = tokenizer.encode_prompt
        self.prompts = [tuple(encode(prompt) if isinstance(prompt, str) else map(int, prompt)) for prompt in prompts]
        texts.check(self.prompts, cfg.vocab, cfg.max_len, more=sampling.max_new_tokens)
        ends = [id for id in tokenizer.ends if id not in (*sampling.forbidden_ids, *sampling.stop_ids)]
        self.sampling = dataclasses.replace(sampling, stop_ids=(*sampling.stop_ids, *ends))
        self.sampling.choice.check(cfg.vocab)
        self.cost = Cost()
        self._definition, self._params, self._decode, self._keep = definition, params, tokenizer.decode, keep
        self._cfg = cfg
        self._layers = write.unrolled(definition, params) if layers is None else layers
        self._held: list[_Held] = []
        self._filled = [*self.prompts, *self.prompts[-1:] * ((size or len(self.prompts)) - len(self.prompts))]
        self._read = self._reading()

    @property
    def vocab(self) -> int:
        return self._cfg.vocab

    def start(self, prompt: int) -> Row:
        """The row of a prompt that nothing was written after."""
        return Row(prompt)

    def row(self, prompt: int, ids: Sequence[int], shown: int = 0) -> Row:
        """A row of given tokens after a prompt; they are read when it is gone on from.

        Args:
            shown: the first of them that belong to the prompt, such as earlier solutions.
        """
        ids = tuple(map(int, ids))
        if ids:
            texts.check([ids], self._cfg.vocab, self._cfg.max_len)
        row = Row(prompt, ids, shown=shown)
        return dataclasses.replace(row, text=self._text_of(row)(row.own))

    def write(
        self,
        rows: Sequence[Row],
        keys: RowKeys | None,
        *,
        delimiters: Sequence[str] = (),
        limit: int | None = None,
        ranks: Sequence[int] | None = None,
    ) -> list[Step]:
        """Go on with rows, each until a delimiter, a stop or a limit. A row that is there twice is forked.

        Args:
            keys: one for each row, whose draws depend on it and on nothing else; None takes the likeliest tokens.
            delimiters: texts that end a step and belong to it.
            limit: tokens of a step; None: as many as there is room for in the row.
            ranks: without keys: each row begins with the likeliest token (0), the second likeliest (1), ...

        A program is compiled for every pair of powers of two that hold the rows of a prompt and the tokens of a row.

        Raises ValueError for rows that are finished or full, and where the prediction is not a number.
        """
        self._check(rows, keys, ranks)
        call = _Call(self, rows, limit)
        choice = dataclasses.replace(self.sampling.choice, temperature=0.0) if keys is None else self.sampling.choice
        ends = self._automaton(tuple(delimiters))
        most = min(1 << max(ranks or [0]).bit_length(), self._cfg.vocab)
        asked = call.asked(keys, ranks or [0] * len(rows))
        state = call.state(asked, [ends.state(row.text) for row in rows])
        static = {"choice": choice, "impl": "threefry2x32" if keys is None else jax.random.key_impl(keys), "most": most}
        endings: list[_Ending | None] = [None] * len(rows)
        while True:
            state = _go_on(self._definition, self._params, self._layers, self._read, asked, ends.table, state, **static)
            columns, count, automaton = jax.device_get((state.columns, state.count, state.automaton))
            more = np.zeros_like(count, bool)
            for i, (row, place) in enumerate(zip(rows, call.places, strict=True)):
                if endings[i] is None:
                    written = columns.token[place][: count[place]].tolist()
                    endings[i] = self._ending(row, written, tuple(delimiters), call.limits[i])
                    more[place] = endings[i] is None
            if not more.any():
                break
            again = np.array(automaton)  # what looked like an end was none
            for row, place in zip(rows, call.places, strict=True):
                if more[place]:
                    text = self._text_of(row)([*row.own, *columns.token[place][: count[place]].tolist()])
                    again[place] = ends.state(text)
            state = state.replace(live=jnp.asarray(more), automaton=jnp.asarray(again))
        held = self._keep_keys(state.own)
        steps = [
            _step(row, ending, columns, place, held, call.fed(i))
            for i, (row, ending, place) in enumerate(zip(rows, endings, call.places, strict=True))
        ]
        self._charge(call, int(state.steps), sum(len(step.ids) for step in steps))
        return steps

    # --- on the way -----------------------------------------------------------------------------------------------

    def _reading(self) -> Prompts:
        """Prompts but for their last tokens, which every row reads itself: its prediction is the first new one."""
        width = texts.bucket(max(map(len, self._filled)))
        length = np.array([len(prompt) - 1 for prompt in self._filled], np.int32)
        self.cost += Cost(
            prompt_tokens=sum(map(len, self.prompts)),
            padding_tokens=len(self._filled) * width - sum(map(len, self.prompts)),
            flops=len(self._filled) * cost.flops(self._cfg, [Pass(width, width, 0, gradient=False)]),
        )
        batch = texts.padded([prompt[:-1] for prompt in self._filled], width)
        return _read(self._definition, self._params, batch, length)

    def _check(self, rows: Sequence[Row], keys: RowKeys | None, ranks: Sequence[int] | None) -> None:
        if not rows:
            raise ValueError("rows is empty: expected at least one row to go on with")
        if keys is not None and keys.shape != (len(rows),):
            raise ValueError(f"keys of shape {keys.shape} for {len(rows)} rows: expected one a row")
        if ranks is not None and (keys is not None or len(ranks) != len(rows)):
            raise ValueError(f"{len(ranks)} ranks for {len(rows)} rows: expected one a row, and no keys")
        for row in rows:
            if row.finished:
                raise ValueError(f"a row of prompt {row.prompt} is finished: {row.text!r} cannot be continued")
            if len(row.ids) >= self.sampling.max_new_tokens:
                raise ValueError(
                    f"a row of prompt {row.prompt} has {len(row.ids)} tokens, and sampling.max_new_tokens = "
                    f"{self.sampling.max_new_tokens}: it cannot be continued"
                )

    def _automaton(self, delimiters: tuple[str, ...]) -> Automaton:
        return _automaton(self._decode, self._cfg.vocab, (*delimiters, *self.sampling.stop), self.sampling.stop_ids)

    def _ending(self, row: Row, written: list[int], delimiters: tuple[str, ...], limit: int) -> "_Ending | None":
        """Where a step ends; None where it goes on."""
        stop_ids, decode, before = frozenset(self.sampling.stop_ids), self._text_of(row), len(row.own)
        plain = stops.without_stop(written, stop_ids)
        whole = [*row.own, *plain]
        stop = stops.first(decode, whole, self.sampling.stop, before) if self.sampling.stop else None
        delimiter = stops.first(self._step_text(row), plain, delimiters) if delimiters else None
        if stop is not None and (delimiter is None or stop.count <= delimiter.count + before):
            return _Ending(stop.count - before, stop.text, decode(whole[: stop.count])[len(row.text) :], True, True)
        if delimiter is not None:
            text = decode(whole[: delimiter.count + before])
            return _Ending(delimiter.count, text, text[len(row.text) :], False, True)
        if len(plain) < len(written) or len(written) >= limit:
            text, by_id = decode(whole), len(plain) < len(written)
            return _Ending(len(written), text, text[len(row.text) :], by_id, by_id)
        return None

    def _text_of(self, row: Row) -> stops.Decode:
        """The text of tokens that follow what is shown."""
        if not row.shown:
            return self._decode
        shown = row.ids[: row.shown]
        begins = len(self._decode(shown))
        return lambda ids: self._decode([*shown, *ids])[begins:]

    def _step_text(self, row: Row) -> stops.Decode:
        """The text of tokens that follow a row."""
        decode = self._text_of(row)
        return lambda ids: decode([*row.own, *ids])[len(row.text) :]

    def _keep_keys(self, own: tuple[Keys, ...]) -> _Held:
        held = _Held(own, sum(leaf.nbytes for leaf in jax.tree.leaves(own)))
        self._held.append(held)
        total = sum(entry.size for entry in self._held)
        while total > self._keep and self._held:
            oldest = self._held.pop(0)
            oldest.own, total = None, total - oldest.size
        return held

    def _charge(self, call: "_Call", columns: int, written: int) -> None:
        computed = call.batch * call.width * columns
        self.cost += Cost(
            prompt_tokens=call.read_again,
            generated_tokens=written,
            discarded_tokens=computed - written - call.read_again,
            flops=computed * cost.flops(self._cfg, [Pass(1, call.keys_seen, 1, gradient=False)]),
        )


@dataclass(frozen=True)
class _Ending:
    count: int  # tokens of the step
    before_stop: str  # text of the row up to its stop
    text: str  # of the step
    finished: bool
    ended: bool


def _step(row: Row, ending: _Ending, columns: Columns, place: tuple[int, int], held: _Held, fed: int) -> Step:
    token, logprob, behaviour, margin, gap = (
        leaf[place][: ending.count]
        for leaf in (columns.token, columns.logprob, columns.behaviour, columns.margin, columns.gap)
    )
    if not np.isfinite(logprob).all():
        raise ValueError("the prediction is not a number: the model's parameters have diverged")
    ids = tuple(token.tolist())
    fed += max(len(ids) - 1, 0)
    after = Row(row.prompt, row.ids + ids, ending.before_stop, ending.finished, held, place[1], fed, row.shown)
    return Step(after, ending.text, ids, logprob, behaviour, margin, gap, ending.ended)


class _Call:
    """Where the rows of a call are: those of a prompt side by side, filled up to a power of two."""

    def __init__(self, session: Session, rows: Sequence[Row], limit: int | None):
        self.session, self.rows = session, rows
        self.batch = len(session._filled)
        counts = [0] * self.batch
        self.places: list[tuple[int, int]] = []
        for row in rows:
            self.places.append((row.prompt, counts[row.prompt]))
            counts[row.prompt] += 1
        self._at = tuple(np.transpose(self.places))
        self.width = 1 << (max(counts) - 1).bit_length()
        most = session.sampling.max_new_tokens
        self.limits = [min(limit or most, most - len(row.ids)) for row in rows]
        # The prompt's last token belongs to the row; of a row that goes on the newest is not read yet.
        self._had = [row.fed if row.held is not None and row.held.own is not None else 0 for row in rows]
        self._texts = [(session.prompts[row.prompt][-1], *row.ids) for row in rows]
        self.new = texts.bucket(max(self.limits))
        self.size = texts.bucket(max(map(len, self._texts)) + max(self.limits))
        self.read_again = sum(len(text) - had - 1 for text, had in zip(self._texts, self._had, strict=True))

    @property
    def keys_seen(self) -> int:
        return self.session._read.mask.shape[1] + self.size

    def fed(self, number: int) -> int:
        """Columns of a row when its first new token is predicted."""
        return len(self._texts[number])

    def asked(self, keys: RowKeys | None, ranks: Sequence[int]) -> _Asked:
        missing = [text[had:] for text, had in zip(self._texts, self._had, strict=True)]
        longest = max(map(len, missing))
        given = np.zeros((len(missing), 1 if longest == 1 else texts.bucket(longest)), np.int32)
        for number, tokens in enumerate(missing):
            given[number, : len(tokens)] = tokens
        keys = (
            jax.random.split(jax.random.key(0, impl="threefry2x32"), len(missing)) if keys is None else keys
        )  # nothing is drawn
        words = np.asarray(jax.random.key_data(jax.random.clone(keys)))
        return _Asked(
            *map(self._laid, (given, np.array([*map(len, missing)], np.int32), np.array(self._had, np.int32))),
            *map(self._laid, (np.array(self.limits, np.int32), np.array(ranks, np.int32), words)),
        )

    def _laid(self, values: np.ndarray) -> np.ndarray:
        """An entry a row, at its place."""
        laid = np.zeros((self.batch, self.width, *values.shape[1:]), values.dtype)
        laid[self._at] = values
        return laid

    def state(self, asked: _Asked, automaton: Sequence[int]) -> _State:
        shape = (self.batch, self.width)
        number = lambda: np.zeros(shape, np.int32)  # noqa: E731
        wide = jnp.promote_types(self.session._cfg.dtype, jnp.float32)
        real = lambda: np.zeros((*shape, self.new), wide)  # noqa: E731
        return _State(
            own=self._own(),
            fed=np.array(asked.first),
            newest=number(),
            automaton=self._laid(np.array(automaton, np.int32)),
            count=number(),
            live=self._laid(np.ones(len(self.rows), bool)),
            columns=Columns(np.zeros((*shape, self.new), np.int32), real(), real(), real(), real()),
            steps=np.zeros((), np.int32),
        )

    def _own(self) -> tuple[Keys, ...]:
        """The keys that the rows have, gathered from where earlier calls left them."""
        sources: dict[int, tuple[tuple[Keys, ...], list[int]]] = {}
        for number, row in enumerate(self.rows):
            if self._had[number]:
                sources.setdefault(id(row.held), (row.held.own, []))[1].append(number)
        own = None
        for keys, numbers in sources.values():
            index, taken = np.zeros((self.batch, self.width), np.int32), np.zeros((self.batch, self.width), bool)
            for number in numbers:
                index[self.places[number]], taken[self.places[number]] = self.rows[number].slot, True
            own = _gathered(keys, index, self.size) if own is None else _merged(own, keys, index, taken)
        return _room(self.session._definition, self.batch, self.width, self.size) if own is None else own


@functools.lru_cache(maxsize=64)
def _automaton(decode: stops.Decode, vocab: int, ends: tuple[str, ...], ids: tuple[int, ...]) -> Automaton:
    return stops.automaton(stops.pieces(decode, vocab) if ends else [""] * vocab, ends, ids)


# --- programs -----------------------------------------------------------------------------------------------------


@functools.partial(jax.jit, static_argnames="definition")
def _read(definition: Definition, params: Params, batch: Batch, length: Int[Array, "B"]) -> Prompts:
    batch = jax.tree.map(lambda leaf: shard(leaf, "batch", None), batch)
    return cache.read(definition.bind(params).lm, batch, jnp.maximum(length, 1))[0].replace(length=length)


@functools.partial(jax.jit, static_argnames=("definition", "batch", "width", "size"))
def _room(definition: Definition, batch: int, width: int, size: int) -> tuple[Keys, ...]:
    return cache.room(definition.abstract_model.lm, batch, width, size)


@functools.partial(jax.jit, static_argnames="size")
def _gathered(own: tuple[Keys, ...], index: Int[Array, "B R"], size: int) -> tuple[Keys, ...]:
    """Rows of `own` with places for `size` tokens."""
    return tuple(
        Keys(_sized(_rows(layer.key, index), size, 4), _sized(_rows(layer.value, index), size, 3)) for layer in own
    )


@functools.partial(jax.jit, donate_argnames="into")
def _merged(
    into: tuple[Keys, ...], own: tuple[Keys, ...], index: Int[Array, "B R"], taken: Bool[Array, "B R"]
) -> tuple[Keys, ...]:
    size = into[0].value.shape[3]
    new = _gathered(own, index, size)
    return jax.tree.map(lambda old, new: jnp.where(taken[:, :, None, None, None], new, old), into, new)


def _rows(leaf: Array, index: Array) -> Array:
    return jax.vmap(lambda rows, index: rows[index])(leaf, index)


def _sized(leaf: Array, size: int, axis: int) -> Array:
    short = size - leaf.shape[axis]
    if short <= 0:
        return jax.lax.slice_in_dim(leaf, 0, size, axis=axis)
    return jnp.pad(leaf, [(0, short if i == axis else 0) for i in range(leaf.ndim)])


@functools.partial(jax.jit, static_argnames=("definition", "choice", "impl", "most"), donate_argnames="state")
def _go_on(
    definition: Definition,
    params: Params,
    layers: tuple,
    read: Prompts,
    asked: _Asked,
    table: Int[Array, "S V"],
    state: _State,
    *,
    choice: Choice,
    impl: Hashable,
    most: int,
) -> _State:
    """A column of every row after the other, until none is live."""
    lm = definition.bind(params).lm
    complete = table.shape[0] - 1

    def body(state: _State) -> _State:
        number = state.fed - asked.first
        given = jnp.take_along_axis(asked.given, jnp.minimum(number, asked.given.shape[2] - 1)[..., None], 2)[..., 0]
        token = jnp.where(number < asked.given_count, given, state.newest)
        hidden, own = cache.column(lm, layers, token, state.fed, read, state.own)
        columns = _chosen(lm.logits(hidden), asked, state.count, choice, impl, most)
        writes = state.live & (number >= asked.given_count - 1)
        at = (jnp.arange(state.columns.token.shape[2])[None, None] == state.count[..., None]) & writes[..., None]
        written = jax.tree.map(lambda all, value: jnp.where(at, value[..., None], all), state.columns, columns)
        automaton = jnp.where(writes, table[state.automaton, columns.token], state.automaton)
        count = state.count + writes
        return _State(
            own,
            state.fed + state.live,
            jnp.where(writes, columns.token, state.newest),
            automaton,
            count,
            state.live & (automaton != complete) & (count < asked.limit),
            written,
            state.steps + 1,
        )

    return jax.lax.while_loop(lambda state: state.live.any(), body, state)


def _chosen(
    logits: Float[Array, "B R V"], asked: _Asked, count: Array, choice: Choice, impl: Hashable, most: int
) -> Columns:
    shape, flat = count.shape, logits.reshape(-1, logits.shape[-1])
    keys = jax.random.wrap_key_data(asked.words.reshape(flat.shape[0], -1), impl=impl)
    _, keys = choosing.step_keys(keys, count.reshape(-1))
    chosen = choosing.choose(flat, keys, choice)
    if most > 1:
        first = lambda: choosing.ranked(flat, asked.rank.reshape(-1), choice, most)  # noqa: E731
        token = jax.lax.cond((count == 0).any(), first, lambda: chosen.token)
        chosen = choosing.instead(flat, chosen, jnp.where(count.reshape(-1) == 0, token, chosen.token))
    likeliest = vocabulary.forbid(flat, choice.forbidden_ids).max(-1) - jax.nn.logsumexp(flat, -1)
    gap = jnp.exp(likeliest) * -jnp.expm1(-chosen.margin)
    columns = Columns(**vars(chosen), gap=gap)
    return jax.tree.map(lambda leaf: leaf.reshape(shape), columns)
