"""Questions to a language model, its answers graded: what self-training stores, counts and reports of them."""

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import numpy as np

from qstar.config import ImproveConfig
from qstar.data.rationales import Sample
from qstar.decoding import generate as decoding
from qstar.decoding import score
from qstar.decoding.generate import Written
from qstar.decoding.sampling import Sampling
from qstar.evals.intervals import wilson
from qstar.models import cost, lm
from qstar.models.cost import Pass
from qstar.models.definition import Definition
from qstar.runs import Loaded
from qstar.tasks import leaks
from qstar.tasks.grade import Verdict
from qstar.tasks.problem import Problem
from qstar.training import console
from qstar.typing import Key, Params

SCORED = 64  # samples of an iteration whose log-probs the trainer computes again


@dataclass(frozen=True)
class Sampler:
    """The weights that write in an iteration."""

    loaded: Loaded
    definition: Definition
    params: Params  # on the device
    name: str  # for the store


@dataclass(frozen=True)
class Answered:
    """Problems with what was written behind their prompts, one after another."""

    prompts: list[str]
    written: Written
    verdicts: list[Verdict]


def answer(
    cfg: ImproveConfig,
    sampler: Sampler,
    batch: Sequence[Problem],
    shots: Sequence[Sequence[Problem]],
    hint: bool,
    samples: int,
    key: Key,
    greedy: bool = False,
) -> Answered:
    """What the model writes behind the prompts of these problems, and the verdicts."""
    recipe, task, tokenizer = cfg.improve, cfg.task, sampler.loaded.tokenizer
    prompts = [(task.hinted if hint else task.prompt)(*one) for one in zip(batch, shots, strict=True)]
    sampling = Sampling(
        0.0 if greedy else recipe.temperature,
        0 if greedy else recipe.top_k,
        1.0 if greedy else recipe.top_p,
        max(task.budget(one, tokenizer) for one in batch),
        tuple(task.stop),
    )
    written = decoding.generate(
        sampler.definition,
        sampler.params,
        tokenizer,
        prompts,
        key,
        sampling,
        samples=samples,
        batch_size=cfg.sample_batch,
    )
    # What was cut off by the limit is no answer: the rest of it could have been another one.
    verdicts = [
        task.grader(text, one.answer) if done else Verdict(False, "", "too long")
        for text, done, one in zip(
            written.text, written.finished, [one for one in batch for _ in range(samples)], strict=True
        )
    ]
    return Answered(prompts, written, verdicts)


