"""Read a text with a trained model's thoughts: what it thinks before every token, and what that changes."""

import argparse
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

from qstar import paths
from qstar.cli import flags
from qstar.settings import Count, NonNegative, Seed, Whole

if TYPE_CHECKING:  # jax is imported once the arguments are known to be right, so that --help answers at once
    from qstar.runs import Run
    from qstar.thoughts.read import Reading

EXAMPLES = """\
examples
  qstar-think "3aegbdh=4;"                    the newest run under runs/, its
                                              newest checkpoint
  qstar-think "3aegbdh=4;" --run runs/mine --step 40
  qstar-think "3aegbdh=4;" --sample --thoughts 4
                                              four sampled thoughts before every
                                              token
  qstar-think "3aegbdh=" --generate 2         continue the text, thinking before
                                              each token
  cat essay.txt | qstar-think - --html essay.html

Every token is shown with the thought before it, the weight with which the
prediction after that thought is mixed into the prediction without it, and the
change in the token's log-likelihood, in nats: green where the thought helped,
red where it hurt. The page holds the same and, for every token, the likeliest
next tokens with and without the thought. A run is what qstar-train leaves.
"""


def parser() -> argparse.ArgumentParser:
    out = argparse.ArgumentParser(
        prog="qstar-think",
        description=textwrap.fill(__doc__, 80),
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    number = flags.number
    out.add_argument("text", metavar="TEXT", help="the text to read; - reads it from standard input")
    out.add_argument(
        "--run", default="latest", metavar="DIR", help="run directory (default: the newest one under runs/ that thinks)"
    )
    out.add_argument("--step", type=number(Whole), metavar="N", help="checkpoint of that step (default: the newest)")
    out.add_argument("--sample", action="store_true", help="sample the thoughts (default: the likeliest tokens)")
    out.add_argument(
        "--thoughts", type=number(Count), default=1, metavar="R", help="sampled thoughts before every token"
    )
    out.add_argument(
        "--generate",
        type=number(Whole),
        default=0,
        metavar="N",
        help="write N more tokens, one thought before each",
    )
    out.add_argument(
        "--temperature",
        type=number(NonNegative),
        metavar="T",
        help="of the tokens written (default 0: the likeliest)",
    )
    out.add_argument("--seed", type=number(Seed), default=0, metavar="S", help="of all sampling (default 0)")
    page = out.add_mutually_exclusive_group()
    page.add_argument("--html", type=Path, default=Path("thoughts.html"), metavar="OUT", help="page (thoughts.html)")
    page.add_argument("--no-html", action="store_true", help="write no page")
    out.add_argument("--no-color", action="store_true", help="no colours (NO_COLOR=1 does the same)")
    return out


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The arguments; exits with a message where they contradict each other."""
    out = parser()
    args = flags.parsed(out, arguments)
    if args.thoughts > 1 and not args.sample:
        out.error(f"--thoughts {args.thoughts} needs --sample: the likeliest thoughts are all the same")
    if args.temperature is not None and not args.generate:
        out.error(f"--temperature {args.temperature} applies to the tokens written: it needs --generate")
    if not args.no_html:
        flags.check(out, paths.check_file, "--html", args.html)
    if args.text == "-":
        args.text = sys.stdin.read().removesuffix("\n")
    return args


def think(run: "Run", args: argparse.Namespace) -> "Reading":
    """The reading of `args.text`, with what the model wrote after it.

    Raises ValueError for a run whose method does not think, a text that its tokenizer or model cannot take, and a text
    in which nothing has a thought before it.
    """
    import jax

    from qstar import config as configs
    from qstar.thoughts.read import read
    from qstar.thoughts.thinking import Thinks
    from qstar.thoughts.writing import generate

    if not isinstance(run.method, Thinks):
        raise ValueError(
            f"{run.path} was trained with {configs.given('method', run.method)}, which does not think: "
            "name a run of a method that does (qstar-train method=quiet_star)"
        )
    tokens = run.tokenizer.encode_whole(args.text)
    if len(tokens) + args.generate < 2:
        raise ValueError(
            f"the text has {len(tokens)} tokens, and the first has no thought before it: give a longer text"
        )
    model = (run.method, run.definition, run.params)
    read_key, write_key = jax.random.split(jax.random.key(args.seed))
    greedy = not args.sample
    reading = read(*model, tokens, read_key, greedy=greedy, num_thoughts=args.thoughts)
    if not args.generate:
        return reading
    written = generate(
        *model,
        [tokens],
        write_key,
        max_new_tokens=args.generate,
        temperature=args.temperature or 0.0,
        greedy_thoughts=greedy,
        stop=run.tokenizer.ends,
    )
    return written.extended(reading, 0)


def about(run: "Run", args: argparse.Namespace) -> str:
    """Which model thinks, and how."""
    kind = f"{args.thoughts} sampled, seed {args.seed}" if args.sample else "likeliest"
    return f"{run.path}, step {run.step} · thoughts of {run.method.thinking.thought_len} tokens, {kind}"


def show(run: "Run", args: argparse.Namespace) -> None:
    """Think, print and write the page."""
    from rich.console import Console

    from qstar.reports import page, terminal
    from qstar.training import console

    with console.phase("thinking", aside=True):
        reading = think(run, args)
    title = about(run, args)
    out = Console(highlight=False, markup=False, emoji=False, no_color=True) if args.no_color else console.console()
    out.print(title, style="dim", markup=False)
    out.print(terminal.show(reading, run.tokenizer))
    if not args.no_html:
        replaced = flags.replaced(args.html)
        args.html.write_text(page.page(reading, run.tokenizer, title), encoding="utf-8")
        out.print(f"\nThe same as a page, with the likeliest next tokens: {args.html}{replaced}", markup=False)


def main(arguments: list[str] | None = None) -> None:
    args = parse(arguments)
    from qstar.cli import entry

    with entry.errors():
        entry.prepare_jax()
        from qstar import runs
        from qstar.training import console

        with console.phase(f"loading the run {args.run}", aside=True):
            run = runs.load_run(runs.latest_thinker() if args.run == "latest" else args.run, args.step)
        show(run, args)


if __name__ == "__main__":
    main()
