# %% [markdown]
# # Verifiers
#
# A process reward model says of every step of a solution how likely it is right. On cups the truth of each step is known
# exactly, so the model can be compared with it. The policy is `bundled:cups`, the reward model `bundled:cups_prm`.
#
# **What to look at**: a score is read as a probability: does it mean what it says? And which errors does the model pass?
# **What to change**: `WHAT = "reachable"` (can the right answer still be reached?), `label.kind`, the scorer: a run of
# `method=prm` of your own.

# %%
import subprocess
import sys

import numpy as np

import qstar
from qstar.evals import intervals, step_scores
from qstar.paths import ROOT
from qstar.reports import frames
from qstar.reports.arrow import Frame
from qstar.reports.figures import COLOURS, GREY, Curve
from qstar.reports.overview import Panel

QUESTIONS = 200
WHAT = "right"
RUN = "runs/notebook_labels"

# %% [markdown]
# Solutions first, eight to a question, with the truth of each step: it follows from the step before it, or not.

# %%
overrides = ["label=truth", f"label.what={WHAT}", "task=cups", "split=dev", "model=pretrained"]
overrides += ["model.source=bundled:cups", "samples=8", "temperature=1.3", f"problems={QUESTIONS}", f"run_dir={RUN}"]
subprocess.run([sys.executable, "-m", "qstar.label", *overrides], check=True)
run = qstar.open(RUN)
run

# %% [markdown]
# The scores of the reward model, a row for each step.

# %%
judged = run.judged("bundled:cups_prm")
judged

# %% [markdown]
# Many solutions are an answer without a working: one step, right or wrong by chance. The reward model calls nearly all of them
# wrong, with the score of chance: calibrated, and of no use for a choice. So steps of workings stand apart.

# %%
score, right, place = judged["score"], judged["label"].astype(bool), judged["place"]
size = np.bincount(judged["solution"].astype(int))[judged["solution"].astype(int)]
kinds = {"all steps": size > 0, "of workings": size > 1, "answers alone": size == 1}
rows = []
for name, chosen in kinds.items():
    of, truth = score[chosen], right[chosen]
    row = {"steps": name, "n": len(of), "right": truth.mean(), "judged correctly": ((of > 0.5) == truth).mean()}
    row |= {"right ones passed": (of[truth] > 0.5).mean(), "wrong ones found": (of[~truth] <= 0.5).mean()}
    rows.append(row | {"ECE": step_scores.ece(of, truth), "Brier": step_scores.brier(of, truth)})
Frame.of(rows)

# %% [markdown]
# ## Calibration
#
# The share of steps that are right, by score, with 95 % intervals. On the dashed line a score is what it says. Steps of workings lie
# above it: a score of 0.5 to 0.8 is right more often than that.


# %%
def calibration(label, chosen, colour, bins=10):
    """The curve of these steps; bins with fewer than ten steps are left out."""
    filled = [cell for cell in step_scores.reliability(score[chosen], right[chosen], bins) if cell.count >= 10]
    ends = [intervals.wilson(round(cell.right * cell.count), cell.count) for cell in filled]
    low, high = ([end[side] for end in ends] for side in (0, 1))
    return Curve(label, [cell.score for cell in filled], [cell.right for cell in filled], colour, low, high)


curves = [calibration(name, kinds[name], colour) for name, colour in zip(list(kinds)[1:], COLOURS, strict=False)]
Panel("Share that is right", "score", [*curves, Curve("calibrated", [0, 1], [0, 1], GREY, line="--")], shares=True)

# %% [markdown]
# ## Where it errs
#
# By place in the solution: how many right steps get a score below a half, and how many wrong ones a score above it? The last
# column counts the first wrong step of a solution alone. Errors in the middle pass most, a wrong first place and a wrong end
# are seen.

# %%
first = [step_scores.first_error(right[judged["solution"] == number]) for number in range(len(run.labels()))]
is_first = place == np.array(first)[judged["solution"].astype(int)]
rows = []
for number in sorted(set(place[kinds["of workings"]])):
    here = kinds["of workings"] & (place == number)
    wrong, begun = here & ~right, here & ~right & is_first
    row = {"place": int(number), "steps": int(here.sum()), "wrong": int(wrong.sum())}
    row["right steps refused"] = float((score[here & right] <= 0.5).mean()) if (here & right).any() else None
    row["wrong steps passed"] = float((score[wrong] > 0.5).mean()) if wrong.any() else None
    rows.append(row | {"first ones passed": float((score[begun] > 0.5).mean()) if begun.any() else None})
Frame.of(rows)

# %% [markdown]
# The errors that it is surest of: wrong steps with the highest scores, and right ones with the lowest.

# %%
worked = Frame.of([row for row, keep in zip(judged.records(), kinds["of workings"], strict=True) if keep])
worked.where(label=False).sorted("score", descending=True)

# %%
worked.where(label=True).sorted("score")

# %% [markdown]
# ## What are labels worth?
#
# Here the truth labels the steps. Elsewhere labels are estimated from completions, which can be compared with the truth too:
# [the study](../verifiers/truth/README.md), whose lines are committed. Shares of wrong steps that the labels call right, means of
# three seeds with 95 % intervals: with more completions "any of them is right" passes more, since a second slip repairs the
# first by luck.

# %%
records = frames.lines(ROOT / "experiments" / "verifiers" / "truth" / "results.jsonl")
lines = [line for job in records for line in job.get("lines", []) if line["of"] == "labels"]
curves = []
for (kind, of_kind), colour in zip(frames.grouped(lines, lambda line: line["kind"]).items(), COLOURS, strict=False):
    by_k = frames.grouped(sorted(of_kind, key=lambda line: line["k"]), lambda line: line["k"])
    shares = {k: intervals.student([line["right_wrong_passed"] for line in same]) for k, same in by_k.items()}
    low, high = ([mean + side * half for mean, half in shares.values()] for side in (-1, 1))
    curves.append(Curve(kind, np.log2(list(shares)), [mean for mean, _ in shares.values()], colour, low, high))
Panel("Wrong steps called right", "completions of a step, log2", curves, shares=True)
