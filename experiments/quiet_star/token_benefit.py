"""What thoughts did to every token of a text: how much, to which tokens, and the thoughts that helped most.

    python experiments/quiet_star/token_benefit.py RUN TEXT.jsonl --field question+answer --texts 40 --out FOLDER

Every token of every text (its first `--tokens` tokens) is predicted with and without the likeliest thought before it,
as in Figures 7 and 8 of the paper. Writes `tokens.parquet` (a row for every token), `benefit.md` (the numbers and the
best thoughts) and `benefit.png` (wants matplotlib: pip install '.[figures]'). The gain of a token is the change in its
log-likelihood, in nats; intervals are 95 % bootstraps over texts, since tokens of one text are not independent.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
import pyarrow
import pyarrow.parquet

from qstar import runs
from qstar.cli import session
from qstar.evals import records
from qstar.evals.intervals import bootstrap_ratio
from qstar.thoughts.read import Reading, read
from qstar.training import console

PARTS = 5  # of the tokens, from those that are easiest without a thought to the hardest
SHOWN = 12  # of the thoughts that helped most
CONTEXT = 60  # characters before a token that are shown with its thought


@dataclass(frozen=True)
class Tokens:
    """Every token of the texts, in order; N of them."""

    text: np.ndarray  # number of the text
    position: np.ndarray
    base: np.ndarray  # log-likelihood without a thought, nats
    gain: np.ndarray  # change with it
    weight: np.ndarray  # mixing weight


def gathered(readings: Sequence[Reading]) -> Tokens:
    """The likeliest thought's effect on every token but the first of each text."""
    rows = [
        (number, position, step.base, step.thoughts[0].gain, step.thoughts[0].weight)
        for number, reading in enumerate(readings)
        for position, step in enumerate(reading.steps, 1)
    ]
    return Tokens(*map(np.asarray, zip(*rows, strict=True)))


def mean_gain(tokens: Tokens, chosen: np.ndarray) -> tuple[float, float, float]:
    """Mean over the chosen tokens and its interval; what is drawn again are the texts that have any."""
    counts = np.bincount(tokens.text[chosen]).astype(float)
    gains = np.bincount(tokens.text[chosen], tokens.gain[chosen])[counts > 0]
    counts = counts[counts > 0]
    low, high = bootstrap_ratio(gains, counts, seed=0)
    return float(gains.sum() / counts.sum()), low, high


def parts(tokens: Tokens) -> list[tuple[float, float, np.ndarray]]:
    """Equal parts by difficulty without a thought: lowest and highest NLL, and which tokens."""
    edges = np.quantile(-tokens.base, np.linspace(0, 1, PARTS + 1))
    part = np.clip(np.searchsorted(edges, -tokens.base, side="right") - 1, 0, PARTS - 1)
    return [(edges[p], edges[p + 1], part == p) for p in range(PARTS)]


def summary(tokens: Tokens, readings: Sequence[Reading], tokenizer) -> str:
    """Markdown: the distribution, the gain by difficulty, the best thoughts."""
    everywhere = np.ones_like(tokens.text, bool)
    mean, low, high = mean_gain(tokens, everywhere)
    points = np.quantile(tokens.gain, [0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99])
    lines = [
        f"{len(tokens.text)} tokens of {len(readings)} texts; mean gain {mean:+.5f} [{low:+.5f}, {high:+.5f}] nats; "
        f"{(tokens.gain > 0).mean():.3f} of the tokens became likelier; mean mixing weight "
        f"{tokens.weight.mean():+.5f}.",
        "",
        "| quantile of the gain | 1 % | 5 % | 25 % | 50 % | 75 % | 95 % | 99 % |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
        "| nats | " + " | ".join(f"{point:+.5f}" for point in points) + " |",
        "",
        "| NLL without a thought | tokens | mean gain [95 %] |",
        "| --- | --- | --- |",
    ]
    for low_nll, high_nll, chosen in parts(tokens):
        mean, low, high = mean_gain(tokens, chosen)
        lines.append(f"| {low_nll:.2f} to {high_nll:.2f} | {chosen.sum()} | {mean:+.5f} [{low:+.5f}, {high:+.5f}] |")
    lines += ["", "| text before | token | thought | gain | NLL without it |", "| --- | --- | --- | --- | --- |"]
    for i in np.argsort(-tokens.gain)[:SHOWN]:
        reading = readings[int(tokens.text[i])]
        place = int(tokens.position[i])
        before = tokenizer.decode(list(reading.tokens[:place]))[-CONTEXT:]
        thought = tokenizer.decode(list(reading.steps[place - 1].thoughts[0].tokens))
        token = tokenizer.decode([reading.tokens[place]])
        lines.append(
            f"| {code(before)} | {code(token)} | {code(thought)} | {tokens.gain[i]:+.3f} | {-tokens.base[i]:.2f} |"
        )
    return "\n".join(lines) + "\n"


