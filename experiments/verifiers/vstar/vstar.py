"""V-STaR from end to end (Hosseini et al. 2024): is the preference verifier, and are the iterations, worth it?

    python experiments/verifiers/vstar/vstar.py --out runs/vstar                    # give it again to go on
    python experiments/verifiers/vstar/vstar.py --show experiments/verifiers/vstar  # tables and figure, without a model

For each seed: `improve=vstar` trains generators and writes all right and wrong solutions of all iterations; DPO from
the first generator (fine-tuned on human rationales alone) trains V-STaR's verifier on every right against every wrong
solution of a question. Its controls are an outcome reward model trained on the same texts, from the same weights with
as many rows, and V-STaR [1 iteration]: one round with as many samples as all iterations have. Verifiers choose among
the same stored samples of test questions by the last generator: Verifier@k is the mean over all subsets of k of them.
Learning rates, beta and the kind of DPO score are chosen on dev questions of the first seed.

A finished part of a seed is not done again; sampling and training resume.
"""

import argparse
import dataclasses
import operator
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qstar import config as configs
from qstar import files
from qstar.cli import entry, flags
from qstar.data.rationales import Store
from qstar.decoding import score as reading
from qstar.evals import at_k
from qstar.evals.intervals import student
from qstar.policy import Policy
from qstar.reports import figures, frames, tables
from qstar.runs import improve, load, scoring, solve, stored, train

BASE = "bundled:cups"
LENGTH, READ = 64, 24  # tokens in a row of training: of a generator, of a verifier
RESULTS, FIGURE = "results.jsonl", "verifier_at_k.png"
VSTAR, ONE = "V-STaR", "V-STaR [1 iteration]"
ORM = "ORM"
RATIO, LIKELIHOOD = "log-ratio", "likelihood"  # scores of a model trained with DPO
PASS, MAJORITY, GREEDY, SFT, GENERATOR = "pass@k", "majority", "greedy", "likelihood, SFT", "likelihood, generator"
QUESTIONS = 200  # of test; records that do not say have as many
DRAWS = 1000  # subsets of each size, of which the majority is the mean


@dataclass(frozen=True)
class Setting:
    """How a verifier is trained."""

    method: str  # dpo or orm
    lr: float
    beta: float = 0.0

    @property
    def name(self) -> str:
        return f"{self.method}_{self.lr:g}" + (f"_{self.beta:g}" if self.beta else "")


@dataclass(frozen=True)
class Samples:
    """Solutions of questions, as many of each."""

    prompts: Sequence[str]
    tokens: Sequence[tuple[int, ...]]
    right: np.ndarray  # [questions, samples]
    answers: np.ndarray  # [questions, samples] of text; empty where none was declared

    def shaped(self, scores: Sequence[float]) -> np.ndarray:
        return np.asarray(scores, float).reshape(self.right.shape)


@dataclass(frozen=True)
class Place:
    """A seed, its folder and its questions."""

    args: argparse.Namespace
    seed: int

    @property
    def folder(self) -> Path:
        return self.args.out / f"seed_{self.seed}"

    @property
    def task(self) -> tuple[str, ...]:
        args = self.args
        sizes = (f"task.{split}={getattr(args, split)}" for split in ("train", "dev", "test"))
        return ("task=cups", *sizes, f"task.seed={self.seed}", f"seed={self.seed}")


# --- generators and samples ---------------------------------------------------------------------------------------


def generators(place: Place, name: str, iterations: int, samples: int) -> Path:
    """The folder of a run of improve=vstar; the generator of iteration i is in iteration_i, that of SFT in 0."""
    args, folder = place.args, place.folder / name
    if not (folder / improve.PAIRS).is_file():
        cfg = configs.composed("improve", [
            "~experiments", *place.task, f"model.source={BASE}", "model.remat=none", "improve=vstar",
            f"improve.iterations={iterations}", f"improve.samples={samples}", f"improve.sft_steps={args.steps}",
            f"improve.steps={args.steps}", f"improve.temperature={args.temperature}", f"length={LENGTH}",
            "optim.lr=1e-3", "optim.schedule=cosine", f"optim.warmup_steps={min(5, args.steps // 2)}", "batch_size=16",
            f"sample_batch={max(args.rows // samples, 1)}", f"save_every={args.steps}", f"log_every={args.steps}",
            f"run_dir={folder}",
        ])  # fmt: skip
        improve.run(cfg, folder)
    return folder


def vstar(place: Place) -> Path:
    return generators(place, "vstar", place.args.iterations, place.args.samples)


