"""Do graders accept wrong answers, refuse right ones or hang? Random pairs.

    python experiments/checks/fuzz_graders.py [--pairs 5000] [--seconds 5]

As many pairs that are equal by construction as pairs that differ by construction. Every wrong answer that is taken,
every right one that is refused and every comparison that ran out of time is printed. Needs the extra `math`.
"""

import argparse
import collections
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests" / "tasks" / "grading"))
import fuzz_answers
import spellings

from qstar.reports import tables
from qstar.tasks.grading import symbolic

# Of a thousand pairs, how many are of each kind.
SHARES = {"numeric": 200, "choice": 100, "exact": 100, "symbolic": 400, "collection": 200}
NAMES = ("kind", "equal", "refused", "different", "accepted", "out of time", "longest, s", "median, ms")
COUNTS = ("equal", "refused", "different", "accepted", "timeout")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--pairs", type=int, default=5000, help="equal ones, and as many different ones")
    parser.add_argument("--seconds", type=float, default=5.0, help="of processor time for one comparison")
    given = parser.parse_args()
    totals: collections.Counter = collections.Counter()
    print(tables.head(NAMES))
    for kind, share in SHARES.items():
        row, times = judged(kind, given.pairs * share // 1000, given.seconds)
        ends = f"{max(times):.1f}", f"{sorted(times)[len(times) // 2] * 1000:.2f}"
        print(tables.row([kind, *(row[name] for name in COUNTS), *ends]), flush=True)
        totals.update(row)
    print(tables.row(["all", *(totals[name] for name in COUNTS), "", ""]))
    return min(totals["accepted"], 100)


def judged(kind: str, count: int, seconds: float) -> tuple[collections.Counter, list[float]]:
    """Counts, and seconds of each verdict."""
    row, times = collections.Counter(), []
    for number in range(count):
        for equal in (True, False):
            pair = fuzz_answers.pair(kind, number, equal)
            is_symbolic = pair.grader == "symbolic"
            grader = symbolic.Symbolic(spellings.HASH, seconds) if is_symbolic else spellings.grader(pair.grader)
            start = time.monotonic()
            verdict = grader(f"so\n#### {pair.answer}\n", fuzz_answers.gold(pair))
            times.append(time.monotonic() - start)
            row["equal" if equal else "different"] += 1
            row["timeout"] += verdict.reason == "timeout"
            if verdict.correct != equal:
                row["refused" if equal else "accepted"] += 1
                print(
                    f"{'refused' if equal else 'ACCEPTED'} ({verdict.reason}): {pair.answer!r} for {pair.gold!r}",
                    file=sys.stderr,
                )
    return row, times


if __name__ == "__main__":
    sys.exit(main())
