"""Make the golden adapter: random matrices on `llama_gqa_untied`, and the logits that peft computes with them.

    python tests/golden/make_lora.py           # writes lora_peft/ beside this file
    python tests/golden/make_lora.py --check   # also: what qstar writes gives the same logits in peft

Made with torch 2.13.0, transformers 5.23.0 and peft 0.21.2; the check needs qstar in the same environment.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import peft
import torch
import transformers

HERE = Path(__file__).parent
BASE, GOLDEN = HERE / "llama_gqa_untied", HERE / "lora_peft"


def base() -> transformers.PreTrainedModel:
    return transformers.AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32).eval()


def logits(model, tokens: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return model(torch.tensor(tokens)).logits.numpy()


def make() -> None:
    torch.manual_seed(0)
    targets = ["q_proj", "v_proj", "o_proj", "down_proj"]
    cfg = peft.LoraConfig(r=3, lora_alpha=12, target_modules=targets, task_type="CAUSAL_LM")
    model = peft.get_peft_model(base(), cfg).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_" in name:
                weight.copy_(torch.randn_like(weight) * 0.2)
    model.save_pretrained(GOLDEN)
    (GOLDEN / "README.md").unlink()
    file = GOLDEN / "adapter_config.json"
    file.write_text(file.read_text().replace(str(BASE), BASE.name))
    tokens = np.random.default_rng(0).integers(0, 48, (2, 12))
    np.savez(GOLDEN / "expected.npz", tokens=tokens.astype(np.int32), logits=logits(model, tokens))


def check() -> float:
    """Largest difference between the golden logits and peft's on what qstar writes."""
    from qstar.models.formats import hf
    from qstar.models.formats import peft as ours

    expected = np.load(GOLDEN / "expected.npz")
    with tempfile.TemporaryDirectory() as written:
        ours.write(written, *ours.read(GOLDEN, hf.read_config(BASE)), base=str(BASE))
        model = peft.PeftModel.from_pretrained(base(), written)
        return float(np.abs(logits(model, expected["tokens"].astype(np.int64)) - expected["logits"]).max())


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--check", action="store_true")
    if options.parse_args().check:
        print(f"max |logit difference| {check():.2e}")
    else:
        make()
