"""What a language model can be loaded from, as data; `qstar.runs.load` reads it."""

import dataclasses
from dataclasses import dataclass
from typing import Annotated

from qstar import settings
from qstar.models import lm
from qstar.models.lm import DTYPES, REMATS, LMConfig
from qstar.ops.attention import KERNELS
from qstar.settings import Count, OneOf, Positive

SWITCHES = ("auto", "true", "false")

KINDS = """a model is one of
  bundled:NAME       a small model that comes with qstar
  DIRECTORY          of a Hugging Face model (config.json, *.safetensors, tokenizer.json), made by qstar-prepare, or a
                     run of qstar-train: the language model in its newest checkpoint, adapters merged; or of adapters
                     in peft's layout (adapter_config.json): the model that they name, with them merged
  FILE.gguf          of the Llama, Mistral, Qwen 2 and 3 and Gemma 3 families
  FILE.bin           of llama2.c in its legacy form, with its tokenizer.bin beside it
  hub:ORG/NAME       fetched from the Hugging Face hub (ORG/NAME alone works where no such path exists)"""


@dataclass(frozen=True)
class Pretrained:
    """A language model to start from.

    Of a run, what its method added to the language model (start, end and pause embeddings, mixing head, gate) is gone
    on from as well, where the new method has such a part; `extras=false` starts these fresh.
    """

    source: str  # bundled:NAME, DIRECTORY, FILE.gguf, FILE.bin, hub:ORG/NAME, or a run: see qstar-prepare --help
    extras: bool = True  # of a run, continue from what its method added to the language model
    # begin-of-text token before every text; auto: the tokenizer's own setting
    begin: Annotated[str, OneOf(SWITCHES)] = "auto"
    # format every prompt with the chat template; auto: as the run was trained, else false
    chat: Annotated[str, OneOf(SWITCHES)] = "auto"
    dtype: Annotated[str, OneOf(DTYPES)] = "float32"  # type of matrix products; weights are kept in float32
    # What the backward pass recomputes: `full`, every layer, for the least memory; `minimal`, all but products with
    # weights; `none`.
    remat: Annotated[str, OneOf(REMATS)] = "full"
    attention: Annotated[str, OneOf(KERNELS)] = "einsum"  # implementation of the text's attention to itself

    def __post_init__(self):
        object.__setattr__(self, "remat", lm.remat_of(self.remat))
        for name in ("begin", "chat"):
            object.__setattr__(self, name, _switch(getattr(self, name)))
        settings.check(self, "model")


def _switch(value: object) -> str:
    """A setting of `SWITCHES` as text, also where YAML has parsed it as a boolean."""
    return str(value).lower()


@dataclass(frozen=True)
class Scratch:
    """A new model with random weights. `tokenizer` is a tokenizer.json, or `characters:` and an alphabet."""

    tokenizer: str = "characters:"  # a tokenizer.json, or `characters:` and an alphabet
    # begin-of-text token before every text; auto: the tokenizer's own setting
    begin: Annotated[str, OneOf(SWITCHES)] = "auto"
    width: Count = 128  # of the residual stream
    layers: Count = 2  # transformer blocks
    heads: Count = 4  # of queries
    kv_heads: Count = 4  # heads of keys and values; fewer than heads: grouped-query attention
    head_size: Count = 32  # channels of a head
    ff: Count = 384  # width of the feed-forward
    max_len: Count = 2048  # tokens of the context
    rope_theta: Positive = 10000.0  # base of the rotary frequencies
    tied: bool = True  # the output layer is the embedding
    dtype: Annotated[str, OneOf(DTYPES)] = "float32"  # type of matrix products; weights are kept in float32
    # What the backward pass recomputes: `full`, every layer, for the least memory; `minimal`, all but products with
    # weights; `none`.
    remat: Annotated[str, OneOf(REMATS)] = "full"
    attention: Annotated[str, OneOf(KERNELS)] = "einsum"  # implementation of the text's attention to itself

    def __post_init__(self):
        object.__setattr__(self, "remat", lm.remat_of(self.remat))
        object.__setattr__(self, "begin", _switch(self.begin))
        self.shape(vocab=1)  # checks the sizes
        settings.check(self, "model")

    def shape(self, vocab: int) -> LMConfig:
        """The model's shape with a vocabulary of this size."""
        own = ("tokenizer", "begin")
        return LMConfig(
            vocab=vocab, **{name: value for name, value in dataclasses.asdict(self).items() if name not in own}
        )
