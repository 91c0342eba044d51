"""How often is a right answer refused for its spelling, and a wrong one accepted? The lists of spellings.

    python experiments/checks/right_spellings.py [GRADER ...]

Prints both rates for each grader, as it is and with `strict=true`, then every spelling that is refused and why. Needs
the extra `math` for the symbolic grader.
"""

import collections
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests" / "tasks" / "grading"))
import spellings

from qstar.cli import flags
from qstar.reports import tables

NAMES = ("grader", "right spellings", "refused", "refused, strict", "wrong answers", "accepted", "accepted, strict")


def main() -> int:
    """Print the tables; the exit status is the number of wrong answers taken and of right ones refused unforeseen."""
    kinds = list(dict.fromkeys(spelled.kind for spelled in spellings.table()))
    parser = flags.parser(__doc__)
    parser.add_argument("graders", nargs="*", metavar="GRADER", help=f"of {', '.join(kinds)}; all by default")
    asked = parser.parse_args().graders or kinds
    unknown = set(asked) - set(kinds)
    if unknown:
        parser.error(f"unknown graders {', '.join(sorted(unknown))}: choose of {', '.join(kinds)}")
    totals: collections.Counter = collections.Counter()
    reasons, unforeseen = collections.defaultdict(list), 0
    print(tables.head(NAMES))
    for kind in asked:
        row: collections.Counter = collections.Counter()
        for spelled in spellings.table():
            if spelled.kind != kind:
                continue
            foreseen = dict(spelled.refused)
            for strict in (False, True):
                note, right = ", strict" if strict else "", [*spelled.right, *foreseen]
                refused = [text for text in right if not spellings.correct(spelled, text, strict)]
                row |= {f"right{note}": row[f"right{note}"] + len(right)}
                row |= {f"refused{note}": row[f"refused{note}"] + len(refused)}
                taken = [text for text in spelled.wrong if spellings.correct(spelled, text, strict)]
                row |= {f"wrong{note}": row[f"wrong{note}"] + len(spelled.wrong)}
                row |= {f"taken{note}": row[f"taken{note}"] + len(taken)}
                if not strict:
                    unforeseen += len(set(refused) ^ set(foreseen))
                    for text in refused:
                        reasons[foreseen.get(text, "?")].append(f"`{text}` for `{spelled.gold}`")
        print(_row(kind, row))
        totals.update(row)
    print(_row("all", totals))
    because = ((", ".join(texts), reason) for reason, texts in reasons.items())
    print("\n" + tables.markdown(("stays refused", "because"), because), end="")
    return min(totals["taken"] + totals["taken, strict"] + unforeseen, 100)


def _row(name: str, row: collections.Counter) -> str:
    shares = [f"{row[key]} ({row[key] / row['right']:.1%})" for key in ("refused", "refused, strict")]
    return tables.row([name, row["right"], *shares, row["wrong"], row["taken"], row["taken, strict"]])


if __name__ == "__main__":
    sys.exit(main())
