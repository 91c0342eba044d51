"""What an answer costs by its length: FLOPs, and bytes of its keys, for models of any shape.

    python experiments/search/lengths/lengths.py [135M 1B 7B SOURCE ...] [--prompt 256] [--samples 1]

By formula (`qstar.models.cost.answer`), so nothing runs. A long chain costs more than its tokens: each attends to all
before it, and their keys stay in memory until it ends. `half` is the length at which attention takes half of the FLOPs;
what fits into 80 GB leaves out the weights. SOURCE is a model as in model.source, or a run.
"""

import argparse
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

from qstar import runs
from qstar.cli import entry, flags
from qstar.models import cost
from qstar.models.lm import LMConfig
from qstar.models.published import SIZES
from qstar.reports import figures, tables
from qstar.reports.figures import Curve

LENGTHS = (128, 512, 2048, 8192, 32_768, 131_072)
MEMORY = 80e9  # bytes of an accelerator


def shape(name: str, dtype: str) -> LMConfig:
    return dataclasses.replace(SIZES[name] if name in SIZES else runs.load_model(name).lm, dtype=dtype)


def half(lm: LMConfig, prompt: int) -> int:
    """The least length of an answer half of whose FLOPs, or more, are attention."""
    low, high = 0, 1
    while cost.answer(lm, prompt, high).attention < cost.answer(lm, prompt, high).products:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        of = cost.answer(lm, prompt, middle)
        low, high = (middle, high) if of.attention < of.products else (low, middle)
    return high


def rows(shapes: dict[str, LMConfig], args: argparse.Namespace) -> Iterator[tuple]:
    for name, lm in shapes.items():
        longest = half(lm, args.prompt)
        for length in args.tokens:
            of = cost.answer(lm, args.prompt, length, args.samples)
            per_token = of.flops / (args.samples * length)
            yield (
                name, f"{length:,}", f"{of.flops / 1e12:,.3g}", f"{per_token / 1e9:,.3g}",
                f"{of.attention / of.flops:.2f}", f"{of.cache / 1e9:,.3g}", f"{of.read / 1e12:,.3g}",
                f"{int(MEMORY / of.cache):,}", f"{longest:,}",
            )  # fmt: skip


def table(shapes: dict[str, LMConfig], args: argparse.Namespace) -> str:
    names = ("shape", "tokens", "TFLOP", "GFLOP a token", "attention", "keys GB", "read TB", "fit into 80 GB", "half")
    return tables.markdown(names, rows(shapes, args))


def draw(shapes: dict[str, LMConfig], args: argparse.Namespace, file: Path) -> None:
    """FLOPs of an answer with those of its products with weights, and bytes of its keys."""
    figure, (flops, kept) = figures.grid(2, 2, 4.2, 3.2)
    lengths = [2**power for power in range(6, 18)]
    for (name, lm), colour in zip(shapes.items(), figures.COLOURS, strict=False):
        found = [cost.answer(lm, args.prompt, length, args.samples) for length in lengths]
        whole = Curve(name, lengths, [of.flops for of in found], colour)
        linear = Curve(f"{name}, without attention", lengths, [of.products for of in found], colour, line=":")
        figures.curves(flops, [whole, linear], "tokens of an answer", "FLOPs")
        keys = Curve(name, lengths, [of.cache for of in found], colour)
        figures.curves(kept, [keys], "tokens of an answer", "bytes of keys and values")
    for axes in (flops, kept):
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
    flops.legend(fontsize=7, frameon=False)
    figures.save(figure, file)


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = flags.parser(__doc__)
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"{', '.join(SIZES)} (default: these), or a SOURCE")
    parser.add_argument("--prompt", type=int, default=256, help="tokens of the prompt")
    parser.add_argument("--tokens", type=int, nargs="+", default=list(LENGTHS), help="of an answer")
    parser.add_argument("--samples", type=int, default=1, help="answers of a prompt, whose keys they share")
    parser.add_argument("--dtype", default="bfloat16", choices=sorted(cost.SIZES))
    parser.add_argument("--page", type=Path, help="whose table lengths is written")
    parser.add_argument("--figure", type=Path, help="where to draw it; needs pip install '.[figures]'")
    return parser.parse_args(given)


def main() -> None:
    args = arguments()
    with entry.errors():
        shapes = {name: shape(name, args.dtype) for name in args.models or SIZES}
        if args.page:
            tables.fill(args.page, {"lengths": table(shapes, args)})
        else:
            print(table(shapes, args), end="")
        if args.figure:
            draw(shapes, args, args.figure)


if __name__ == "__main__":
    main()