def one_iteration(place: Place) -> Path:
    return generators(place, "one_iteration", 1, place.args.iterations * place.args.samples)


def last(run: Path) -> Path:
    return max(run.glob("iteration_*"), key=lambda folder: int(folder.name.removeprefix("iteration_")))


def sampled(place: Place, name: str, generator: Path, split: str, count: int) -> Samples:
    """`count` solutions of each question of a split; one is the likeliest."""
    args, folder = place.args, place.folder / f"{name}_{split}_{count}"
    if not (folder / "done").is_file():
        cfg = configs.composed("solve", [
            *place.task, "model=pretrained", f"model.source={generator}", "search=majority", f"search.n={count}",
            f"split={split}", "questions=0", f"temperature={args.test_temperature if count > 1 else 0}",
            f"sample_batch={max(args.rows // count, 1)}", f"run_dir={folder}",
        ])  # fmt: skip
        solve.run(cfg, folder)
        (folder / "done").touch()
    rows = [row for row in Store.open(folder / solve.FOLDER).rows().to_pylist() if row["place"]["parent"] == 0]
    shape = (-1, count)
    return Samples(
        [row["prompt"] for row in rows],
        [tuple(row["tokens"]) for row in rows],
        np.array([row["correct"] for row in rows]).reshape(shape),
        np.array([row["answer"] or "" for row in rows]).reshape(shape),
    )


# --- verifiers ----------------------------------------------------------------------------------------------------


def texts(run: Path) -> Iterator[dict]:
    """The completions that are in pairs, right and wrong, each once with its label: what an ORM is trained on."""
    seen = set()
    for pair in files.records(run / improve.PAIRS, "a pair"):
        for side, label in (("chosen", 1), ("rejected", 0)):
            line = {"prompt": pair["prompt"], "completion": pair[side], "label": label}
            ids = {"completion_ids": pair[f"{side}_ids"]} if f"{side}_ids" in pair else {}
            if tuple(line.values()) not in seen:
                seen.add(tuple(line.values()))
                yield line | ids


def trained(place: Place, run: Path, setting: Setting) -> Path:
    """The run of a verifier, from the generator that was fine-tuned on human rationales."""
    args, folder = place.args, place.folder / "verifiers" / run.name / setting.name
    if stored.saved_steps(folder) == [args.verifier_steps]:
        return folder
    shutil.rmtree(folder, ignore_errors=True)  # of a call that was interrupted
    data = run / improve.PAIRS
    if setting.method == "orm":
        data = run / "texts.jsonl"
        files.write_records(data, list(texts(run)))
    kind, batch_size = ("data=labelled", 32) if setting.method == "orm" else ("data=pairs", 16)  # as many completions
    beta = [f"method.beta={setting.beta}"] if setting.beta else []
    cfg = configs.composed("train", [
        "~experiments", f"method={setting.method}", *beta, kind, f"data.path={data}", f"data.length={READ}",
        "model=pretrained", f"model.source={run / 'iteration_0'}", "model.remat=none", "eval=none",
        f"seed={place.seed}", f"steps={args.verifier_steps}", f"batch_size={batch_size}", f"optim.lr={setting.lr}",
        "optim.schedule=cosine", f"optim.warmup_steps={min(20, args.verifier_steps // 2)}",
        f"save_every={args.verifier_steps}", "log_every=100", "sample_every=0", f"run_dir={folder}",
    ])  # fmt: skip
    train.run(cfg, folder)
    return folder


def by_text(samples: Samples, score: object) -> np.ndarray:
    """Scores of all samples; equal ones are read once."""
    keys = list(zip(samples.prompts, samples.tokens, strict=True))
    unique = list(dict.fromkeys(keys))
    values = dict(zip(unique, score([prompt for prompt, _ in unique], [ids for _, ids in unique]), strict=True))
    return samples.shaped([values[key] for key in keys])


def likelihoods(policy: Policy, samples: Samples) -> np.ndarray:
    """Log-probs of whole solutions, nats."""

    def score(prompts: Sequence[str], tokens: Sequence[tuple[int, ...]]) -> Iterable[float]:
        before = [policy.tokenizer.encode_prompt(prompt) for prompt in prompts]
        return [each.sum() for each in reading.score(policy.definition, policy.params, before, tokens, batch_size=256)]

    return by_text(samples, score)


