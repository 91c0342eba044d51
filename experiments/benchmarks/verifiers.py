"""The cost of scoring and labelling relative to a plain pass and plain sampling of the same tokens.

    python experiments/benchmarks/verifiers.py [--model bundled:cups] [--repeats 15]

Scoring: solutions are scored by a reward model of the model's shape, and the same texts are read by the model in the
same batches, with its output layer and without it. Labelling: questions of cups are labelled by completions of every
step (`qstar-label`, no files), and the calls of the sampler that this made are repeated alone. All take turns within a
repeat, programs compiled before. A ratio is that of two times in one repeat; printed are its median and its quartiles.
"""

import functools
from collections.abc import Callable

import jax
import numpy as np

from qstar import config as configs
from qstar import runs
from qstar.cli import entry, flags
from qstar.decoding import generate as decoding
from qstar.decoding import score
from qstar.methods.verifier import PRM
from qstar.models import heads
from qstar.ops import rows
from qstar.policy import Policy
from qstar.reports import tables
from qstar.runs import label
from qstar.runs.label import Batch
from qstar.runs.scoring import Scorer
from qstar.settings import Count
from qstar.training import console, trial

TEXTS, PROMPT, STEP, STEPS = 256, 24, 10, 8  # of scoring: texts, tokens of a prompt, of a step, steps


def main() -> None:
    parser = flags.parser(__doc__)
    parser.add_argument(
        "--model", default="bundled:cups", help="anything that model.source takes; labelling takes cups"
    )
    parser.add_argument("--texts", type=flags.number(Count), default=TEXTS, help="that are scored")
    parser.add_argument("--questions", type=flags.number(Count), default=16, help="whose solutions are labelled")
    parser.add_argument("--completions", type=flags.number(Count), default=8, help="from every step")
    parser.add_argument("--repeats", type=flags.number(Count), default=15)
    options = parser.parse_args()
    entry.prepare_jax()
    model = runs.load_model(options.model)
    shown = [*scoring(model, options.texts, options.repeats)]
    shown += labelling(options.questions, options.completions, options.repeats)
    names = ("what", "seconds, least", "beside", "seconds, least", "ratio of times, median", "quartiles")
    console.console().print(tables.screen(names, shown, text=1))


def scoring(model: Policy, count: int, repeats: int) -> list[tuple]:
    rng = np.random.default_rng(0)
    texts = rng.integers(model.lm.vocab, size=(count, PROMPT + STEP * STEPS)).tolist()
    prompts = [text[:PROMPT] for text in texts]
    steps = [[text[PROMPT + STEP * i : PROMPT + STEP * (i + 1)] for i in range(STEPS)] for text in texts]
    definition = heads.definition(model.lm)
    params = heads.from_lm(model.lm, model.language_model)
    scorer = Scorer(Policy(PRM(), definition, params, model.tokenizer, "a scorer"))
    weights = jax.device_put(model.language_model)

    def read(with_logits: bool) -> None:
        for width, index in score.batches([len(text) for text in texts], scorer.batch_size):
            batch = rows.padded([texts[i] for i in index], width)
            np.asarray(_pass(model.definition, weights, batch, with_logits))

    ways = {
        "scoring": lambda: scorer.score(prompts, steps),
        "a pass with the output layer": lambda: read(True),
        "a pass without it": lambda: read(False),
    }
    taken = timed(ways, repeats)
    return [ratio(taken, "scoring", other) for other in list(ways)[1:]]


@functools.partial(jax.jit, static_argnames=("definition", "with_logits"))
def _pass(definition, params, batch, with_logits: bool):
    lm = definition.bind(params).lm
    text = lm.text(batch)
    return lm.next_logprobs(text, batch.tokens) if with_logits else text.hidden[..., 0]


def labelling(questions: int, completions: int, repeats: int) -> list[tuple]:
    overrides = [f"problems={questions}", f"batch={questions}", f"label.k={completions}", f"task.train={questions}"]
    cfg = configs.composed("label", overrides)
    job, calls = label.prepared(cfg), []
    sampler = decoding.generate

    def kept(*arguments, **settings):
        calls.append((arguments, settings))
        return sampler(*arguments, **settings)

    def labelled() -> None:
        Batch(job, 0, job.batches[0]).records()

    decoding.generate = kept
    try:
        labelled()
    finally:
        decoding.generate = sampler

    def plain() -> None:
        for arguments, settings in calls:
            sampler(*arguments, **settings)

    taken = timed({"labelling": labelled, "sampling": plain}, repeats)
    return [ratio(taken, "labelling", "sampling")]


def timed(ways: dict[str, Callable[[], object]], repeats: int) -> dict[str, np.ndarray]:
    """Seconds of each way in each repeat, in which they take turns; each is run once before."""
    calls = {name: lambda _, way=way: trial.seconds_of(way) for name, way in ways.items()}
    return {name: np.array(seconds[1:]) for name, seconds in trial.in_turns(calls, 1 + repeats).items()}


def ratio(taken: dict[str, np.ndarray], name: str, other: str) -> tuple:
    ratios = taken[name] / taken[other]
    quartiles = " to ".join(f"{value:.3f}" for value in np.percentile(ratios, [25, 75]))
    return name, f"{taken[name].min():.3f}", other, f"{taken[other].min():.3f}", f"{np.median(ratios):.3f}", quartiles


if __name__ == "__main__":
    main()
