"""A language model that thinks before every token, for transformers: AutoModelForCausalLM with trust_remote_code=True.

Written into a directory by `qstar-prepare RUN OUT --to thinker`; qstar itself does not import it. After the text the
model reads a start embedding, writes T tokens, the likeliest ones, reads an end embedding, and mixes the prediction
there with the prediction without the thought. Thoughts are not part of the text: none is seen by a later token.

Simple, not fast: every row of a batch and every position that logits are asked for takes one pass over its text.
"""

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast


class QStarConfig(PretrainedConfig):
    """`language_model` is the config.json of the model within; `thinking` says how it thinks."""

    model_type = "qstar"

    def __init__(self, language_model=None, thinking=None, **others):
        self.language_model = dict(language_model or {})
        self.thinking = dict(thinking or {})
        for name in ("vocab_size", "hidden_size", "num_hidden_layers", "max_position_embeddings"):
            others.setdefault(name, self.language_model.get(name))
        super().__init__(**{"use_cache": False, "tie_word_embeddings": False} | others)


class QStarForCausalLM(PreTrainedModel, GenerationMixin):
    config_class = QStarConfig
    base_model_prefix = "model"
    _no_split_modules = ()

    def __init__(self, config):
        super().__init__(config)
        said = dict(config.language_model)
        shape = AutoConfig.for_model(said.pop("model_type"), **said)
        self.model = AutoModel.from_config(shape)
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

    def prepare_inputs_for_generation(self, input_ids, attention_mask=None, **others):
        return {"input_ids": input_ids, "attention_mask": attention_mask, "logits_to_keep": 1}

    def forward(self, input_ids, attention_mask=None, logits_to_keep=0, labels=None, think=True, **others):
        """Logits [B, positions, V], the model's log-probs after a thought; padding gives zeros.

        Args:
            logits_to_keep: so many of the last positions, 0: all, at the cost of a pass each.
            think: False gives the language model without thoughts.
        """
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        length = input_ids.shape[1]
        first = length - (logits_to_keep or length)
        logits = input_ids.new_zeros((len(input_ids), length - first, self.config.vocab_size), dtype=torch.float32)
        for row, mask in enumerate(attention_mask.bool()):
            places = mask.nonzero()[:, 0]
            text = input_ids[row, places]
            for number, place in enumerate(places.tolist()):
                if place >= first:
                    logits[row, place - first] = self._next(text[: number + 1], think)
        loss = None
        if labels is not None:
            loss = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, first + 1 :].flatten())
        return CausalLMOutputWithPast(loss=loss, logits=logits)

    def thought(self, input_ids):
        """The likeliest thought after a text [S]: ids [T]; none where a thought is no tokens."""
        return self._inner(self.model.get_input_embeddings()(input_ids))[1]

    def _next(self, text, think):
        """Log-probs of the token after a text [S]."""
        embedded = self.model.get_input_embeddings()(text)
        said = self.config.thinking
        base = self._hidden(embedded)
        if not think or (said["gate_at"] is not None and self.gate(base).sigmoid() < said["gate_at"]):
            return self._logits(base).log_softmax(-1)
        inner, _ = self._inner(embedded)
        after = self._hidden(torch.cat([embedded, self.start[None], inner, self.end[None]]))
        share = self._share(base, after)
        if said["mix"] == "hidden":
            return self._logits((1 - share) * base + share * after).log_softmax(-1)
        parts = self._logits(torch.stack([base, after])).log_softmax(-1)
        return ((1 - share) * parts[0] + share * parts[1]).log_softmax(-1)

    def _inner(self, embedded):
        """What is between start and end after a text [S, D]: embeddings [T, D], and their ids where they are tokens."""
        said = self.config.thinking
        table = self.model.get_input_embeddings()
        count = said["thought_len"]
        if said["fill"] == "pause":
            return self.pause.expand(count, -1), None
        ids = torch.full((count,), said["dot"] or 0, device=embedded.device)
        if said["fill"] == "sampled":
            forbidden = torch.tensor(said["forbidden"], dtype=torch.long, device=embedded.device)
            columns = torch.cat([embedded, self.start[None]])
            for number in range(count):
                logits = self._logits(self._hidden(columns)).index_fill(-1, forbidden, -torch.inf)
                ids[number] = logits.argmax()
                columns = torch.cat([columns, table(ids[number : number + 1])])
        return table(ids), ids

    def _hidden(self, embedded):
        """The last hidden state [D] of embeddings [S, D]."""
        return self.model(inputs_embeds=embedded[None], use_cache=False).last_hidden_state[0, -1]

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