def scores(run: Path, kind: str, samples: Samples) -> np.ndarray:
    """Of a verifier: that of an ORM, DPO's log-ratio, or the likelihood under the model trained with DPO."""
    scorer = scoring.opened(run)
    if kind == LIKELIHOOD:
        return likelihoods(scorer.policy, samples)
    scorer = dataclasses.replace(scorer, batch_size=256)
    return by_text(samples, lambda prompts, tokens: scorer.score(prompts, [[ids] for ids in tokens]).solutions)


# --- at k ---------------------------------------------------------------------------------------------------------


def sizes(count: int) -> list[int]:
    return [2**power for power in range(count.bit_length()) if 2**power <= count]


def verifier_at(samples: Samples, values: np.ndarray, k: int) -> float:
    return float(np.mean([at_k.verifier_at(*pair, k) for pair in zip(values, samples.right, strict=True)]))


def majority_at(samples: Samples, count: int) -> dict[int, float]:
    """The mean over DRAWS subsets; of answers with as many votes each is as likely. No answer has no vote."""
    rng, found = np.random.default_rng(0), {k: [] for k in sizes(count)}
    for right, answers in zip(samples.right, samples.answers, strict=True):
        names = sorted({*answers.tolist()} - {""})
        votes = np.stack([answers == name for name in names], -1) if names else np.zeros((count, 1), bool)
        is_right = np.array([right[answers == name].any() for name in names] or [False])
        orders = rng.permuted(np.tile(np.arange(count), (DRAWS, 1)), axis=1)
        counts = votes[orders].cumsum(1)  # [draws, samples, answers]
        for k in found:
            leads = (counts[:, k - 1] == counts[:, k - 1].max(-1, keepdims=True)) & (counts[:, k - 1] > 0)
            found[k].append(float(((leads & is_right).sum(-1) / np.maximum(leads.sum(-1), 1)).mean()))
    return {k: float(np.mean(values)) for k, values in found.items()}


def control_lines(place: Place, name: str, generator: Path, samples: Samples, sft: Path | None) -> Iterator[dict]:
    """What needs no verifier: pass@k, the majority, one greedy solution, and untrained likelihoods."""
    count = samples.right.shape[1]
    majority = majority_at(samples, count)
    untrained = {GENERATOR: generator} | ({SFT: sft} if sft else {})
    values = {by: likelihoods(load.load_model(path).plain(), samples) for by, path in untrained.items()}
    for k in sizes(count):
        passed = float(np.mean([at_k.pass_at(right, k) for right in samples.right]))
        yield {"by": PASS, "k": k, "right": passed}
        yield {"by": MAJORITY, "k": k, "right": majority[k]}
        yield from ({"by": by, "k": k, "right": verifier_at(samples, each, k)} for by, each in values.items())
    greedy = sampled(place, name, generator, "test", 1)
    yield {"by": GREEDY, "k": 1, "right": float(greedy.right.mean())}


def verifier_lines(by: str, samples: Samples, values: np.ndarray) -> Iterator[dict]:
    for k in sizes(samples.right.shape[1]):
        yield {"by": by, "k": k, "right": verifier_at(samples, values, k)}


# --- choices on dev -----------------------------------------------------------------------------------------------


def chosen(place: Place) -> tuple[list[dict], Setting, str, Setting]:
    """Settings tried on dev questions, and the best of them: DPO's, the kind of its score, and the ORM's."""
    args, run = place.args, vstar(place)
    samples = sampled(place, "vstar", last(run), "dev", args.candidates)
    dpo = [(Setting("dpo", lr, beta), kind) for lr in args.lrs for beta in args.betas for kind in (RATIO, LIKELIHOOD)]
    tried = [*dpo, *((Setting("orm", lr), ORM) for lr in args.orm_lrs)]
    lines = []
    for setting, kind in tried:
        values = scores(trained(place, run, setting), kind, samples)
        right = {k: verifier_at(samples, values, k) for k in sizes(args.candidates)}
        mean = float(np.mean([*right.values()]))
        lines.append(dataclasses.asdict(setting) | {"score": kind, "mean": mean, "most": right[args.candidates]})
    best = {
        method: max(range(len(tried)), key=lambda i: (tried[i][0].method == method, lines[i]["mean"]))
        for method in ("dpo", "orm")
    }
    return lines, *tried[best["dpo"]], tried[best["orm"]][0]


# --- jobs ---------------------------------------------------------------------------------------------------------