def code(text: str) -> str:
    """As a cell of a table."""
    return "`" + text.replace("\n", "⏎").replace("|", "¦").replace("`", "'") + "`"


def draw(tokens: Tokens, file: Path) -> None:
    """Histogram of the gains, and the gain by difficulty."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    reach = np.quantile(np.abs(tokens.gain), 0.995)
    left.hist(np.clip(tokens.gain, -reach, reach), bins=81, color="#0072b2")
    left.set_yscale("log")
    left.set_xlabel("gain of a token, nats (the outermost 0.5 % in the last bars)")
    left.set_ylabel("tokens")
    means = [(-tokens.base[chosen].mean(), *mean_gain(tokens, chosen)) for _, _, chosen in parts(tokens)]
    x, y, low, high = map(np.asarray, zip(*means, strict=True))
    right.errorbar(x, y, yerr=(y - low, high - y), fmt="o-", color="#d55e00", markersize=4)
    right.axhline(0, color="#bbbbbb", linewidth=0.8)
    right.set_xlabel("NLL without a thought, mean of a fifth of the tokens")
    right.set_ylabel("mean gain, nats")
    for axes in left, right:
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, dpi=110)


def texts(file: Path, fields: Sequence[str], count: int) -> list[str]:
    """The first `count` records, their fields joined by a newline."""
    if not file.is_file():
        raise FileNotFoundError(f"{file} is no file: a .jsonl with the fields {', '.join(fields)} is wanted")
    records = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()[:count]]
    lacking = sorted({name for record in records for name in fields if name not in record})
    if lacking or not records:
        raise ValueError(
            f"{file}: its records lack {', '.join(lacking) or 'everything'}; choose other fields with --field"
        )
    return ["\n".join(record[name] for name in fields) for record in records]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("texts", type=Path, help="a .jsonl file that was not trained on")
    parser.add_argument("--field", default="question+answer", help="fields of a record, joined by +")
    parser.add_argument("--texts", dest="count", type=int, default=40, help="how many records")
    parser.add_argument("--tokens", type=int, default=128, help="of each text, at most")
    parser.add_argument("--step", type=int, help="of the run; its newest without")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--replace", action="store_true", help="replace what --out holds")
    args = parser.parse_args()
    with session.errors():
        found = texts(args.texts, args.field.split("+"), args.count)
        session.prepare_jax()
        run = runs.load_run(args.run, args.step)
        params, readings = jax.device_put(run.params), []
        with console.counting("texts") as progress:
            for number, text in enumerate(found):
                ids = run.tokenizer.encode_whole(text)[: args.tokens]
                key = jax.random.fold_in(jax.random.key(0), number)
                readings.append(read(run.method, run.definition, params, ids, key))
                progress(number + 1, len(found))
        tokens = gathered(readings)
        args.out.mkdir(parents=True, exist_ok=True)
        file = args.out / "tokens.parquet"
        held = {"tokens": pyarrow.parquet.read_metadata(file).num_rows} if file.is_file() else {}
        records.check_replaced(held, {"tokens": len(tokens.text)}, str(args.out), args.replace)
        pyarrow.parquet.write_table(pyarrow.table(vars(tokens)), file)
        (args.out / "benefit.md").write_text(summary(tokens, readings, run.tokenizer), encoding="utf-8")
        draw(tokens, args.out / "benefit.png")
        print((args.out / "benefit.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
