"""How often a base follows a hint, and where STaR ends from there: a table and a figure, for README.md.

    python experiments/star/arithmetic/study.py star --hinted 0.3 --bases 0 1 2 --seeds 0 --out runs/star_hinted_0.3
    python experiments/star/arithmetic/bases.py 0.3=runs/star_hinted_0.3 0.7=runs/star_arithmetic
    python experiments/star/arithmetic/bases.py                                  # from the committed bases.jsonl

The share before a folder is that of the warm-up's examples with a hint in the prompt. Runs are added to bases.jsonl;
another one of the same share, base and seed is replaced with --replace only, and never by one of fewer iterations. The
figure needs matplotlib: pip install '.[figures]'.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import study

from qstar import config as configs
from qstar import files
from qstar.cli import entry, flags
from qstar.evals.intervals import wilson
from qstar.evals.records import check_replaced
from qstar.reports import figures, tables
from qstar.runs import iterations

HERE = Path(__file__).resolve().parent
RECORDS, FIGURE, PLACE = "bases.jsonl", "bases.png", "bases"
PAPER = 0.895
KEY = ("hinted_share", "base", "warmup_steps", "seed")


def read(share: float, folder: Path) -> Iterator[dict]:
    """A record of every finished run of STaR in a folder of study.py."""
    for base, seed, directory in study.runs_of(folder, "star"):
        lines = iterations.lines(directory)
        if "test" in lines[-1]:
            yield {
                "hinted_share": share,
                "base": base,
                "warmup_steps": configs.load(study.base_folder(folder, base) / "config.yaml").steps,
                "seed": seed,
                "two_digits": lines[0]["groups"]["2"]["share"],
                "hinted": lines[1]["hinted"],
                "right_hinted": lines[1]["right_hinted"],
                "dev": [line["accuracy"]["share"] for line in lines],
                "test": lines[-1]["test"]["accuracy"],
            }


def success(record: dict) -> float:
    """Share of the first iteration's failures that the base answers correctly with the hint."""
    return record["right_hinted"] / record["hinted"]


def table(records: Sequence[dict]) -> str:
    rows = [
        (
            f"{record['hinted_share']:g}",
            record["base"],
            record["warmup_steps"],
            f"{record['two_digits']:.2f}",
            tables.interval(success(record), *wilson(record["right_hinted"], record["hinted"])),
            *(f"{record['dev'][i]:.3f}" if i < len(record["dev"]) else "" for i in (0, 1, 2, 3)),
            f"{record['dev'][-1]:.3f} ({len(record['dev']) - 1})",
            tables.share(record["test"]),
        )
        for record in records
    ]
    names = (
        "hinted examples",
        "base",
        "warm-up steps",
        "two digits",
        "right with hint",
        "dev before",
        "1",
        "2",
        "3",
        "last (iteration)",
        "test",
    )
    return tables.markdown(names, rows)


def draw(records: Sequence[dict], file: Path) -> None:
    figure, (axes,) = figures.grid(1, 1, 5.0, 3.4)
    shares = sorted({record["hinted_share"] for record in records})
    for share, colour in zip(shares, figures.shades(len(shares) + 1), strict=False):
        mine = [record for record in records if record["hinted_share"] == share]
        for able in (True, False):
            some = [record for record in mine if (record["two_digits"] >= study.ABLE) == able]
            if not some:
                continue
            axes.plot(
                [success(record) for record in some],
                [record["test"]["share"] for record in some],
                "o",
                color=colour,
                fillstyle="full" if able else "none",
                label=f"{share:g} of the warm-up hinted" + ("" if able else ", cannot add two digits"),
            )
    figures.level(axes, PAPER, "the paper's 0.895")
    axes.set_xlabel("failures that the base puts right when it sees the hint", fontsize=9)
    axes.set_ylabel("test accuracy after the last iteration", fontsize=9)
    axes.set_xlim(-0.03, 1.03)
    axes.set_ylim(-0.03, 1.03)
    axes.legend(fontsize=8, frameon=False)
    figures.save(figure, file)


def _check_replaced(known: dict[tuple, dict], new: dict[tuple, dict], file: Path, replace: bool) -> None:
    """Raise ValueError where another run would take the place of one that is recorded, unless that was requested."""
    other = [key for key in known if key in new and known[key] != new[key]]
    if other:
        held = ({key: len(of[key]["dev"]) for key in other} for of in (known, new))
        check_replaced(*held, str(file), replace)


def main() -> None:
    parser = flags.parser(__doc__)
    parser.add_argument(
        "runs", nargs="*", type=flags.named, metavar="SHARE=FOLDER", help="folders of study.py --hinted SHARE"
    )
    parser.add_argument("--out", type=Path, default=HERE)
    parser.add_argument("--replace", action="store_true", help="replace records of the same runs")
    args = parser.parse_args()
    with entry.errors():
        by_key = {}
        if (args.out / RECORDS).is_file():
            kept = files.lines(
                args.out / RECORDS, "a run of STaR", hinted_share=float, base=int, seed=int, dev=list, two_digits=float
            )
            by_key = {tuple(row.record[name] for name in KEY): row.record for row in kept}
        new = {
            tuple(record[name] for name in KEY): record
            for share, folder in args.runs
            for record in read(float(share), folder)
        }
        _check_replaced(by_key, new, args.out / RECORDS, args.replace)
        by_key |= new
        if not by_key:
            raise FileNotFoundError(f"no {RECORDS} in {args.out} and no finished run: give SHARE=FOLDER of study.py")
        records = [by_key[key] for key in sorted(by_key)]
        if args.runs:
            files.write_records(args.out / RECORDS, records)
        page = args.out / "README.md"
        if page.is_file() and PLACE in tables.places(page.read_text(encoding="utf-8")):
            tables.fill(page, {PLACE: table(records)})
        else:
            print(table(records), end="")
        draw(records, args.out / FIGURE)


if __name__ == "__main__":
    main()
