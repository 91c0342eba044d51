"""A step of GRPO: time and memory, against TRL's GRPOTrainer.

    python experiments/star/smollm2/sums.py sums
    qstar-prepare models/smollm2 models/smollm2_hf --to huggingface
    python experiments/benchmarks/grpo.py --model models/smollm2_hf [--trl PYTHON] [--repeats 5] [--out grpo.jsonl]

Both sides sample eight answers to each of eight sums with three examples before them, up to 64 tokens at temperature 1,
ending where the model ends the text; reward them with the task's own grader; and take a step of GRPO (k3 KL to the
reference 0.04, sequence means of token means, AdamW) in float32. PYTHON is an interpreter with trl and with what
qstar requires; without it ours is measured alone. Each side is a process of its own, which sits idle while the other is
timed; they take turns; programs are compiled beforehand. Printed: medians and ranges, CPU seconds (which other programs
on the same cores have little influence on), tokens of an answer, the share of the time that goes into sampling and
grading, and peak memory above the interpreter's with its libraries.
"""

import argparse
import dataclasses
import itertools
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import step

SIDES = ("qstar", "trl")


def overrides(args: argparse.Namespace) -> list[str]:
    """Of the recipe, from which both sides take questions and settings."""
    sums = [f"task.{split}path={args.sums / name}.jsonl" for split, name in (("", "train"), ("dev_", "dev"))]
    sizes = [f"batch_size={args.questions * args.samples}", f"data.samples={args.samples}"]
    recipe = [f"experiments={args.experiment}", f"model.source={args.model}", *sums * bool(args.sums.is_dir())]
    return [*recipe, *sizes, f"data.max_new_tokens={args.new}", *args.set]


def unstopped(task: Any) -> Any:
    """The task without the texts that end an answer: TRL does not look for any."""
    kind = type(task)
    fields = {field.name: getattr(task, field.name) for field in dataclasses.fields(task) if field.init}
    return type(kind.__name__, (kind,), {"stop": ()})(**fields)


def serve(settings: list[str]) -> None:
    """Our side: answers every line of standard input with a step and what it took."""
    import jax
    import numpy as np

    from qstar import config as configs
    from qstar import sharding
    from qstar.cli import entry
    from qstar.runs import load, train
    from qstar.training import build, trial

    entry.prepare_jax()
    jax.block_until_ready(jax.numpy.zeros(()))
    before = step.peak()
    cfg = configs.composed("train", settings)
    cfg = dataclasses.replace(cfg, task=unstopped(cfg.task))
    loaded, mesh = load.initial_model(cfg.model, cfg.seed), trial.one_device()
    program = build.Program.of(
        cfg.method, loaded.lm, mesh, cfg.optim, cfg.steps, cfg.micro_batches, vocabulary=loaded.tokenizer
    )
    source, shapes = train.source(cfg, program, loaded, None, Path())
    with jax.set_mesh(mesh):
        program.compile(shapes)
        state = program.start(loaded.language_model, cfg.seed, load.carried_on(loaded, cfg.method))

        def take_step() -> dict:
            nonlocal state
            started = time.perf_counter()
            rollouts = source.next(state)
            sampled = time.perf_counter() - started
            state, metrics = program.step(state, jax.device_put(rollouts, sharding.named(mesh, "batch")))
            jax.block_until_ready((state, metrics))
            return {"sampling_s": sampled, "tokens": float(np.sum(rollouts.mask, axis=-1).mean())}

        step.answer(take_step, before)


