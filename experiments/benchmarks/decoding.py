"""Generation: new tokens a second at several batch sizes, reading of the prompts included.

    python experiments/benchmarks/decoding.py --model SOURCE [--batch 1 8 32 64] [--prompt 32] [--new 64] [--repeats 5]
    python experiments/benchmarks/decoding.py --model SOURCE --think 4 12 --prompt 32 256 [--batch 1 8] [--new 16]

SOURCE is anything that init.source takes. Where torch and transformers can be imported, the same weights are run by
`transformers` too, on the same cores, and the two take turns within each repeat. Printed: median and range over
repeats, the time to compile, the median as time of a step, how much of that the library's products with the weights
take alone, one after the other, and which share reading every weight once per step is of the rate at which
this machine reads memory (a large matrix times a vector). Both are measured between the repeats, each at its best.

With --think every new token is written after a thought of so many tokens. `passes` is the time of a new token over
that of one without thoughts at the same batch size: reading the weights is most of a pass over few rows, and a token
after a thought of T takes T + 2 of them (T to sample, one over the whole thought, one to read the token).
"""

import argparse
import functools
import importlib.util
import itertools
import tempfile
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from rich.table import Table

from qstar import runs
from qstar.cli import entry, flags
from qstar.decoding.generate import generate
from qstar.decoding.sampling import Sampling
from qstar.methods.plain_lm import PlainLM
from qstar.methods.quiet_star import QuietStar
from qstar.policy import Policy
from qstar.reports import tables
from qstar.thoughts.writing import generate as think
from qstar.training import console, trial

Writer = Callable[[np.ndarray, int], None]
"""Continues prompts [B P] with a seed."""
Products = Callable[[int], float]
"""Seconds that a step's products with the weights take for so many rows."""


def matrices(model: Policy) -> list[np.ndarray]:
    """What a token is multiplied with, [in out], in the order of the layers; the output layer last."""
    layers = (jax.tree.map(lambda leaf, i=i: leaf[i], model.language_model["blocks"]) for i in range(model.lm.layers))
    weights = []
    for layer in layers:
        flat = lambda name, layer=layer: np.asarray(layer[name]).reshape(model.lm.width, -1)  # noqa: E731
        weights += [flat("query"), flat("key"), flat("value"), np.asarray(layer["out"]).reshape(-1, model.lm.width)]
        weights += [flat("gate"), flat("up"), np.asarray(layer["down"])]
    return [*weights, np.asarray(model.language_model["embedding" if model.lm.tied else "head"]).T]


def our_products(model: Policy) -> Products:
    @jax.jit
    def all_of_them(weights, rows):
        before = jnp.zeros(())
        for weight in weights:  # a product waits for the one before it, as in a model
            before = ((rows[weight.shape[0]] + before) @ weight)[0, 0] * 1e-9
        return before

    return functools.partial(_best, all_of_them, jax.device_put(matrices(model)), jnp.ones)


def their_products(model: Policy) -> Products:
    import torch

    def all_of_them(weights, rows):
        with torch.inference_mode():
            for weight in weights:
                torch.nn.functional.linear(rows[weight.shape[1]], weight)

    # As the library keeps them: [out in].
    return functools.partial(
        _best, all_of_them, [torch.tensor(np.ascontiguousarray(weight.T)) for weight in matrices(model)], torch.ones
    )


def _best(run: Callable, weights: list, ones: Callable, batch: int) -> float:
    rows = {size: ones((batch, size)) for weight in weights for size in weight.shape}
    return min(trial.timed(lambda: run(weights, rows), 5))


def ours(model: Policy, new: int) -> Writer:
    definition, params = PlainLM().definition(model.lm), jax.device_put(model.language_model)
    sampling = Sampling(max_new_tokens=new)

    def write(prompts: np.ndarray, seed: int) -> None:
        key, size = jax.random.key(seed), len(prompts)
        written = generate(definition, params, model.tokenizer, prompts.tolist(), key, sampling, batch_size=size)
        assert written.cost.generated_tokens == size * new

    return write


def transformers(model: Policy, new: int) -> Writer:
    """The same weights by the library's own `generate`, sampling at temperature 1."""
    import torch
    from transformers import AutoModelForCausalLM

    with tempfile.TemporaryDirectory() as folder:
        runs.save_huggingface(Path(folder) / "model", model)
        other = AutoModelForCausalLM.from_pretrained(Path(folder) / "model", dtype=torch.float32).eval()
    settings = {"do_sample": True, "top_k": 0, "temperature": 1.0, "min_new_tokens": new, "max_new_tokens": new}

    def write(prompts: np.ndarray, seed: int) -> None:
        torch.manual_seed(seed)
        ids = torch.tensor(prompts)
        with torch.inference_mode():
            written = other.generate(ids, attention_mask=torch.ones_like(ids), pad_token_id=0, **settings)
        assert written.shape == (len(prompts), prompts.shape[1] + new)

    return write


