"""Does qstar compute what transformers computes? Tiny random models of every family, float32.

The weights and the logits of transformers are in tests/golden/families, with the script that made them. No network, no
torch; half a minute on one CPU core.

    python experiments/checks/family_logits.py
"""

import json
from pathlib import Path

import numpy as np

from qstar.cli import flags
from qstar.decoding import score
from qstar.models import lm
from qstar.models.formats import hf
from qstar.reports import tables

GOLDEN = Path(__file__).parents[2] / "tests" / "golden" / "families"


def main() -> None:
    parser = flags.parser(__doc__)
    parser.add_argument("names", nargs="*", metavar="MODEL", help="folders of tests/golden/families; all by default")
    names = parser.parse_args().names
    print(tables.head(["model", "model_type", "window", "largest logit", "largest difference"]))
    for directory in sorted(path.parent for path in GOLDEN.glob("*/expected.npz")):
        if names and directory.name not in names:
            continue
        expected = np.load(directory / "expected.npz")
        cfg, params = hf.read_directory(directory)
        gap = np.abs(score.logits(lm.definition(cfg), params, expected["tokens"]) - expected["logits"]).max()
        kind = json.loads((directory / "config.json").read_text())["model_type"]
        largest = f"{np.abs(expected['logits']).max():.1f}"
        print(tables.row([directory.name, kind, hf.read_config(directory).window or "", largest, f"{gap:.1e}"]))


if __name__ == "__main__":
    main()
