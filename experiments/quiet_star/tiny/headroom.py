"""Can a thought help? The base model before the first Quiet-STaR step.

    python experiments/quiet_star/tiny/headroom.py [--items 500] [--split dev]

Prints the base's accuracy by chance, without workings, when it writes its workings down (likeliest or sampled tokens)
and with the true workings put into the thought slot (prediction after the thought alone: mixing weight 1).
"""

import jax
import jax.numpy as jnp
import numpy as np

from qstar import runs
from qstar.cli import entry, flags
from qstar.evals import intervals
from qstar.evals.suite import CupsEval, Evaluator
from qstar.methods.plain_lm import PlainLM
from qstar.methods.quiet_star import QuietStar
from qstar.ops import rows
from qstar.policy import Policy
from qstar.reports import tables
from qstar.structs import Context
from qstar.tasks import cups
from qstar.tasks.problem import Problem
from qstar.thoughts.talk import thought_columns
from qstar.thoughts.writing import generate
from qstar.training import console


def written(model: Policy, problems: list[Problem], temperature: float) -> np.ndarray:
    """Whether the answer after the model's own workings is right, per problem."""
    prompts = [model.tokenizer.encode(problem.question + "-") for problem in problems]
    method = PlainLM()
    longest = max(len(problem.rationale) for problem in problems) + 1
    texts = generate(
        method,
        method.definition(model.lm),
        model.language_model,
        prompts,
        jax.random.key(0),
        max_new_tokens=longest,
        temperature=temperature,
        think=False,
    )
    answers = [model.tokenizer.decode(text).partition(";")[0][-1:] for text in texts.tokens]
    return np.array([answer == problem.answer for answer, problem in zip(answers, problems, strict=True)])


def in_the_slot(model: Policy, problems: list[Problem]) -> np.ndarray:
    """Whether the prediction after start, true workings, end is right, per problem."""
    method = QuietStar(thought_len=1, lookahead=1, delimiter="-")
    definition = method.definition(model.lm, model.tokenizer)
    params = method.start_from(definition, model.language_model, jax.random.key(0))
    places = model.tokenizer.encode("12345")

    @jax.jit
    def predicted(params, batch, anchors, inner):
        thinker = definition.bind(params)
        context = Context(thinker.lm.text(batch), batch, anchors)
        columns = thought_columns(thinker, context, thinker.lm.embed(inner), 1)
        return thinker.lm.logits(columns[:, 0, 0, -1])[:, jnp.array(places)].argmax(-1)

    right = np.zeros(len(problems), bool)
    for count in {int(problem.group) for problem in problems}:
        index = [i for i, problem in enumerate(problems) if problem.group == str(count)]
        questions = [model.tokenizer.encode(problems[i].question) for i in index]
        workings = np.array([model.tokenizer.encode(problems[i].rationale.strip("-")) for i in index])
        anchors = np.full((len(index), 1), count + 1)
        batch = rows.padded(questions, count + 2)
        predictions = np.asarray(predicted(params, batch, anchors, workings[:, None, None])) + 1
        right[index] = [str(place) == problems[i].answer for place, i in zip(predictions, index, strict=True)]
    return right


def direct(model: Policy, cfg: CupsEval) -> tuple[float, int]:
    """Share of right answers without workings, and of how many."""
    method = PlainLM()
    evaluator = Evaluator(cfg, method, method.definition(model.lm), model.tokenizer)
    (row,) = evaluator(jax.device_put(model.language_model), jax.random.key(0))
    return row.accuracy, row.n


def main() -> None:
    parser = flags.parser(__doc__)
    parser.add_argument("--items", type=int, default=500)
    parser.add_argument("--split", choices=("dev", "test"), default="dev")
    parser.add_argument("--model", default="bundled:cups")
    args = parser.parse_args()
    entry.prepare_jax()
    model = runs.load_model(args.model)
    cfg = CupsEval(items=args.items, split=args.split)
    problems = cfg.problems()
    share, count = direct(model, cfg)
    answers = np.arange(count) < round(share * count)  # their order is of no interest here
    shown = [("chance", f"{1 / cups.NUMBER_OF_CUPS:.3f}", "")]
    for name, right in (
        ("without workings", answers),
        ("writes its workings, likeliest tokens", written(model, problems, 0.0)),
        ("writes its workings, sampled tokens", written(model, problems, 1.0)),
        ("true workings in the thought slot", in_the_slot(model, problems)),
    ):
        low, high = intervals.wilson(int(right.sum()), len(right))
        shown.append((name, f"{right.mean():.3f}", f"[{low:.3f}, {high:.3f}]"))
    title = f"Headroom, {args.items} {args.split} problems"
    console.console().print(tables.screen(("base model", "accuracy", "95 % interval"), shown, title=title))


if __name__ == "__main__":
    main()
