# %% [markdown]
# # Own model, own batch, own method
#
# Without a command and without a configuration file: functions and frozen dataclasses.
#
# **What to look at**: the whole training step is ten lines, and a method is one function of models, batch and key.
# **What to change**: the texts, the optimiser, the loss of `Sharpened`.

# %%
import dataclasses

import jax
import jax.numpy as jnp
import optax

import qstar
from qstar.methods.protocol import Models
from qstar.methods.quiet_star import QuietStar
from qstar.ops import rows
from qstar.tasks.cups import Cups

STEPS = 30

# %% [markdown]
# A model: the bundled one here; a directory, `FILE.gguf`, `hub:ORG/NAME` or a run work the same.

# %%
base = qstar.load_model("bundled:cups")
base

# %% [markdown]
# A method says which model it trains (the language model with start and end of thoughts and a mixing head) and its loss.

# %%
method = QuietStar(thought_len=8, lookahead=1, mix="hidden", base_weight=0.5, beta=1.0, clamp=False, delimiter="-")
definition = method.definition(base.lm, base.tokenizer)
params = method.start_from(definition, base.language_model, jax.random.key(0))

# %% [markdown]
# A batch of one's own: token ids, padded.

# %%
problems = Cups(train=STEPS * 16).problems("train")
texts = [f"{problem.question}{problem.answer}" for problem in problems]
tokens = [base.tokenizer.encode_whole(text) for text in texts]
batches = [rows.padded(tokens[first : first + 16], width=12) for first in range(0, len(tokens), 16)]
texts[:3]

# %%
optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(3e-4))


def trained(method, params, batches):
    """The weights after one step for each batch, and the losses."""

    @jax.jit
    def step(params, moments, batch, key):
        loss = lambda params: method.loss(Models(definition.bind(params)), batch, key)
        (value, metrics), gradient = jax.value_and_grad(loss, has_aux=True)(params)
        updates, moments = optimizer.update(gradient, moments)
        return optax.apply_updates(params, updates), moments, value

    moments, losses = optimizer.init(params), []
    for number, batch in enumerate(batches):
        params, moments, value = step(params, moments, batch, jax.random.key(number))
        losses.append(float(value))
    return params, losses


params, losses = trained(method, params, batches)
print(f"loss {losses[0]:.3f} at first, {losses[-1]:.3f} after {len(losses)} steps")

# %% [markdown]
# Weights with method and tokenizer are a `Policy`: what reading, asking and searching take.

# %%
policy = qstar.Policy(method, definition, params, base.tokenizer, "mine")
qstar.read(policy, texts[:5])

# %%
qstar.ask(policy, "cups", items=100)

# %% [markdown]
# A method of one's own is a dataclass with a loss. This one adds the entropy of the predictions without thoughts; it trains
# with the same step. CONTRIBUTING.md says what `qstar-train method=mine` needs besides.


# %%
@dataclasses.dataclass(frozen=True)
class Sharpened(QuietStar):
    """Quiet-STaR whose loss also asks for sure predictions without thoughts: their entropy is added."""

    entropy: float = 0.05

    def loss(self, models, batch, key):
        value, metrics = super().loss(models, batch, key)
        logprobs = jax.nn.log_softmax(models.policy.lm.logits(models.policy.lm.text(batch).hidden))
        entropy = -(jnp.exp(logprobs) * logprobs).sum(-1).mean()
        return value + self.entropy * entropy, metrics


mine = Sharpened(**dataclasses.asdict(method))
_, losses = trained(mine, params, batches[:3])
losses
