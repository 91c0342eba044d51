"""Logits of any model that qstar reads against transformers on the Hugging Face directory that qstar writes of it.

    python experiments/checks/export_logits.py SOURCE        # what qstar-prepare takes; needs torch and transformers

Random tokens, float32. The writer is what is shared, so a mistake that reader and writer both make would not show;
families' own files are compared with transformers in family_logits.py.
"""

import tempfile

import numpy as np

from qstar import runs
from qstar.cli import entry, flags
from qstar.decoding import score
from qstar.models import lm

ROWS, TOKENS = 2, 24


def largest_difference(source: str) -> tuple[float, float]:
    """Between the logits of the two, and the largest logit."""
    loaded = runs.load_model(source)
    ids = np.random.default_rng(0).integers(0, loaded.lm.vocab, (ROWS, TOKENS))
    ours = score.logits(lm.definition(loaded.lm), loaded.language_model, ids)
    with tempfile.TemporaryDirectory() as folder:
        runs.save_huggingface(folder, loaded)
        expected = theirs(folder, ids, "float32")
    return float(np.abs(ours - expected).max()), float(np.abs(expected).max())


def theirs(directory: str, tokens: np.ndarray, dtype: str) -> np.ndarray:
    """The logits of transformers."""
    import torch
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=getattr(torch, dtype)).eval()
    with torch.no_grad():
        return model(torch.tensor(tokens)).logits.numpy()


def main() -> None:
    parser = flags.parser(__doc__)
    parser.add_argument("source")
    args = parser.parse_args()
    with entry.errors():
        difference, largest = largest_difference(args.source)
        print(f"largest difference {difference:.1e}, largest logit {largest:.1f}, {ROWS} x {TOKENS} random tokens")


if __name__ == "__main__":
    main()
