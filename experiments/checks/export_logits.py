"""Logits of any model that qstar reads against transformers on the Hugging Face directory that qstar writes of it.

    python experiments/checks/export_logits.py SOURCE        # what qstar-prepare takes; needs torch and transformers

Random tokens, float32. The writer is what is shared, so a mistake that reader and writer both make would not show;
families' own files are held to transformers in family_logits.py.
"""

import tempfile

import jax
import jax.numpy as jnp
import numpy as np

from qstar import runs
from qstar.cli import flags, session
from qstar.models import lm
from qstar.ops import rows

ROWS, TOKENS = 2, 24


def largest_difference(source: str) -> tuple[float, float]:
    """Between the logits of the two, and the largest logit."""
    import torch
    import transformers

    loaded = runs.load_model(source)
    ids = np.random.default_rng(0).integers(0, loaded.lm.vocab, (ROWS, TOKENS))
    batch = jax.tree.map(jnp.asarray, rows.padded(ids.tolist(), TOKENS))
    model = lm.definition(loaded.lm).bind(loaded.language_model)
    ours = np.asarray(model.logits(model.text(batch).hidden))
    with tempfile.TemporaryDirectory() as folder:
        runs.save_huggingface(folder, loaded)
        theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        with torch.no_grad():
            wanted = theirs(torch.tensor(ids)).logits.numpy()
    return float(np.abs(ours - wanted).max()), float(np.abs(wanted).max())


def main() -> None:
    parser = flags.parser(__doc__)
    parser.add_argument("source")
    args = parser.parse_args()
    with session.errors():
        difference, largest = largest_difference(args.source)
        print(f"largest difference {difference:.1e}, largest logit {largest:.1f}, {ROWS} x {TOKENS} random tokens")


if __name__ == "__main__":
    main()
