"""The effect of thoughts on every token of a text: how large, on which tokens, and the thoughts that helped most.

    python experiments/quiet_star/token_benefit.py RUN TEXT.jsonl --field question+answer --texts 40 --out FOLDER

Every token of every text (its first `--tokens` tokens) is predicted with and without the likeliest thought before it,
as in Figures 7 and 8 of the paper. Writes `tokens.parquet` (a row for every token), `benefit.md` (the numbers and the
best thoughts) and `benefit.png` (needs matplotlib: pip install '.[figures]'). The gain of a token is the change in its
log-likelihood, in nats; intervals are 95 % bootstraps over texts, since tokens of one text are not independent.
"""

from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
import pyarrow
import pyarrow.parquet

from qstar import runs
from qstar.cli import entry, flags
from qstar.evals import records
from qstar.reports import benefit, figures, frames
from qstar.reports.benefit import Tokens
from qstar.reports.figures import Curve
from qstar.thoughts.read import read
from qstar.training import console


def draw(tokens: Tokens, file: Path) -> None:
    """Histogram of the gains, and the gain by difficulty."""
    figure, (left, right) = figures.grid(2, 2, 4.5, 3.2)
    figures.histogram(left, tokens.gain, "gain of a token, nats (the outermost 0.5 % in the last bars)", "tokens")
    means = [
        (-tokens.base[chosen].mean(), *benefit.mean_gain(tokens, chosen)) for _, _, chosen in benefit.parts(tokens)
    ]
    x, y, low, high = map(np.asarray, zip(*means, strict=True))
    shown = Curve("", x, y, figures.COLOURS[1], low, high)
    figures.curves(right, [shown], "NLL without a thought, mean of a fifth of the tokens", "mean gain, nats")
    figures.level(right, 0)
    figures.save(figure, file)


def texts(file: Path, fields: Sequence[str], count: int) -> list[str]:
    """The first `count` records, their fields joined by a newline."""
    if not file.is_file():
        raise FileNotFoundError(f"{file} is not a file: expected a .jsonl with the fields {', '.join(fields)}")
    records = frames.lines(file)[:count]
    lacking = sorted({name for record in records for name in fields if name not in record})
    if lacking or not records:
        raise ValueError(
            f"{file}: its records lack {', '.join(lacking) or 'everything'}; choose other fields with --field"
        )
    return ["\n".join(record[name] for name in fields) for record in records]


def main() -> None:
    parser = flags.parser(__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("texts", type=Path, help="a .jsonl file that was not trained on")
    parser.add_argument("--field", default="question+answer", help="fields of a record, joined by +")
    parser.add_argument("--texts", dest="count", type=int, default=40, help="how many records")
    parser.add_argument("--tokens", type=int, default=128, help="of each text, at most")
    parser.add_argument("--step", type=int, help="of the run; its newest without")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--replace", action="store_true", help="replace what --out holds")
    args = parser.parse_args()
    with entry.errors():
        chosen = texts(args.texts, args.field.split("+"), args.count)
        entry.prepare_jax()
        run = runs.load_run(args.run, args.step)
        params, readings = jax.device_put(run.params), []
        with console.counting("texts") as progress:
            for number, text in enumerate(chosen):
                ids = run.tokenizer.encode_whole(text)[: args.tokens]
                key = jax.random.fold_in(jax.random.key(0), number)
                readings.append(read(run.method, run.definition, params, ids, key))
                progress(number + 1, len(chosen))
        tokens = benefit.gathered(readings)
        args.out.mkdir(parents=True, exist_ok=True)
        file = args.out / "tokens.parquet"
        held = {"tokens": pyarrow.parquet.read_metadata(file).num_rows} if file.is_file() else {}
        records.check_replaced(held, {"tokens": len(tokens.text)}, str(args.out), args.replace)
        pyarrow.parquet.write_table(pyarrow.table(vars(tokens)), file)
        text = benefit.summary(tokens, readings, run.tokenizer)
        (args.out / "benefit.md").write_text(text, encoding="utf-8")
        draw(tokens, args.out / "benefit.png")
        print(text)


if __name__ == "__main__":
    main()
