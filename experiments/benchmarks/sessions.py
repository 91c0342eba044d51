"""The cost of steps and forks: the same number of tokens generated at once, step by step, and by beams.

    python experiments/benchmarks/sessions.py --model SOURCE [--rows 32] [--steps 8] [--tokens 12] [--repeats 15]

Rows of two prompts are continued by steps x tokens new tokens, none of which ends a text. `generate` samples them
plainly; a session writes the same rows whole, in steps, and in steps after each of which every fourth row is kept and
is continued four times. All take turns within a repeat, reading of the prompts included, programs compiled before. A
ratio is that of a repeat's times to `generate` in the same repeat; printed is its median, and the shortest time.
"""

import jax
import numpy as np

from qstar import runs
from qstar.cli import entry, flags
from qstar.decoding import write
from qstar.decoding.generate import generate
from qstar.decoding.sampling import Sampling
from qstar.decoding.session import Session
from qstar.reports import tables
from qstar.settings import Count
from qstar.training import console, trial

PROMPT = 24  # tokens


def main() -> None:
    parser = flags.parser(__doc__)
    parser.add_argument("--model", required=True, help="anything that model.source takes")
    for name, default in (("rows", 32), ("steps", 8), ("tokens", 12), ("repeats", 15)):
        parser.add_argument(f"--{name}", type=flags.number(Count), default=default)
    options = parser.parse_args()
    entry.prepare_jax()
    model = runs.load_model(options.model)
    params = jax.device_put(model.language_model)
    layers = write.unrolled(model.definition, params)
    prompts = np.random.default_rng(0).integers(model.lm.vocab, size=(2, PROMPT)).tolist()
    sampling = Sampling(max_new_tokens=options.steps * options.tokens, forbidden_ids=model.tokenizer.ends)
    keys = jax.random.split(jax.random.key(0), 2 * (options.rows // 2))
    start = [prompt for prompt in range(2) for _ in range(options.rows // 2)]

    def plain() -> None:
        generate(
            model.definition, params, model.tokenizer, prompts, jax.random.clone(keys), sampling,
            samples=options.rows // 2, batch_size=2,
        )  # fmt: skip

    def stepwise(limit: int, kept: int) -> None:
        """Steps of so many tokens, after each of which one of so many rows is continued."""
        writing = Session(model.definition, params, model.tokenizer, prompts, sampling, layers=layers)
        rows = [writing.start(prompt) for prompt in start]
        for _ in range(sampling.max_new_tokens // limit):
            written = writing.write(rows, keys, limit=limit)
            rows = [written[i - i % kept].row for i in range(len(written))]

    ways = {
        "generate": plain,
        "session, whole rows": lambda: stepwise(sampling.max_new_tokens, 1),
        "session, steps": lambda: stepwise(options.tokens, 1),
        "session, beams": lambda: stepwise(options.tokens, 4),
    }
    calls = {name: lambda _, way=way: trial.seconds_of(way) for name, way in ways.items()}
    taken = {name: times[1:] for name, times in trial.in_turns(calls, 1 + options.repeats).items()}
    base = np.array(taken["generate"])
    cells = [(name, f"{min(seconds):.3f}", f"{np.median(seconds / base):.3f}") for name, seconds in taken.items()]
    console.console().print(tables.screen(("way", "seconds, least", "of generate, median"), cells, text=1))


if __name__ == "__main__":
    main()
