# %% [markdown]
# # Reading thoughts
#
# Which tokens benefit from a thought, and what do thoughts hold? This reads held-out questions with the run of
# `first_run` (made here where it is not there).
#
# **What to look at**: thoughts help the answer and hardly anything else; the helpful ones spell the ball's places after
# each move. **What to change**: the texts; `seed=1, num_thoughts=4` to see drawn thoughts in place of the likeliest.

# %%
import subprocess
import sys
from pathlib import Path

import numpy as np

import qstar

STEPS = 20
RUN = "runs/notebook"
TEXTS = 40

if not Path(RUN, "checkpoints").is_dir():
    overrides = [
        f"steps={STEPS}",
        "eval.every=10",
        "eval.items=60",
        "sample_every=5",
        "save_every=10",
        f"run_dir={RUN}",
    ]
    subprocess.run([sys.executable, "-m", "qstar.train", *overrides], check=True)
run = qstar.open(RUN)

# %% [markdown]
# Texts are read together. Shown: green where the thought made a token likelier, red where less likely; point at a token,
# or walk with Tab, to see the thought before it.

# %%
texts = run.config.eval.texts(TEXTS)
readings = run.read(texts)
readings

# %% [markdown]
# A row for every thought. The answer is the token after `=`.

# %%
table = readings.table()
answers = np.roll(table["token"] == "=", 1)
gains = {"answers": float(table["gain"][answers].mean()), "other tokens": float(table["gain"][~answers].mean())}
gains

# %% [markdown]
# The thoughts that helped most, and those that hurt most. The digits are places of the ball: the working that the base
# model was trained to write, now in a place where nothing asked for it.

# %%
readings.best(8)

# %%
readings.worst(5)

# %% [markdown]
# A working ends with the ball's last place, perhaps after a sign that ends a step. How many of the thoughts before an answer
# end with the right one?

# %%
thoughts = table["thought"][answers]
true = table["token"][answers]
right = [thought.rstrip("-;=")[-1:] == token for thought, token in zip(thoughts, true, strict=True)]
print(f"{sum(right)} of {len(right)} end with the answer")

# %% [markdown]
# The model writes with thoughts too: what it wrote is underlined.

# %%
run.think("3aegbdh=", tokens=2)
