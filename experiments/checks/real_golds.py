"""Do right answers of public data sets take themselves in plain respellings, and refuse what is changed in one place?

    QSTAR_DATA=FOLDER python experiments/checks/real_golds.py [--golds 500]

Golds of MATH-500, GSM8K, SVAMP, AQuA and CommonsenseQA from FOLDER. Every right spelling that is refused and every
wrong one that is accepted is printed. Needs the extra `math`.
"""

import argparse
import collections
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests" / "tasks" / "grading"))
import real_golds

from qstar.reports import tables

NAMES = ("golds of", "golds", "right", "refused", "wrong", "accepted", "longest, s")


def main() -> int:
    """Print the table; the exit status is the number of wrong answers accepted."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--golds", type=int, default=500, help="of each data set, at most")
    given = parser.parse_args()
    counts: dict[str, collections.Counter] = collections.defaultdict(collections.Counter)
    longest: dict[str, float] = collections.defaultdict(float)
    for name, judge, gold, right, wrong in real_golds.table(Path(os.environ["QSTAR_DATA"]), given.golds):
        counts[name]["golds"] += 1
        for kind, texts, expected in (("refused", right, True), ("accepted", wrong, False)):
            for text in dict.fromkeys(texts):
                start = time.monotonic()
                judged = judge(text, gold)
                longest[name] = max(longest[name], time.monotonic() - start)
                counts[name]["right" if expected else "wrong"] += 1
                if judged != expected:
                    counts[name][kind] += 1
                    print(f"{kind}: {text!r} for {gold!r}", file=sys.stderr)
    print(tables.head(NAMES))
    for name, row in counts.items():
        print(tables.row([name, *(row[column] for column in NAMES[1:-1]), f"{longest[name]:.1f}"]))
    return min(sum(row["accepted"] for row in counts.values()), 100)


if __name__ == "__main__":
    sys.exit(main())
