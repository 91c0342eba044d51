"""A model ready for use: generation, scoring, evaluation and training take one of these."""

import dataclasses
import functools
import hashlib
import json
from dataclasses import dataclass, field

import jax
import numpy as np

from qstar import sharding
from qstar.data.tokenizer import Tokenizer
from qstar.methods.plain_lm import PlainLM
from qstar.methods.protocol import Method
from qstar.models import lm as language_models
from qstar.models import lora
from qstar.models.definition import Definition
from qstar.models.formats.companions import Companions
from qstar.models.lm import COMPUTED, LMConfig
from qstar.typing import Params


@dataclass(frozen=True, repr=False)
class Policy:
    """Weights with all that is needed to use them: the method that they are for, its model and the tokenizer."""

    method: Method
    definition: Definition
    params: Params  # of the definition, frozen ones included; numpy, or on devices
    tokenizer: Tokenizer
    name: str = ""  # where the weights are from, for tables and stores
    companions: Companions = field(default_factory=dict)  # special tokens, chat template and the like

    def __repr__(self) -> str:
        """One line, never the weights."""
        method, lm = type(self.method).__name__, self.lm
        size = f"{lm.layers} layers of width {lm.width}, {self.definition.size / 1e6:.3g} M weights"
        return f"{type(self).__name__}({self.name or 'a model'}: {method}, {size})"

    @classmethod
    def of_language_model(
        cls, lm: LMConfig, params: Params, tokenizer: Tokenizer, name: str, companions: Companions | None = None
    ) -> "Policy":
        """A language model as it is."""
        return cls(PlainLM(), language_models.definition(lm), params, tokenizer, name, companions or {})

    @functools.cached_property
    def lm(self) -> LMConfig:
        """Shape of the language model."""
        return self.definition.abstract_model.lm.cfg

    @functools.cached_property
    def language_model(self) -> Params:
        """The weights of the language model alone, float32 or better (numpy); adapters are merged into them."""
        params = self.params
        if isinstance(self.definition, lora.WithAdapters):
            params = self.definition.merged(self.params)
        # Weights that were trained in bfloat16 as well.
        wide = lambda leaf: np.asarray(leaf, np.promote_types(np.asarray(leaf).dtype, np.float32))  # noqa: E731
        return jax.tree.map(wide, params.get("lm", params))

    def plain(self) -> "Policy":
        """The language model alone, its weights over the mesh that is set, or on the default device."""
        params = sharding.spread(self.language_model, language_models.definition(self.lm).axes)
        return Policy.of_language_model(self.lm, params, self.tokenizer, self.name, self.companions)

    @functools.cached_property
    def fingerprint(self) -> str:
        """The same for the same language model and tokenizer, however it is computed."""
        shape = {name: value for name, value in dataclasses.asdict(self.lm).items() if name not in COMPUTED}
        digest = hashlib.sha256(json.dumps(shape, sort_keys=True).encode())
        digest.update(self.tokenizer.to_json().encode())
        for leaf in jax.tree.leaves(self.language_model):
            digest.update(np.ascontiguousarray(leaf).view(np.uint8).data)
        return digest.hexdigest()[:16]

    @functools.cached_property
    def digest(self) -> str:
        """The same for the same weights, with what the method added to the language model."""
        digest = hashlib.blake2b(digest_size=8)
        for leaf in jax.tree.leaves(self.params):
            digest.update(np.ascontiguousarray(jax.device_get(leaf)).view(np.uint8).data)
        return digest.hexdigest()

    @property
    def extras(self) -> Params:
        """What the method added to the language model."""
        if "lm" not in self.params:
            return {}
        return {name: part for name, part in self.params.items() if name not in ("lm", lora.NAME)}