def lines_of(place: Place, setting: Setting, kind: str, orm: Setting) -> Iterator[dict]:
    """Of the test questions of a seed."""
    count, other = place.args.candidates, LIKELIHOOD if kind == RATIO else RATIO
    run, single = vstar(place), one_iteration(place)
    samples = sampled(place, "vstar", last(run), "test", count)
    shared = {"samples of": VSTAR}
    for line in control_lines(place, "vstar", last(run), samples, run / "iteration_0"):
        yield shared | line
    verifiers = {
        VSTAR: (run, setting, kind),
        f"{VSTAR}, {other}": (run, setting, other),
        ONE: (single, setting, kind),
        ORM: (run, orm, ORM),
    }
    for by, (data, how, score) in verifiers.items():
        for line in verifier_lines(by, samples, scores(trained(place, data, how), score, samples)):
            yield shared | line
    own = sampled(place, "one_iteration", last(single), "test", count)
    shared = {"samples of": ONE}
    for line in control_lines(place, "one_iteration", last(single), own, None):
        yield shared | line
    for line in verifier_lines(ONE, own, scores(trained(place, single, setting), kind, own)):
        yield shared | line


def about(place: Place) -> Iterator[dict]:
    """Of the generators and of what verifiers are trained on."""
    for name, run in ((VSTAR, vstar(place)), (ONE, one_iteration(place))):
        pairs = sum(1 for _ in files.records(run / improve.PAIRS, "a pair"))
        labels = [line["label"] for line in texts(run)]
        yield {"of": name, "pairs": pairs, "texts": len(labels), "right texts": sum(labels)}
        for line in files.records(run / "iterations.jsonl", "an iteration"):
            share = {"right": line["right"] / line["sampled"]} if line["iteration"] else {}
            yield {"of": name, "iteration": line["iteration"], "dev": line["accuracy"]["share"]} | share


def work(place: Place, tried: Sequence[dict], setting: Setting, kind: str, orm: Setting) -> None:
    """Add the line of a seed to the results."""
    line = {
        "seed": place.seed,
        "chosen": {VSTAR: dataclasses.asdict(setting) | {"score": kind}, ORM: dataclasses.asdict(orm)},
        "tried": tried if place.seed == place.args.seeds[0] else [],
        "questions": place.args.test,
        "lines": [*lines_of(place, setting, kind, orm)],
        "about": [*about(place)],
    }
    files.append(place.args.out / RESULTS, [line], durable=True)


# --- tables -------------------------------------------------------------------------------------------------------


def flat(jobs: Sequence[Mapping], name: str) -> list[dict]:
    shared = ({"seed": job["seed"], "questions": job.get("questions", QUESTIONS)} for job in jobs)
    return [line | of for job, of in zip(jobs, shared, strict=True) for line in job[name]]


def at_table(lines: Sequence[Mapping]) -> str:
    """Shares of test questions answered rightly, by k."""
    ks, asked = sorted({line["k"] for line in lines}), operator.itemgetter("questions")
    rows = [
        (of, by, *(tables.share_mean([line for line in group if line["k"] == k], "right", asked) for k in ks))
        for (of, by), group in frames.by(lines, "samples of", "by").items()
    ]
    return tables.markdown(("samples of", "chosen by", *(f"k = {k}" for k in ks)), rows)


def gain_table(lines: Sequence[Mapping]) -> str:
    """V-STaR's verifier less what it is compared with, on the same samples, seed by seed."""
    ks = sorted({line["k"] for line in lines})
    mine, single = ([line for line in lines if line["samples of"] == of] for of in (VSTAR, ONE))
    ours = [line for line in mine if line["by"] == VSTAR]
    others = {by: group for by, group in frames.by(mine, "by").items() if by not in (VSTAR, GREEDY)}
    others[f"{ONE}, of its own samples"] = [line for line in single if line["by"] == ONE]
    rows = [(by, *(_gain(ours, group, k) for k in ks)) for by, group in others.items()]
    greedy = [line for line in mine if line["by"] == GREEDY]
    rows.append((GREEDY, *(tables.gain([line for line in ours if line["k"] == k], "right", greedy) for k in ks)))
    return tables.markdown(("V-STaR, less", *(f"k = {k}" for k in ks)), rows)


def _gain(ours: Sequence[Mapping], theirs: Sequence[Mapping], k: int) -> str:
    at = [[line for line in lines if line["k"] == k] for lines in (ours, theirs)]
    return tables.gain(at[0], "right", at[1])


