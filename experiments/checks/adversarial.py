"""How many wrong answers does each grader take? All attacks of `tests/tasks/adversarial.py` on every grader: a table.

    python experiments/checks/adversarial.py [name ...]

Right answers in several spellings are the control: a grader that refuses everything would show there. The longest
verdict includes processes that are killed at their limits. Needs the extras `math` and `gym` for their graders.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests" / "tasks"))
import adversarial

from qstar.tasks import sandbox

HEAD = "| grader | kind | tried | accepted | longest, s |\n|---|---|---|---|---|"


def main(names: list[str]) -> int:
    """Print the table; the exit status is the number of wrong answers taken and right ones refused."""
    print(f"in force for programs: {', '.join(sandbox.in_force())}\n\n{HEAD}")
    wrongly = refused = tried = controls = 0
    for subject in adversarial.subjects():
        if names and not any(subject.name.startswith(name) for name in names):
            continue
        table = adversarial.counts(adversarial.judge(subject, adversarial.cases(subject)))
        for kind, row in table.items():
            print(
                f"| {subject.name} | {kind} | {row['tried']} | {row['accepted']} | {row['longest']:.1f} |", flush=True
            )
        right = table.pop("right")
        wrongly += sum(row["accepted"] for row in table.values())
        tried += sum(row["tried"] for row in table.values())
        refused += right["tried"] - right["accepted"]
        controls += right["tried"]
    print(f"\nwrong answers tried: {tried}, accepted wrongly: {wrongly}")
    print(f"right answers tried: {controls}, refused: {refused}")
    return min(wrongly + refused, 100)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
