"""What the rows of a run are a function of besides its configuration, in identity.json: what was edited is named.

A configuration names files of questions and folders of models, and these can be edited between a stop and a resumption.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from qstar import files
from qstar.files import JsonObject
from qstar.tasks.problem import Problem

FILE = "identity.json"
ASKED = ("id", "question", "answer")
SHOWN = (*ASKED, "hint", "rationale")


def checksum(problems: Sequence[Problem], fields: Sequence[str] = ASKED) -> str:
    """Of these fields of questions, in their order."""
    asked = [tuple(getattr(problem, name) for name in fields) for problem in problems]
    return files.checksum_of(repr(asked).encode())


def claim(directory: Path, identity: JsonObject, holds: str) -> None:
    """Write down what the rows are a function of, or compare it with what was written.

    Args:
        holds: what the directory has if it differs, such as `candidates of another search`.

    Raises ValueError where a part is another one. Runs of earlier versions have none.
    """
    file, now = directory / FILE, json.loads(json.dumps(identity, default=str))  # as it is read again
    if not file.is_file():
        files.write_json(file, now)
        return
    stored = files.read_json(file)
    differing = [key for key in now if stored.get(key, now[key]) != now[key]]
    if differing:
        changed = "\n  ".join(f"{key} = {stored[key]}, now {now[key]}" for key in differing)
        raise ValueError(
            f"{directory} holds {holds}, as {file} says:\n  {changed}\nput back what has changed since then, or choose "
            "another run_dir"
        )
