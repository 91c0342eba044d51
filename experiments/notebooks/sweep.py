# %% [markdown]
# # Sweeps and ablations
#
# From a multirun of a command to a figure with intervals. The question: how long must a thought be? The workings of the bundled
# task take six to eight tokens.
#
# **What to look at**: the mean over seeds with its interval; two or three runs of the same setting say how much of a difference is
# chance. **What to change**: the setting (`method.beta=0,1,100`, `method.fill=sampled,pause`), more seeds before more settings.

# %%
import subprocess
import sys

import qstar
from qstar.paths import ROOT
from qstar.reports import ablations
from qstar.reports.figures import COLOURS, GREY, Curve
from qstar.reports.overview import Panel
from qstar.runs import ablation

STEPS = 10
FOLDER = "runs/notebook_sweep"

# %% [markdown]
# Lists of values make a multirun: `qstar-train -m method.thought_len=2,8 seed=0,1,2 ...` in a terminal. Every run has a folder.

# %%
overrides = [
    "-m",
    "method.thought_len=2,8",
    "seed=0,1,2",
    f"steps={STEPS}",
    "batch_size=16",
    "control=false",
    f"hydra.sweep.dir={FOLDER}",
]
overrides += ["eval.items=60", f"eval.every={STEPS}", "sample_every=0", f"save_every={STEPS}"]
done = subprocess.run([sys.executable, "-m", "qstar.train", *overrides], check=True)

# %% [markdown]
# One frame: a row for each run, the settings in which they differ, and what they ended with.

# %%
sweep = qstar.sweep(FOLDER)
sweep

# %% [markdown]
# Means over seeds with 95 % intervals by Student's t, as a table and as a chart. Three seeds make wide intervals: Student's factor is
# 4.3, with ten seeds 2.3.

# %%
RESULT = "cups greedy accuracy"
sweep.over("seed", [RESULT, "cups none accuracy"])

# %%
sweep.panel("method.thought_len", RESULT)

# %% [markdown]
# Two runs compared: settings that differ, and results.

# %%
qstar.compare(sweep.runs[0].path, sweep.runs[-1].path)

# %% [markdown]
# ## The ablations
#
# The same question with five lengths, 40 steps and 500 questions, and the paper's other ablations, are committed: an ablation is a
# file of arms ([thought_len](../quiet_star/ablations/thought_len.yaml)), its results are lines. Intervals are over three seeds of
# one base and over questions. Eight tokens hold the workings. Twelve are worse in the mean, 0.38, but with an interval from 0.06 to 0.82.

# %%
asked = ablation.read("thought_len")
results = ablations.load(ROOT / "experiments" / "quiet_star" / "ablations" / "results.jsonl")
lines = ablations.lines(asked, results)
curves = []
for way, colour in (("likeliest", COLOURS[0]), ("sampled", COLOURS[1]), ("none", GREY)):
    accuracy = [(int(line.arm), line.accuracy(way)) for line in lines]
    known = [(length, across) for length, across in accuracy if across]
    x, *ends = zip(*((length, across.mean, across.low, across.high) for length, across in known), strict=True)
    curves.append(Curve(f"{way} thoughts".replace("none", "no"), x, ends[0], colour, *ends[1:]))
Panel("Accuracy", "thought_len", curves, shares=True)
