"""A language model that thinks before every token, for transformers: AutoModelForCausalLM with trust_remote_code=True.

Written into a directory by `qstar-prepare RUN OUT --to thinker`; qstar itself does not import it. After the text the
model reads a start embedding, writes T tokens, the likeliest ones, reads an end embedding, and mixes the prediction
there with the prediction without the thought. Thoughts are not part of the text: none is seen by a later token.

Keys and values of a text are kept from one token to the next, so a token takes T + 3 passes over one position each, row
by row of a batch. A thought extends a copy of them, which shares the text's tensors.
"""

import copy
import inspect
from dataclasses import dataclass

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.utils import ModelOutput


class QStarConfig(PretrainedConfig):
    """`language_model` is the config.json of the model within; `thinking` says how it thinks."""

    model_type = "qstar"

    def __init__(self, language_model=None, thinking=None, **others):
        self.language_model = dict(language_model or {})
        self.thinking = dict(thinking or {})
        for name in ("vocab_size", "hidden_size", "num_hidden_layers", "max_position_embeddings"):
            others.setdefault(name, self.language_model.get(name))
        super().__init__(**{"use_cache": False, "tie_word_embeddings": False} | others)


@dataclass
class Read:
    """A text that the model has read."""

    ids: torch.Tensor  # [S]
    hidden: torch.Tensor  # the last one, [D]
    cache: object  # its keys and values, never changed: what follows extends a copy

    def begins(self, text):
        return len(self.ids) <= len(text) and torch.equal(self.ids, text[: len(self.ids)])


@dataclass
class QStarOutput(ModelOutput):
    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    read: list | None = None  # a `Read` for each row