def generator_table(lines: Sequence[Mapping]) -> str:
    rows = [
        (of, iteration, tables.mean(group, "right"), tables.mean(group, "dev"))
        for (of, iteration), group in frames.by(
            [line for line in lines if "iteration" in line], "of", "iteration"
        ).items()
    ]
    data = [
        (of, *(tables.mean(group, name, form=",.0f") for name in ("pairs", "texts", "right texts")))
        for of, group in frames.by([line for line in lines if "pairs" in line], "of").items()
    ]
    names = ("run", "iteration", "samples right", "dev, greedy, after training")
    return tables.markdown(names, rows) + "\n" + tables.markdown(("run", "pairs", "texts", "right"), data)


def tried_table(jobs: Sequence[Mapping]) -> str:
    rows = [
        (line["method"], f"{line['lr']:g}", f"{line['beta']:g}" if line["beta"] else "", line["score"],
         f"{line['mean']:.3f}", f"{line['most']:.3f}")
        for job in jobs for line in job["tried"]
    ]  # fmt: skip
    return tables.markdown(("method", "lr", "beta", "score", "mean over k", "largest k"), rows)


def show(out: Path, figure: bool) -> None:
    jobs = sorted(frames.lines(out / RESULTS), key=lambda job: job["seed"])
    if not jobs:
        return
    lines = flat(jobs, "lines")
    print(f"## Verifier@k\n\n{at_table(lines)}\n## Differences\n\n{gain_table(lines)}")
    print(f"## Generators\n\n{generator_table(flat(jobs, 'about'))}\n## Tried on dev\n\n{tried_table(jobs)}")
    if figure:
        draw(lines, out / FIGURE)


def draw(lines: Sequence[Mapping], file: Path) -> None:
    mine = frames.by([line for line in lines if line["samples of"] == VSTAR], "by")
    canvas, (panel,) = figures.grid(1, 1, 5.5, 4)
    shown = [by for by in mine if by != GREEDY]
    curves = []
    for number, by in enumerate(shown):
        at = {k: student([line["right"] for line in group]) for k, group in frames.by(mine[by], "k").items()}
        low, high = ([mean + sign * half for mean, half in at.values()] for sign in (-1, 1))
        banded = by in (VSTAR, ORM) and np.isfinite(low).all()
        colour, line = figures.COLOURS[number % len(figures.COLOURS)], "-" if by in (VSTAR, ONE, ORM) else "--"
        means = [mean for mean, _ in at.values()]
        curves.append(figures.Curve(by, [*at], means, colour, *((low, high) if banded else ()), line=line))
    figures.curves(panel, curves, "k", "share of questions answered rightly", (0, 1.02))
    panel.set_xscale("log", base=2)
    figures.level(panel, student([line["right"] for line in mine[GREEDY]])[0], GREEDY)
    panel.legend(fontsize=7, loc="lower left")
    figures.save(canvas, file)


def main() -> None:
    parser = flags.parser(__doc__)
    parser.add_argument("--train", type=int, default=300, help="questions of training, with human rationales")
    parser.add_argument("--dev", type=int, default=100, help="questions on which settings are chosen")
    parser.add_argument("--test", type=int, default=QUESTIONS, help="questions")
    parser.add_argument("--iterations", type=int, default=3)
    parser.add_argument("--samples", type=int, default=16, help="solutions of a question in an iteration")
    parser.add_argument("--candidates", type=int, default=64, help="solutions of a question of dev and test")
    parser.add_argument("--temperature", type=float, default=1.2, help="of training samples")
    parser.add_argument("--test-temperature", type=float, default=1.6, help="of solutions of dev and test")
    parser.add_argument("--steps", type=int, default=60, help="of training a generator")
    parser.add_argument("--verifier-steps", type=int, default=200)
    parser.add_argument("--lrs", type=float, nargs="+", default=[3e-4], help="of DPO")
    parser.add_argument("--betas", type=float, nargs="+", default=[0.1, 1.0], help="of DPO")
    parser.add_argument("--orm-lrs", type=float, nargs="+", default=[3e-4, 1e-3])
    parser.add_argument("--rows", type=int, default=1024, help="solutions written at once")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--show", type=Path, metavar="OUT", help="print the tables of these results and run nothing")
    args = parser.parse_args()
    if args.show:
        return show(args.show, figure=True)
    if args.out is None:
        parser.error("--out FOLDER is needed: results are written there")
    files.make(args.out)
    with entry.errors():
        done = {job["seed"] for job in frames.lines(args.out / RESULTS)}
        todo = [seed for seed in args.seeds if seed not in done]
        entry.prepare_jax()
        choice = chosen(Place(args, args.seeds[0])) if todo else ()
        for seed in todo:
            work(Place(args, seed), *choice)
        show(args.out, figure=False)


if __name__ == "__main__":
    main()
