# %% [markdown]
# # A search tree
#
# Search spends computation on a question: it proposes steps, scores them and chooses. Every candidate is kept, so that a
# tree can be looked at afterwards and tables at smaller budgets need no model.
#
# **What to look at**: where solutions go wrong, and what a budget of tokens buys. **What to change**: the strategy
# (`beam`, `mcts`, `dvts`, ...), the scorer (`logprob`, a run of `method=orm` or `prm`), `temperature`.

# %%
import qstar
from qstar.reports import interactive
from qstar.tasks.cups import Cups

QUESTIONS = 12
SOLUTIONS = 16
policy = qstar.load_model("bundled:cups")
task = Cups(min_moves=7, max_moves=8)

# %% [markdown]
# Whole solutions first: 16 samples, chosen by the votes that their likelihood weighs. `oracle` is asked and not followed.

# %%
scorers = ("logprob", "oracle")
settings = {"n": SOLUTIONS, "scorer": scorers, "questions": QUESTIONS}
sampled = qstar.open(interactive.solve(policy, task, "best_of_n", out="runs/notebook_best", **settings))
sampled

# %%
sampled.questions()

# %% [markdown]
# Step by step: a beam whose scorer knows which beginnings can still become right, the ceiling of step scorers. A bar is
# the share of the solutions below a step that are right; the chosen solution is framed. Open and close the steps.

# %%
settings = {"n": SOLUTIONS, "m": 4, "scorer": "oracle", "questions": QUESTIONS}
beam = qstar.open(interactive.solve(policy, task, "beam", out="runs/notebook_beam", **settings))
problem = beam.questions()["problem"][0]
tree = beam.tree(problem)
tree

# %% [markdown]
# The same as a frame: a row for every step that was proposed.

# %%
tree.frame()

# %% [markdown]
# Both at once: what they ended with, and what it cost.

# %%
qstar.compare(sampled.path, beam.path)