def thinking(model: Policy, new: int, thought_len: int) -> Writer:
    """The same weights, with random embeddings around a thought and a mixing head that begins at zero."""
    method = QuietStar(thought_len=thought_len, delimiter_init="random", mix="hidden")
    definition = method.definition(model.lm)
    params = jax.device_put(method.start_from(definition, model.language_model, jax.random.key(0)))

    def write(prompts: np.ndarray, seed: int) -> None:
        written = think(method, definition, params, prompts.tolist(), jax.random.key(seed), max_new_tokens=new)
        jax.block_until_ready(written.tokens)

    return write


def read_rate() -> float:
    """Bytes a second that are read from memory, at best: a matrix of 512 MB times a vector."""
    matrix, vector = jnp.ones((8192, 16384)), jnp.ones(16384)
    product = jax.jit(jnp.matmul)
    return matrix.nbytes / min(trial.timed(lambda: product(matrix, vector), 5))


def measured(writers: dict[str, Writer], prompts: np.ndarray, repeats: int) -> dict[str, tuple[float, np.ndarray]]:
    """Seconds of the first call, and of every later one, the writers taking turns."""
    timed = lambda write: lambda seed: trial.seconds_of(lambda: write(prompts, seed))  # noqa: E731
    times = trial.in_turns({name: timed(write) for name, write in writers.items()}, 1 + repeats)
    return {name: (first, np.array(later)) for name, (first, *later) in times.items()}


def parser() -> argparse.ArgumentParser:
    out = flags.parser(__doc__)
    out.add_argument("--model", required=True, metavar="SOURCE", help="as init.source takes it")
    out.add_argument("--batch", type=int, nargs="+", default=[1, 8, 32, 64], metavar="B", help="rows at once")
    out.add_argument("--prompt", type=int, nargs="+", default=[32], metavar="N", help="tokens of a prompt")
    out.add_argument("--new", type=int, default=64, metavar="N", help="new tokens of a row")
    out.add_argument("--repeats", type=int, default=5, metavar="N")
    out.add_argument("--think", type=int, nargs="+", default=[], metavar="T", help="with thoughts of these lengths")
    return out


def compared(model: Policy, args: argparse.Namespace) -> Table:
    """Ours and, where it can be had, `transformers`."""
    writers, products = {"qstar": ours(model, args.new)}, {"qstar": our_products(model)}
    if importlib.util.find_spec("torch") and importlib.util.find_spec("transformers"):
        writers["transformers"], products["transformers"] = transformers(model, args.new), their_products(model)
    size_bytes = sum(np.asarray(leaf).size * 4 for leaf in jax.tree.leaves(model.language_model))
    head = ("rows", "prompt", "by", "tokens/s", "range", "first call s", "ms a step", "products ms", "of memory's rate")
    rows = []
    for length, batch in itertools.product(args.prompt, args.batch):
        prompts = np.random.default_rng(batch).integers(0, model.lm.vocab, (batch, length))
        times, rate = measured(writers, prompts, args.repeats), read_rate()
        for name, (first, seconds) in times.items():
            speed, step = batch * args.new / seconds, np.median(seconds) / args.new
            cells = (*tables.median_and_spread(speed), f"{first:.1f}", f"{1000 * step:.0f}")
            cells += (f"{1000 * products[name](batch):.0f}", f"{size_bytes / step / rate:.2f}")
            rows.append((batch, length, name, *cells))
    return tables.screen(head, rows)


def thoughts(model: Policy, args: argparse.Namespace) -> Table:
    """A new token's time after thoughts of several lengths and without; the time to read the prompt is subtracted."""
    rows = []
    for length, batch in itertools.product(args.prompt, args.batch):
        prompts = np.random.default_rng(batch).integers(0, model.lm.vocab, (batch, length))
        writers: dict[str, Writer] = {}
        for new in (1, 1 + args.new):
            writers[f"0 {new}"] = ours(model, new)
            writers |= {f"{size} {new}": thinking(model, new, size) for size in args.think}
        times = {name: seconds for name, (_, seconds) in measured(writers, prompts, args.repeats).items()}
        each = {
            size: 1000 * (times[f"{size} {1 + args.new}"] - times[f"{size} 1"]) / args.new for size in (0, *args.think)
        }
        without = np.median(each[0])
        for size in args.think:
            passes = f"{np.median(each[size]) / without:.1f}"
            rows.append((batch, length, size, *tables.median_and_spread(each[size], ".0f"), f"{without:.1f}", passes))
    return tables.screen(("rows", "prompt", "thought", "ms a token", "range", "without ms", "passes"), rows)


def main() -> None:
    args = parser().parse_args()
    with entry.errors():
        entry.prepare_jax()
        model = runs.load_model(args.model)
        console.console().print(thoughts(model, args) if args.think else compared(model, args))


if __name__ == "__main__":
    main()