class QStarForCausalLM(PreTrainedModel, GenerationMixin):
    config_class = QStarConfig
    base_model_prefix = "model"
    _no_split_modules = ()

    def __init__(self, config):
        super().__init__(config)
        said = dict(config.language_model)
        shape = AutoConfig.for_model(said.pop("model_type"), **said)
        self.model = AutoModel.from_config(shape)
        # Versions of transformers differ in what they call it.
        taken = inspect.signature(self.model.forward).parameters
        self.cache_name = "cache" if "cache" in taken else "past_key_values"
        width, vocab = shape.hidden_size, shape.vocab_size
        if not shape.tie_word_embeddings:
            self.lm_head = nn.Linear(width, vocab, bias=False)
        for name in ("start", "end", *(["pause"] if config.thinking["fill"] == "pause" else [])):
            setattr(self, name, nn.Parameter(torch.zeros(width)))
        if config.thinking["mixing"] != "none":
            last = nn.Linear(width, 1, bias=False)
            self.mixing = nn.Sequential(
                nn.Linear(2 * width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), last
            )
        if config.thinking["gate_at"] is not None:
            self.gate = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1))
        self.post_init()

    def get_input_embeddings(self):
        return self.model.get_input_embeddings()

    def prepare_inputs_for_generation(self, input_ids, attention_mask=None, read=None, **others):
        return {"input_ids": input_ids, "attention_mask": attention_mask, "logits_to_keep": 1, "read": read}

    def _update_model_kwargs_for_generation(self, outputs, model_kwargs, *args, **others):
        kept = super()._update_model_kwargs_for_generation(outputs, model_kwargs, *args, **others)
        return kept | {"read": outputs.read}

    def forward(self, input_ids, attention_mask=None, logits_to_keep=0, labels=None, think=True, read=None, **others):
        """Logits [B, positions, V], the model's log-probs after a thought; padding gives zeros.

        Args:
            logits_to_keep: so many of the last positions, 0: all, at the cost of a thought each.
            think: False gives the language model without thoughts.
            read: what an earlier call returned, for texts that begin with its texts.
        """
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        length = input_ids.shape[1]
        first = length - (logits_to_keep or length)
        logits = input_ids.new_zeros((len(input_ids), length - first, self.config.vocab_size), dtype=torch.float32)
        now = []
        for row, mask in enumerate(attention_mask.bool()):
            places = mask.nonzero()[:, 0]
            text = input_ids[row, places]
            known = next((old for old in read or () if old is not None and old.begins(text)), None)
            for number, place in enumerate(places.tolist()):
                if place >= first:
                    known = self._read(text[: number + 1], known)
                    logits[row, place - first] = self._next(known, think)
            now.append(known)
        loss = None
        if labels is not None:
            loss = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, first + 1 :].flatten())
        return QStarOutput(loss=loss, logits=logits, read=now)

    def thought(self, input_ids):
        """The likeliest thought after a text [S]: ids [T]; none where a thought is no tokens."""
        return self._after(self._read(input_ids).cache)[1]

    def _next(self, read, think):
        """Log-probs of the token after a text."""
        said = self.config.thinking
        base = read.hidden
        if not think or (said["gate_at"] is not None and self.gate(base).sigmoid() < said["gate_at"]):
            return self._logits(base).log_softmax(-1)
        after, _ = self._after(read.cache)
        share = self._share(base, after)
        if said["mix"] == "hidden":
            return self._logits((1 - share) * base + share * after).log_softmax(-1)
        parts = self._logits(torch.stack([base, after])).log_softmax(-1)
        return ((1 - share) * parts[0] + share * parts[1]).log_softmax(-1)

    def _after(self, cache):
        """Hidden state after a thought [D], and the thought's ids [T] where it is tokens; `cache` is the text's."""
        said = self.config.thinking
        table = self.model.get_input_embeddings()
        count, start, end = said["thought_len"], self.start[None], self.end[None]
        if said["fill"] == "pause":
            return self._hidden(torch.cat([start, self.pause.expand(count, -1), end]), cache)[0], None
        ids = torch.full((count,), said["dot"] or 0, device=start.device)
        if said["fill"] == "dots":
            return self._hidden(torch.cat([start, table(ids), end]), cache)[0], ids
        forbidden = torch.tensor(said["forbidden"], dtype=torch.long, device=start.device)
        hidden, cache = self._hidden(start, cache)
        for number in range(count):
            ids[number] = self._logits(hidden).index_fill(-1, forbidden, -torch.inf).argmax()
            hidden, cache = self._hidden(table(ids[number : number + 1]), cache)
        return self._hidden(end, cache)[0], ids

    def _read(self, text, known=None):
        """A text [S], of which `known` may hold the beginning."""
        if known is not None and len(known.ids) == len(text):
            return known
        embedded = self.model.get_input_embeddings()(text if known is None else text[len(known.ids) :])
        return Read(text, *self._hidden(embedded, None if known is None else known.cache))

    def _hidden(self, embedded, cache=None):
        """The last hidden state [D] of embeddings [S, D] after those in `cache`, and a cache that holds them too."""
        if cache is not None:  # layers replace their tensors and change none in place: a copy of the layers will do
            cache = copy.copy(cache)
            cache.layers = [copy.copy(layer) for layer in cache.layers]
        out = self.model(inputs_embeds=embedded[None], use_cache=True, **{self.cache_name: cache})
        return out.last_hidden_state[0, -1], out[self.cache_name]

    def _logits(self, hidden):
        tied = not hasattr(self, "lm_head")
        weight = self.model.get_input_embeddings().weight if tied else self.lm_head.weight
        return nn.functional.linear(hidden, weight).float()

    def _share(self, base, after):
        """Share of the thought in the prediction."""
        said = self.config.thinking
        if said["mixing"] == "none":
            return 1.0
        out = self.mixing(torch.cat([base, after])).float()
        out = out if said["mixing_side"] == "thought" else -out
        if said["mixing"] == "raw":
            return said["start_share"] + out
        return torch.sigmoid(out + torch.logit(torch.tensor(said["start_share"])))
