"""Generation: new tokens a second at several batch sizes, reading of the prompts included.

    python experiments/benchmarks/decoding.py --model SOURCE [--batch 1 8 32] [--prompt 32] [--new 64] [--repeats 5]

SOURCE is anything that init.source takes. Where torch and transformers can be imported, the same weights are run by
`transformers` too, on the same cores, and the two take turns within each repeat. Printed: median and range over
repeats, the time to compile, and the median in terms of reading every weight once per step.
"""

import argparse
import importlib.util
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from rich.table import Table

from qstar import entry, runs
from qstar.decoding.generate import generate
from qstar.decoding.sampling import Sampling
from qstar.methods.lm import PlainLM
from qstar.training import console

Writer = Callable[[np.ndarray, int], None]
"""Continues prompts [B P] with a seed."""


def ours(model: runs.Loaded, new: int) -> Writer:
    definition, params = PlainLM().definition(model.config), jax.device_put(model.params)
    sampling = Sampling(max_new_tokens=new)

    def write(prompts: np.ndarray, seed: int) -> None:
        key, size = jax.random.key(seed), len(prompts)
        found = generate(definition, params, model.tokenizer, prompts.tolist(), key, sampling, batch_size=size)
        assert found.usage.new_tokens == size * new

    return write


def transformers(model: runs.Loaded, new: int) -> Writer:
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
            found = other.generate(ids, attention_mask=torch.ones_like(ids), pad_token_id=0, **settings)
        assert found.shape == (len(prompts), prompts.shape[1] + new)

    return write


def timed(write: Writer, prompts: np.ndarray, seed: int) -> float:
    start = time.perf_counter()
    write(prompts, seed)
    return time.perf_counter() - start


def measured(writers: dict[str, Writer], prompts: np.ndarray, repeats: int) -> dict[str, tuple[float, np.ndarray]]:
    """Seconds of the first call, and of every later one, the writers taking turns."""
    first = {name: timed(write, prompts, 0) for name, write in writers.items()}
    later: dict[str, list[float]] = {name: [] for name in writers}
    for repeat in range(repeats):
        for name, write in writers.items():
            later[name].append(timed(write, prompts, 1 + repeat))
    return {name: (first[name], np.array(later[name])) for name in writers}


def parser() -> argparse.ArgumentParser:
    out = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    out.add_argument("--model", required=True, metavar="SOURCE", help="as init.source takes it")
    out.add_argument("--batch", type=int, nargs="+", default=[1, 8, 32], metavar="B", help="rows at once")
    out.add_argument("--prompt", type=int, default=32, metavar="N", help="tokens of a prompt")
    out.add_argument("--new", type=int, default=64, metavar="N", help="new tokens of a row")
    out.add_argument("--repeats", type=int, default=5, metavar="N")
    return out


def main() -> None:
    args = parser().parse_args()
    with entry.errors():
        entry.prepare_jax()
        model = runs.load_model(args.model)
        writers = {"qstar": ours(model, args.new)}
        if importlib.util.find_spec("torch") and importlib.util.find_spec("transformers"):
            writers["transformers"] = transformers(model, args.new)
        size_bytes = sum(np.asarray(leaf).size * 4 for leaf in jax.tree.leaves(model.params))
        table = Table("rows", "by", "tokens/s", "range", "first call s", "weights read GB/s")
        for batch in args.batch:
            prompts = np.random.default_rng(batch).integers(0, model.config.vocab, (batch, args.prompt))
            for name, (first, seconds) in measured(writers, prompts, args.repeats).items():
                speed = np.sort(batch * args.new / seconds)
                read = size_bytes * args.new / np.median(seconds) / 1e9
                spread = f"{speed[0]:.1f} to {speed[-1]:.1f}"
                table.add_row(str(batch), name, f"{np.median(speed):.1f}", spread, f"{first:.1f}", f"{read:.2f}")
        console.console().print(table)


if __name__ == "__main__":
    main()
