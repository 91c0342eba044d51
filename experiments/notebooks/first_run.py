# %% [markdown]
# # A first run and its curves
#
# Quiet-STaR on the bundled task: a ball under one of five cups, six to eight moves, where is it? The bundled model can
# say so when it writes the ball's place down after every move, and is at chance when it may not. Training shows it
# questions with answers only.
#
# **What to look at**: accuracy with thoughts against accuracy without, and against a plain language model that was trained
# on the same batches (the control). **What to change**: `STEPS`, the seed, `method.thought_len=4` (too short for the
# workings), `method.fill=pause` (no text in the thoughts).

# %%
import subprocess
import sys

import qstar

STEPS = 20
RUN = "runs/notebook"

# %% [markdown]
# A command makes the run; every setting is an override. In a terminal this is
# `qstar-train steps=20 eval.every=10 eval.items=60 ...`.

# %%
overrides = [f"steps={STEPS}", "eval.every=10", "eval.items=60", "sample_every=5", "save_every=10", f"run_dir={RUN}"]
done = subprocess.run([sys.executable, "-m", "qstar.train", *overrides], check=True)

# %% [markdown]
# `qstar.open` takes the directory (or `latest`). Shown, a run is its curves and its last table; bands are 95 % intervals.

# %%
run = qstar.open(RUN)
run

# %% [markdown]
# Everything that was written down is a frame. A column is a numpy array; `frame.to_pandas()` makes a data frame.

# %%
metrics = run.metrics("nll", "nll_mixed", "reward")
metrics

# %% [markdown]
# What thoughts are worth, in numbers: the gain of the last evaluation with thoughts over that without.

# %%
last = run.evals().where(model="run", step=STEPS).records()
accuracy = {row["way"]: row["accuracy"] for row in last}
accuracy

# %% [markdown]
# What it cost: tokens of text, and the FLOPs that the method asks for. The control took a part of them per step.

# %%
run.ledger()
