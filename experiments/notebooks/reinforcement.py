# %% [markdown]
# # Reinforcement learning
#
# The model answers questions, answers are graded, and the same step trains on them. Here GRPO on the bundled task and model,
# with 128 answers a step, eight to a question.
#
# **What to look at**: the reward against the KL that it costs; `dead`, the share of questions whose answers all earn the same
# and teach nothing; the best and the worst rollouts, first and last; and that sampled answers get better, while the likeliest
# ones, which dev counts, were good before. **What to change**: `method=rloo`,
# `dr_grpo`, `gspo`, `ppo`; `method.kl_coef=0`; `data.rewards.right=2`; `data.rewards.scorer=bundled:cups_prm`, a reward model
# as judge.

# %%
import subprocess
import sys

import numpy as np

import qstar
from qstar.evals import intervals
from qstar.paths import ROOT
from qstar.reports import frames
from qstar.reports.arrow import Frame
from qstar.reports.figures import COLOURS, Curve
from qstar.reports.overview import Panel

STEPS = 40
RUN = "runs/notebook_rl"

# %%
overrides = ["~experiments", "method=grpo", "data=rollouts", "task=cups", "eval=own_task", "model=pretrained"]
overrides += ["model.source=bundled:cups", "model.remat=none", "data.length=24", f"steps={STEPS}", "batch_size=128"]
overrides += ["optim.lr=2e-4", "optim.warmup_steps=5", "optim.beta2=0.98", "log_every=2", "sample_every=10"]
overrides += ["eval.items=100", "eval.every=20", f"save_every={STEPS}", f"run_dir={RUN}"]
subprocess.run([sys.executable, "-m", "qstar.train", *overrides], check=True)
run = qstar.open(RUN)
run

# %% [markdown]
# Reward, KL to the model that it started from (nats a token), entropy, and dead questions, in numbers.

# %%
run.metrics("reward", "right", "kl", "entropy", "dead", "sampled_tokens")

# %% [markdown]
# Every tenth step's rollouts are kept, a row each. How many have a working (it begins with a dash), and how many are right
# with one and without?

# %%
rollouts = run.rollouts()
shares = []
for step in sorted(set(rollouts["step"])):
    of_step = rollouts.where(step=int(step))
    worked = np.char.startswith(of_step["written"].astype(str), "-")
    share = {"step": int(step), "n": len(of_step), "with workings": float(worked.mean())}
    for name, chosen in (("right with workings", worked), ("right without", ~worked)):
        share[name] = float(of_step["correct"][chosen].mean()) if chosen.any() else None
    shares.append(share)
Frame.of(shares)

# %% [markdown]
# So what is reinforced is to write the working down, and to do so without an error. The worst and the best texts of the last
# step that was kept, each once; of equal rewards first what the model was most sure of.


# %%
def texts(step):
    """The different texts of a step, likeliest first."""
    rows = rollouts.where(step=step).sorted("logprob", descending=True).records()
    different = {(row["question"], row["written"]): row for row in rows}
    return Frame.of(different.values()).select("question", "gold", "written", "answer", "reward", "logprob", "verdict")


last = texts(int(rollouts["step"].max()))
last.sorted("reward")

# %%
last.sorted("reward", descending=True)

# %% [markdown]
# Those of the first step. The likeliest texts have a working and are right, as they are at the end; but two samples in three had
# none, and guessed.

# %%
texts(1)

# %% [markdown]
# ## The study
#
# One run shows that it works here, and compares nothing. [The study](../rl/README.md) has methods and controls from three
# bases that write workings with errors; its lines are committed. Test accuracy with likeliest tokens, and what the sampled
# answers gained in log-probability over the base (nats an answer): means over bases, accuracy ± its 95 % interval.

# %%
lines = frames.lines(ROOT / "experiments" / "rl" / "results.jsonl")
arms = frames.grouped((line for line in lines if line["part"] == "ladder"), lambda line: line["arm"])
table = []
for arm, of_arm in arms.items():
    if len(of_arm) == 3:
        mean, half = intervals.student([line["test"]["greedy"] for line in of_arm])
        kl = np.mean([line["test"]["kl"] for line in of_arm])
        table.append({"arm": arm, "accuracy": mean, "±": half, "kl": round(float(kl), 3)})
Frame.of(table).sorted("accuracy", descending=True)

# %% [markdown]
# Intervals over three bases are wide: an order of methods is not shown. Three methods from the first base, the one that their
# rates were chosen with: what more right answers cost in KL.


# %%
def over_steps(metric):
    """A curve of this metric for each method."""
    of_base = {arm: next(line["curve"] for line in arms[arm] if line["base"] == 0) for arm in ("grpo", "ppo", "reft")}
    return [
        Curve(arm, [at["step"] for at in curve], [at[metric] for at in curve], colour)
        for (arm, curve), colour in zip(of_base.items(), COLOURS, strict=False)
    ]


Panel("Sampled answers that are right", "step", over_steps("right"), shares=True)

# %%
Panel("KL to the base, nats a token", "step", over_steps("kl"))

# %% [markdown]
# Where the lowest score that a process reward model gives to a step is the only reward, the score rises and the truth falls. This
# is what to look for in any run with a learned reward: measure something that it is not rewarded for.

# %%
hacked = next(line["scored"] for line in lines if line["part"] == "prm" and line["arm"] == "min")
shown = {"prm_min": "lowest score of a step: the reward", "sampled": "right answers"}
curves = [
    Curve(label, [at["step"] for at in hacked], [at[name] for at in hacked], colour)
    for (name, label), colour in zip(shown.items(), COLOURS, strict=False)
]
Panel("Reward and truth, 100 dev questions", "step", curves, shares=True)
