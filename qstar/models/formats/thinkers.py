"""A thinker as a directory for transformers with `trust_remote_code=True`: its code is `exported/modeling_qstar.py`.

Embeddings beside the table are stored as the first layer takes them, with their scales multiplied in.
"""

import dataclasses
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from qstar.models.formats import families, hf
from qstar.models.thinker import ThinkerConfig
from qstar.typing import Params

CODE = Path(__file__).parent / "exported" / "modeling_qstar.py"  # no module of qstar: it needs torch
CLASSES = {"AutoConfig": "QStarConfig", "AutoModelForCausalLM": "QStarForCausalLM"}
FILLS = ("sampled", "pause", "dots")


@dataclasses.dataclass(frozen=True)
class Habits:
    """How a method thinks when it writes."""

    thought_len: int
    mix: str
    fill: str
    gate_at: float | None = None  # probability from which a gate lets it think; None: always

    def __post_init__(self):
        if self.fill not in FILLS:
            raise ValueError(
                f"method.fill = {self.fill!r}: such thoughts depend on the texts beside them, and only those with "
                f"{', '.join(FILLS)} can be written for transformers"
            )


def write(
    path: Path,
    cfg: ThinkerConfig,
    habits: Habits,
    params: Params,
    tokenizer_json: str,
    dtype: str,
    ids: Mapping[str, int | list[int] | None],
) -> None:
    """Write config, weights, tokenizer and code.

    Args:
        params: weights of the language model, `lm`, and of what is added to it.
        ids: of the tokens that begin, end and pad a text.
    """
    thinking = dataclasses.asdict(habits) | {
        "mixing": cfg.mixing,
        "mixing_side": cfg.mixing_side,
        "start_share": cfg.start_share,
        "dot": cfg.tokens.dot,
        "forbidden": list(cfg.tokens.forbidden),
    }
    contents = {
        "architectures": [CLASSES["AutoModelForCausalLM"]],
        "model_type": "qstar",
        "auto_map": {auto: f"{CODE.stem}.{name}" for auto, name in CLASSES.items()},
        "language_model": families.write(cfg.lm, dtype),
        "thinking": thinking,
        "torch_dtype": dtype,
        **ids,
    }
    tensors = hf.tensors(cfg.lm, params["lm"]) | dict(_added(cfg, params))
    hf.write_files(path, contents, tensors, tokenizer_json, dtype)
    shutil.copyfile(CODE, path / CODE.name)


def _added(cfg: ThinkerConfig, params: Params) -> Iterator[tuple[str, np.ndarray]]:
    """What is added to the language model, under the names of `modeling_qstar.py`."""
    for name, scale in (("start", cfg.delimiter_scale), ("end", cfg.delimiter_scale), ("pause", 1.0)):
        if name in params:
            yield name, np.asarray(params[name]) * np.float32(scale * cfg.lm.embed_scale)
    # Places of the layers in their sequences, where every other one is a ReLU.
    for part, layers in (("mixing", ("first", "second", "last")), ("gate", ("first", "last"))):
        for number, layer in enumerate(layers if part in params else ()):
            yield f"{part}.{2 * number}.weight", np.asarray(params[part][layer]).T
            if f"{layer}_bias" in params[part]:
                yield f"{part}.{2 * number}.bias", np.asarray(params[part][f"{layer}_bias"])
