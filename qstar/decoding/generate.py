"""Many prompts continued: sorted into buckets by length, written batch by batch, returned in the order they came in.

A text comes out the same with other texts beside it: its noise is a function of its own key and of the step, and which
program computes it follows from its own length. Stop texts are looked for in the decoded text every few steps; what was
computed after them is thrown away and counted.
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import jax
import numpy as np

from qstar import sharding
from qstar.decoding import sampling as choosing
from qstar.decoding import score, stops, write
from qstar.decoding.sampling import Sampling
from qstar.decoding.write import Block
from qstar.models import cost
from qstar.models.cost import Cost, Pass
from qstar.models.definition import Definition
from qstar.models.lm import LMConfig
from qstar.ops import rows
from qstar.typing import Bool, Float, Int, Key, Keys, Params


class Tokenizer(Protocol):
    @property
    def ends(self) -> tuple[int, ...]: ...

    def encode_prompt(self, prompt: str) -> Sequence[int]: ...

    def decode(self, ids: Sequence[int]) -> str: ...


Progress = Callable[[int, int], None]
"""Called with the number of prompts that are done, and of all."""


@dataclass(frozen=True)
class Written:
    """Continuations, those of a prompt one after another. Lists have an entry a row; arrays in them one a token."""

    prompts: list[tuple[int, ...]]  # ids
    tokens: list[Int[np.ndarray, "n"]]  # up to the stop token, or to that with which the stop text is complete
    text: list[str]  # before the stop text or token
    ending: list[str]  # the stop text, or the stop token's; "" where there was no room to go on
    logprobs: list[Float[np.ndarray, "n"]]  # the model's own: temperature 1, nothing left out
    behaviour: list[Float[np.ndarray, "n"]]  # of the distribution drawn from: temperature, top-k, top-p, forbidden ids
    margins: list[Float[np.ndarray, "n"]]  # nats between the two likeliest tokens
    finished: Bool[np.ndarray, "B"]  # a stop text or token was written
    cost: Cost

    @property
    def prompt_tokens(self) -> Int[np.ndarray, "B"]:
        return np.array([len(prompt) for prompt in self.prompts])


@dataclass(frozen=True)
class _Row:
    tokens: np.ndarray
    text: str
    ending: str
    logprobs: np.ndarray
    behaviour: np.ndarray
    margins: np.ndarray
    finished: bool


def generate(
    definition: Definition,
    params: Params,
    tokenizer: Tokenizer,
    prompts: Sequence[str | Sequence[int]],
    key: Key | Keys,
    sampling: Sampling,
    *,
    samples: int = 1,
    batch_size: int = 8,
    mesh: jax.sharding.Mesh | None = None,
    progress: Progress | None = None,
) -> Written:
    """Continue prompts, texts or ids, each `samples` times. A thinker's language model writes without thoughts.

    A row ends at the stop texts and ids of `sampling`, and at the tokenizer's end-of-text tokens but those that are
    forbidden. Prompts that are texts begin as the tokenizer lets a text begin.

    Args:
        key: or a key for each of the len(prompts) * samples rows.
        batch_size: prompts that are continued at once; a batch has `samples` times as many rows.
        mesh: over whose data axes the prompts of a batch are spread, and the weights as their axes say; None: the mesh
            that is set, with the weights as they lie.

    Two programs are compiled for every pair of powers of two, of no less than 32, that hold a prompt and the new
    tokens: one reads, one writes. A row does not depend on the others of its call, to the last bit as long as
    `batch_size` and `samples` are the same; with others matrix products may round in another order.

    Raises:
        ValueError: no prompts, one that is empty or too long, ids outside the vocabulary, everything forbidden, numbers
            of keys, prompts or devices that do not fit, a prediction that is not a number.
    """
    cfg = definition.abstract_model.lm.cfg
    if mesh:
        sharding.check_divisible(definition.axes, jax.tree.map(lambda leaf: leaf.shape, definition.abstract), mesh)
        sharding.check_rows(batch_size, mesh)
    ids = [
        tuple(tokenizer.encode_prompt(prompt) if isinstance(prompt, str) else map(int, prompt)) for prompt in prompts
    ]
    ends = [id for id in tokenizer.ends if id not in (*sampling.forbidden_ids, *sampling.stop_ids)]
    sampling = dataclasses.replace(sampling, stop_ids=(*sampling.stop_ids, *ends))
    _check(cfg, ids, sampling, samples, batch_size)
    keys = choosing.row_keys(key, len(ids) * samples)
    # As words on the host: taking those of a batch would compile five programs for every size of it.
    words = np.asarray(jax.random.key_data(jax.random.clone(keys))).reshape(len(ids), samples, -1)
    results: list[_Row | None] = [None] * (len(ids) * samples)
    spent, done = Cost(), 0
    with sharding.on(mesh):
        params = score.placed(definition, params, mesh)
        layers = write.unrolled(definition, params)
        for width, index in score.batches([len(prompt) for prompt in ids], batch_size):
            idle = batch_size - len(index)
            filled = np.array(index + index[-1:] * idle)
            watcher = stops.Watcher(tokenizer.decode, sampling.stop, sampling.stop_ids, batch_size * samples)
            block = write.write(
                definition,
                params,
                layers,
                [ids[i] for i in filled],
                jax.random.wrap_key_data(np.concatenate(words[filled]), impl=jax.random.key_impl(keys)),
                sampling.choice,
                max_new_tokens=sampling.max_new_tokens,
                samples=samples,
                width=width,
                idle=idle,
                watch=watcher if sampling.stop else None,
            )
            batch = [_row(block, row, watcher) for row in range(len(index) * samples)]
            for number, i in enumerate(index):
                results[i * samples : (i + 1) * samples] = batch[number * samples : (number + 1) * samples]
            spent += _cost(cfg, block, [len(ids[i]) for i in index], sum(len(row.tokens) for row in batch), samples)
            done += len(index)
            if progress:
                progress(done, len(ids))
    columns = {name: [getattr(row, name) for row in results] for name in _Row.__dataclass_fields__}
    columns["finished"] = np.array(columns["finished"])
    return Written([prompt for prompt in ids for _ in range(samples)], **columns, cost=spent)


def _check(cfg: LMConfig, prompts: Sequence[Sequence[int]], sampling: Sampling, samples: int, batch_size: int) -> None:
    if samples < 1 or batch_size < 1:
        raise ValueError(f"samples = {samples}, batch_size = {batch_size}: expected at least 1 each")
    rows.check(prompts, cfg.vocab, cfg.max_len, more=sampling.max_new_tokens)
    sampling.choice.check(cfg.vocab)


def _row(block: Block, row: int, watcher: stops.Watcher) -> _Row:
    ending = watcher.endings[row]
    count = ending.count if ending else int(block.count[row])
    tokens = block.token[row, :count]
    if not np.isfinite(block.logprob[row, :count]).all():
        raise ValueError("the prediction is not a number: the model's parameters have diverged")
    if ending:
        text, end = ending.text, ending.stop
    else:
        ids = tokens.tolist()
        before = stops.without_stop(ids, watcher.stop_ids)
        text, end = watcher.decode(before), watcher.decode(ids[len(before) :])
    by_id = count > 0 and int(tokens[-1]) in watcher.stop_ids
    columns = (leaf[row, :count] for leaf in (block.logprob, block.behaviour, block.margin))
    return _Row(tokens, text, end, *columns, finished=ending is not None or by_id)


def _cost(cfg: LMConfig, block: Block, prompts: Sequence[int], written: int, samples: int) -> Cost:
    computed = len(block.count) * block.steps
    batch = len(block.count) // samples
    reading = Pass(block.width, block.width, 1, gradient=False)
    writing = Pass(1, block.width + block.room, 1, gradient=False)
    columns = len(block.count) * (block.steps - 1)
    return Cost(
        prompt_tokens=sum(prompts),
        padding_tokens=batch * block.width - sum(prompts),
        generated_tokens=written,
        discarded_tokens=computed - written,
        flops=batch * cost.flops(cfg, [reading]) + columns * cost.flops(cfg, [writing]),
    )
