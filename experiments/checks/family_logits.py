"""Does qstar compute what transformers computes? Tiny random models of every family, float32.

The weights and the logits of transformers are in tests/golden/families, with the script that made them. No network, no
torch; half a minute on one CPU core.

    python experiments/checks/family_logits.py
"""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from qstar.cli import flags
from qstar.models import lm
from qstar.models.formats import hf
from qstar.structs import Batch

GOLDEN = Path(__file__).parents[2] / "tests" / "golden" / "families"


def logits(directory: Path, tokens: np.ndarray) -> np.ndarray:
    cfg, params = hf.read_directory(directory)
    definition = lm.definition(cfg)

    @jax.jit
    def run(params, tokens):
        position = jnp.broadcast_to(jnp.arange(tokens.shape[1])[None], tokens.shape)
        batch = Batch(tokens, jnp.ones(tokens.shape, bool), jnp.ones(tokens.shape, int), position)
        model = definition.bind(params)
        return model.logits(model.text(batch).hidden)

    return np.asarray(run(params, jnp.asarray(tokens)))


def main() -> None:
    parser = flags.parser(__doc__)
    parser.add_argument("names", nargs="*", metavar="MODEL", help="folders of tests/golden/families; all by default")
    names = parser.parse_args().names
    print("| model | model_type | window | largest logit | largest difference |\n|---|---|---|---|---|")
    for directory in sorted(path.parent for path in GOLDEN.glob("*/expected.npz")):
        if names and directory.name not in names:
            continue
        expected = np.load(directory / "expected.npz")
        gap = np.abs(logits(directory, expected["tokens"]) - expected["logits"]).max()
        kind = json.loads((directory / "config.json").read_text())["model_type"]
        window = hf.read_config(directory).window or ""
        print(f"| {directory.name} | {kind} | {window} | {np.abs(expected['logits']).max():.1f} | {gap:.1e} |")


if __name__ == "__main__":
    main()