def samples(
    cfg: ImproveConfig, sampler: Sampler, batch: Sequence[Problem], found: Answered, hint: bool
) -> list[Sample]:
    """Rows of the store."""
    recipe, each = cfg.improve, len(found.verdicts) // len(batch)
    fixed = {"split": "train", "seed": cfg.seed, "checkpoint": sampler.name}
    fixed |= {name: getattr(recipe, name) for name in ("temperature", "top_k", "top_p")}
    fixed |= {"grader": cfg.task.grader.name, "grader_version": cfg.task.grader.version}
    rows, written = [], found.written
    for i, verdict in enumerate(found.verdicts):
        one = batch[i // each]
        asked = {"problem": one.id, "question": one.question, "gold": one.answer, "group": one.group}
        asked |= {"prompt": found.prompts[i // each], "hint": one.told if hint else ""}
        tokens = {name: getattr(written, name)[i].tolist() for name in ("tokens", "logprobs", "margins")}
        counts = {"prompt_tokens": len(written.prompts[i]), "generated_tokens": len(written.tokens[i])}
        texts = {
            "written": written.text[i] + written.ending[i],
            "stored": leaks.stored(cfg.task, one, written.text[i], hint),
        }
        found_out = {"answer": verdict.answer, "correct": verdict.correct, "reason": verdict.reason}
        done = {"finished": bool(written.finished[i])}
        rows.append(Sample(**fixed, **asked, **tokens, **counts, **texts, **found_out, **done))
    return rows


def counted(cfg: ImproveConfig, sampler: Sampler, rows: Sequence[dict]) -> dict:
    """Numbers of an iteration's samples; tokens and FLOPs are those of the samples, so the same after a kill."""
    free, hinted = [row for row in rows if not row["hinted"]], [row for row in rows if row["hinted"]]
    shape = sampler.loaded.config
    line = {
        "sampled": len(free),
        "right": sum(row["correct"] for row in free),
        "hinted": len(hinted),
        "right_hinted": sum(row["correct"] for row in hinted),
        "ledger": {"sample": spent(shape, free, cfg.improve.samples), "hint": spent(shape, hinted, 1)},
    }
    return line | {"mismatch": _mismatch(cfg, sampler, rows)}


def spent(shape: lm.LMConfig, rows: Sequence[dict], samples: int) -> dict[str, int]:
    """Tokens read, written and graded, and their FLOPs; a prompt is read once for all its samples."""
    prompts, written = [row["prompt_tokens"] for row in rows], [row["generated_tokens"] for row in rows]
    reading = sum(cost.flops(shape, [Pass(size, size, 1, gradient=False)]) for size in prompts[::samples])
    writing = sum(
        max(new - 1, 0) * cost.flops(shape, [Pass(1, size + new, 1, gradient=False)])
        for size, new in zip(prompts, written, strict=True)
    )
    return {
        "prompt_tokens": sum(prompts[::samples]),
        "generated_tokens": sum(written),
        "graded_tokens": sum(written),
        "flops": reading + writing,
    }


def _mismatch(cfg: ImproveConfig, sampler: Sampler, rows: Sequence[dict]) -> dict[str, float]:
    """How far the sampler's log-probs are from the trainer's, on some samples of the iteration."""
    some = [row for row in rows if row["tokens"]][:: max(len(rows) // SCORED, 1)][:SCORED]
    if not some:
        return {}
    encode = sampler.loaded.tokenizer.encode
    again = score.score(
        sampler.definition, sampler.params, [encode(row["prompt"]) for row in some], [row["tokens"] for row in some],
        batch_size=cfg.sample_batch,
    )  # fmt: skip
    gaps = np.concatenate([np.abs(np.subtract(row["logprobs"], new)) for row, new in zip(some, again, strict=True)])
    return {"mean": float(gaps.mean()), "largest": float(gaps.max())}


def evaluated(cfg: ImproveConfig, sampler: Sampler, problems: Sequence[Problem], what: int, iteration: int) -> dict:
    """Accuracy with the likeliest tokens, by group, and what it cost."""
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(cfg.seed), what), iteration)
    rng = np.random.default_rng((cfg.seed, what))  # the same examples before the same question in every iteration
    right: dict[str, list[bool]] = {}
    rows: list[dict] = []
    ordered = sorted(problems, key=lambda one: cfg.task.budget(one, sampler.loaded.tokenizer))
    batches = [ordered[i : i + cfg.sample_batch] for i in range(0, len(ordered), cfg.sample_batch)]
    with console.counting(f"iteration {iteration}: asking") as progress:
        for number, batch in enumerate(batches):
            shots = [cfg.task.shots(one, rng) if cfg.ask_few_shot else () for one in batch]
            found = answer(cfg, sampler, batch, shots, False, 1, key, greedy=True)
            for one, verdict in zip(batch, found.verdicts, strict=True):
                right.setdefault(one.group, []).append(verdict.correct)
            tokens = zip(found.written.prompts, found.written.tokens, strict=True)
            rows += [{"prompt_tokens": len(prompt), "generated_tokens": len(new)} for prompt, new in tokens]
            progress(number + 1, len(batches))
    groups = {name: _share(found) for name, found in sorted(right.items(), key=lambda one: (len(one[0]), one[0]))}
    everything = _share([one for found in right.values() for one in found])
    return {"accuracy": everything, "groups": groups, "asked": spent(sampler.loaded.config, rows, 1)}


def _share(right: Sequence[bool]) -> dict[str, float]:
    low, high = wilson(sum(right), len(right))
    return {"share": sum(right) / len(right), "low": low, "high": high, "n": len(right)}