def serve_trl(settings: list[str]) -> None:
    """The same by TRL, whose trainer takes a step for every line of standard input."""
    import datasets
    import torch
    import transformers
    import trl

    from qstar import config as configs
    from qstar.tasks import problem as problems
    from qstar.training import rollouts

    before = step.peak()
    cfg = configs.composed("train", settings)
    known = {problem.id: problem for problem in cfg.task.problems("train")}

    def right(completions: list[str], question: list[str], **_) -> list[float]:
        pairs = zip(completions, question, strict=True)
        return [float(problems.graded(cfg.task, known[name], text, True).correct) for text, name in pairs]

    generated: dict[str, float] = {}  # of the newest step

    class Turns(transformers.TrainerCallback):
        """Waits for a line before a step, and says afterwards what it took."""

        def __init__(self):
            self.count = 0

        def on_step_begin(self, *_, **__):
            if self.count and not sys.stdin.readline():
                raise SystemExit
            self.started, self.used = time.perf_counter(), time.process_time()

        def on_step_end(self, *_, **__):
            taken, cpu = time.perf_counter() - self.started, time.process_time() - self.used
            known = {"s": taken, "cpu_s": cpu, "peak": step.peak() - before, **generated}
            step.say(known if self.count else {"first_s": taken})
            self.count += 1

    class Trainer(trl.GRPOTrainer):
        """Times what is done before the gradient."""

        def _generate_and_score_completions(self, inputs):
            started = time.perf_counter()
            made = super()._generate_and_score_completions(inputs)
            generated["sampling_s"] = time.perf_counter() - started
            generated["tokens"] = made["completion_mask"].sum(1).float().mean().item()
            return made

    tokenizer = transformers.AutoTokenizer.from_pretrained(cfg.model.source, padding_side="left")
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token or tokenizer.convert_ids_to_tokens(0)
    prompts = {name: rollouts.prompt(cfg.data, cfg.task, problem, cfg.seed) for name, problem in known.items()}
    rows = [{"prompt": text, "question": name} for name, text in prompts.items()]
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            model=transformers.AutoModelForCausalLM.from_pretrained(cfg.model.source, dtype=torch.float32),
            processing_class=tokenizer,
            reward_funcs=right,
            train_dataset=datasets.Dataset.from_list(rows),
            callbacks=[Turns()],
            args=trl.GRPOConfig(
                output_dir=folder, per_device_train_batch_size=cfg.batch_size, num_generations=cfg.data.samples,
                max_completion_length=cfg.data.max_new_tokens, temperature=1.0, beta=cfg.method.kl_coef,
                loss_type="grpo", learning_rate=cfg.optim.lr, use_cpu=True, bf16=False, max_steps=10_000, report_to=[],
                save_strategy="no", logging_strategy="no", disable_tqdm=True, seed=0,
            ),
        )  # fmt: skip
        trainer.train()


def measured(commands: dict[str, list[str]], repeats: int) -> list[dict]:
    """A record for every step of every side; the sides take turns."""
    sides: dict[str, step.Side] = {}
    records = []
    try:
        if "qstar" in commands:
            step.Side(commands["qstar"]).close()  # compiling takes more memory than the step
        for name, command in commands.items():
            sides[name] = step.Side(command)
        for repeat, name in itertools.product(range(repeats), list(sides)):
            records.append({"side": name, "repeat": repeat} | sides[name].step())
    finally:
        for side in sides.values():
            side.close()
    return records


def table(records: list[dict]) -> str:
    from qstar.reports import tables

    names = ("by", "s a step", "range", "CPU s", "tokens of an answer", "sampling and grading", "peak MB")
    rows = []
    for side in SIDES:
        mine = [record for record in records if record["side"] == side]
        if mine:
            of = lambda name, mine=mine: [record[name] for record in mine]  # noqa: E731
            share = statistics.median(record["sampling_s"] / record["s"] for record in mine)
            peak, tokens, cpu = max(of("peak")) / 1e6, statistics.mean(of("tokens")), statistics.median(of("cpu_s"))
            cells = (f"{cpu:.1f}", f"{tokens:.1f}", f"{share:.2f}", f"{peak:,.0f}")
            rows.append((side, *tables.median_and_spread(of("s")), *cells))
    return tables.markdown(names, rows)


def parser() -> argparse.ArgumentParser:
    out = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    out.add_argument("--model", required=True, metavar="SOURCE", help="for TRL a folder in the format of Hugging Face")
    out.add_argument("--experiment", default="rl/smollm2_sums", help="the recipe")
    out.add_argument("--sums", type=Path, default=Path("sums"), metavar="FOLDER", help="that sums.py made")
    out.add_argument("--questions", type=int, default=8)
    out.add_argument("--samples", type=int, default=8, help="answers to each question")
    out.add_argument("--new", type=int, default=64, help="most tokens of an answer")
    out.add_argument("--trl", metavar="PYTHON", help="an interpreter with trl and what qstar requires")
    out.add_argument("--repeats", type=int, default=5)
    out.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="more overrides of the recipe")
    out.add_argument("--out", type=Path, help="JSON lines, a step each")
    out.add_argument("--serve", choices=SIDES, help=argparse.SUPPRESS)
    return out


def main() -> None:
    out = parser()
    args = out.parse_args()
    if args.serve:
        return {"qstar": serve, "trl": serve_trl}[args.serve](overrides(args))
    if args.trl and not (Path(args.model) / "config.json").is_file():
        out.error(
            f"--model {args.model}: there is no config.json in it, and TRL reads folders in the format of Hugging Face "
            f"only: qstar-prepare {args.model} FOLDER --to huggingface"
        )
    interpreters = {"qstar": sys.executable} | ({"trl": args.trl} if args.trl else {})
    commands = {name: [python, *sys.argv, "--serve", name] for name, python in interpreters.items()}
    records = measured(commands, args.repeats)
    if args.out:
        args.out.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    print(table(records), end="")


if __name__ == "__main__":
    main()
