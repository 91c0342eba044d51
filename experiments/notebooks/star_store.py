# %% [markdown]
# # STaR's store
#
# Self-training samples rationales, keeps what is right, trains on it, again. Every sample stays in the run's store, right or
# wrong, with its history.
#
# **What to look at**: how many samples a hint rescues, what wrong ones look like, and what moves: samples get better, while
# the likeliest answers, which dev counts, were good before. **What to change**: `improve.hint=never`, `improve.keep=all` (no filter: the control), the number of iterations.

# %%
import subprocess
import sys

import numpy as np

import qstar
from qstar.data.rationales import CORRECT, HINTED, WRONG, of_iteration

ITERATIONS = 2
QUESTIONS = 400
RUN = "runs/notebook_star"

# %%
overrides = ["task=cups", f"task.train={QUESTIONS}", "task.dev=100", "model.source=bundled:cups", "improve=star"]
overrides += [f"improve.iterations={ITERATIONS}", "improve.temperature=1.0", "length=64", "optim.lr=1e-4"]
subprocess.run([sys.executable, "-m", "qstar.improve", *overrides, f"run_dir={RUN}"], check=True)
run = qstar.open(RUN)
run

# %% [markdown]
# The store, by query. `CORRECT & ~HINTED & of_iteration(1)` reads the files of that iteration alone.

# %%
columns = ["question", "gold", "written", "answer", "correct", "hinted", "group", "logprobs"]
free = run.rationales(~HINTED & of_iteration(1), columns)
shares = {str(group): float(np.mean(free["correct"][free["group"] == group])) for group in sorted(set(free["group"]))}
print("right without a hint, by number of moves:", {group: round(share, 2) for group, share in shares.items()})

# %% [markdown]
# What failed: many have no working at all, the answer was guessed; in others one move of the working is wrong.

# %%
run.rationales(WRONG & ~HINTED & of_iteration(1), ["question", "gold", "written", "answer"])

# %% [markdown]
# Those were asked again with the answer shown. What was right then is trained on as if it had not been.

# %%
hinted = run.rationales(HINTED & of_iteration(1), columns)
print(f"{hinted['correct'].sum()} of {len(hinted)} are right with a hint")
run.rationales(CORRECT & HINTED & of_iteration(1), ["question", "gold", "hint", "written"])

# %% [markdown]
# Does a rationale state its answer before it is derived, or follow a wrong hint? The iterations count that, and what
# each phase cost.

# %%
run.iterations()[-1].get("stated", {})

# %%
run.ledger()
