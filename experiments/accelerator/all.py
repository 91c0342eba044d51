"""Everything that needs an accelerator, in order of value, within so many minutes.

    python experiments/accelerator/all.py --prepare FOLDER --gguf SmolLM2-135M-Instruct.Q4_1.gguf    # once, beforehand
    python experiments/accelerator/all.py --minutes 25 --data FOLDER [--out FOLDER] [--part a b ...]
    python experiments/accelerator/all.py --minutes 25 --data FOLDER --done FOLDER ...   # what is done in none of these
    python experiments/accelerator/all.py --size tiny --minutes 12             # a rehearsal on any machine, no data

Every job is a process of its own: one that fails or takes too long is reported and skipped. Results are written as
they come, a line per job, into OUT/results.jsonl, and OUT/tables.md is rewritten after each. The command can be given
again: jobs that are done are not repeated, trainings resume from their checkpoints. Jobs end with this process, however
that ends. Before it starts it prints what it will do, how long each part should take, and what it skips to save time.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent import futures
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import carry
import plan
import tables
from plan import Job

from qstar import files
from qstar.cli import flags
from qstar.reports import frames
from qstar.runs import pool
from qstar.settings import Count, Positive, Whole

HERE = Path(__file__).resolve().parent
RESULTS, TABLES, LOGS = "results.jsonl", "tables.md", "logs"
PATIENCE = 3  # times its estimate a job may take, where there is as much time
SPARED = 0.92  # of a GPU's memory, for all jobs that run at once


@dataclass(frozen=True)
class Outcome:
    """A line of the results."""

    job: str
    part: str
    status: str  # done, failed, too slow
    seconds: float
    result: dict
    error: str = ""


def outcomes(*outs: Path) -> list[Outcome]:
    """What was written so far. Of a job counts the newest line, in the last folder of several; first what is done."""
    newest: dict[str, Outcome] = {}
    for line in (line for out in outs for line in frames.lines(out / RESULTS)):
        outcome = Outcome(**line)
        if outcome.status == "done" or outcome.job not in newest or newest[outcome.job].status != "done":
            newest[outcome.job] = outcome
    return list(newest.values())


def done_in(*outs: Path) -> set[str]:
    """Names of the jobs that are done in these folders."""
    return {outcome.job for outcome in outcomes(*outs) if outcome.status == "done"}


def missing(jobs: Sequence[Job], *earlier: Path) -> list[Job]:
    """Jobs that these machines have not done, with those they need here; and what says which machine this is."""
    left = {job.name for job in jobs} - (done_in(*earlier) - {plan.NAMING})
    needed = {name for job in jobs if job.name in left for name in (job.name, *job.needs)}
    return [job for job in jobs if job.name in needed]


def affordable(jobs: Iterable[Job], seconds: float, together: int = 1) -> tuple[list[Job], list[Job]]:
    """Jobs that fit into the time by their estimates, taken in order; and those that do not."""
    taken, left_out = [], []
    for job in jobs:
        cost = _cost(job, together)
        fits = cost <= seconds
        (taken if fits else left_out).append(job)
        seconds -= cost * fits
    return taken, left_out


def _cost(job: Job, together: int) -> float:
    return job.seconds / (1 if job.timed else together)


def announced(taken: Sequence[Job], left_out: Sequence[Job], together: int = 1) -> str:
    """What will be done and what will not, part by part."""
    lines = []
    for part, title in plan.PARTS.items():
        now, later = ([job for job in jobs if job.part == part] for jobs in (taken, left_out))
        if now or later:
            minutes = sum(_cost(job, together) for job in now) / 60
            said = f"  {part}  {title}: {len(now)} jobs, about {minutes:.1f} min"
            lines.append(said + (f"; left out: {', '.join(job.name for job in later)}" if later else ""))
    return "\n".join(lines)


def carried_out(job: Job, out: Path, limit_s: float) -> Outcome:
    """Run a job in a process of its own, its output in a file."""
    log = out / LOGS / f"{job.name.replace('/', '_').replace(' ', '_')}.txt"
    command = [sys.executable, str(HERE / "jobs.py"), job.kind, json.dumps(job.arguments)]
    try:
        return Outcome(job.name, job.part, **vars(pool.measured(command, job.environment, log, limit_s)))
    except OSError as error:  # no room for its output, or no process to be had
        return Outcome(job.name, job.part, "failed", 0.0, {}, str(error))


def planned(jobs: Sequence[Job], seconds: float, together: int) -> str:
    """Jobs in the order in which they are taken, with their estimates; then what is announced."""
    taken, left_out = affordable(jobs, seconds, together)
    lines = [f"  {job.seconds:4.0f} s  {job.part}  {job.name}" for job in taken]
    return "\n".join([*lines, "", announced(taken, left_out, together)])


Runner = Callable[[Job, Path, float], Outcome]


def next_of(waiting: Sequence[Job], running: Collection[Job], together: int) -> Job | None:
    """The job to start now; None where something has to end first. A timed job runs alone."""
    if len(running) >= together or any(job.timed for job in running):
        return None
    pending = {job.name for job in (*waiting, *running)}
    for job in waiting:
        if pending.isdisjoint(job.needs):
            return None if job.timed and running else job
    return None


def run(
    jobs: Sequence[Job], out: Path, minutes: float, carry_out: Runner = carried_out, together: int = 1
) -> list[Outcome]:
    """Every job that there is time for, `together` at a time of those that are not timed; what is known at the end."""
    out.mkdir(parents=True, exist_ok=True)
    until = time.monotonic() + 60 * minutes
    done = done_in(out) & {job.name for job in jobs}
    waiting = [job for job in jobs if job.name not in done]
    print(f"{len(done)} of {len(jobs)} jobs are done; {minutes:g} minutes, {together} at a time:")
    print(announced(*affordable(waiting, 60 * minutes, together), together), flush=True)
    left_out: list[str] = []
    with futures.ThreadPoolExecutor(together) as pool_of:
        running: dict[futures.Future[Outcome], Job] = {}
        while waiting or running:
            job = next_of(waiting, running.values(), together)
            if job is None:
                for ended in futures.wait(running, return_when=futures.FIRST_COMPLETED).done:
                    _record(ended.result(), running.pop(ended), out)
                continue
            waiting.remove(job)
            remaining = until - time.monotonic()
            if job.seconds > remaining or not set(left_out).isdisjoint(job.needs):
                left_out.append(job.name)
                continue
            share = SPARED if job.timed or job.compiles else SPARED / together
            own = job.environment | {"XLA_PYTHON_CLIENT_MEM_FRACTION": f"{share:.3f}"}
            own |= {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"} if job.compiles else {}
            job = dataclasses.replace(job, environment=own)
            running[pool_of.submit(carry_out, job, out, min(PATIENCE * job.seconds, remaining))] = job
    if left_out:
        print("left out, too long for the time: " + ", ".join(left_out))
    return outcomes(out)


def _record(outcome: Outcome, job: Job, out: Path) -> None:
    try:
        files.append(out / RESULTS, [vars(outcome)])
        files.write(out / TABLES, tables.markdown(outcomes(out), out))
    except OSError as error:
        _end(f"{error}; stopped, for nothing more could be recorded")
    said = f"{outcome.status} in {outcome.seconds:.0f} s (estimated {job.seconds:.0f})"
    print(f"[{job.part}] {job.name}: {said}" + (f": {outcome.error}" if outcome.error else ""), flush=True)


def _end(message: str) -> NoReturn:
    """At once, without waiting for what runs: jobs end with this process."""
    print(f"\n{message}", file=sys.stderr, flush=True)
    os._exit(1)


def _interrupted(number: int, _: object) -> NoReturn:
    _end(f"stopped by {signal.Signals(number).name}; the same command goes on from here")


def refuse_other_machine(out: Path, driver: str | None) -> None:
    """Raises ValueError where the folder has the results of a device that is not the one here."""
    for outcome in outcomes(out):
        before = outcome.result.get("driver")
        if outcome.job == plan.NAMING and outcome.status == "done" and before != driver:
            raise ValueError(
                f"{out} holds results of another machine: expected {before!r}, found {driver!r}; give another --out, "
                f"and --done {out} to leave out what is done there"
            )


def refuse_cpu() -> None:
    """Raises ValueError where jax finds no accelerator: a CPU would take all of the time for the first steps."""
    command = [sys.executable, "-c", "import jax; print(jax.default_backend())"]  # what opens a device keeps it
    asked = subprocess.run(command, capture_output=True, text=True)
    found = asked.stdout.split()[-1:]
    if asked.returncode or found == ["cpu"]:
        said = "".join(found) or "no device"
        why = "".join(f" ({line})" for line in asked.stderr.strip().splitlines()[-1:])
        raise ValueError(
            f"--size full: expected an accelerator, jax finds {said}{why}; install jax for it "
            '(pip install "jax[cuda12]", "jax[tpu]"), or give --size tiny'
        )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = flags.parser(__doc__)
    parser.add_argument("--minutes", type=flags.number(Positive), default=25.0)
    parser.add_argument("--out", type=Path, help="runs/accelerator, or runs/accelerator_tiny, by default")
    parser.add_argument("--data", type=Path, help="what --prepare wrote")
    parser.add_argument(
        "--together", type=flags.number(Count), default=1, help="jobs at a time, of those that are not timed"
    )
    parser.add_argument("--part", nargs="+", choices=plan.PARTS, default=list(plan.PARTS))
    parser.add_argument("--done", type=Path, nargs="+", default=[], metavar="FOLDER", help="results not to be repeated")
    parser.add_argument("--size", choices=plan.SIZES, default="full", help="tiny: a rehearsal")
    parser.add_argument(
        "--devices", type=flags.number(Whole), default=0, help="so many CPU devices instead of accelerators"
    )
    parser.add_argument("--plan", action="store_true", help="print what would be done, job by job, and do nothing")
    parser.add_argument("--show", type=Path, nargs="+", metavar="FOLDER", help="only print the tables of these results")
    parser.add_argument("--prepare", type=Path, metavar="FOLDER", help="only write what the machine needs")
    parser.add_argument("--gguf", type=Path, help="with --prepare: SmolLM2-135M's weights")
    parser.add_argument("--sources", type=Path, default=os.environ.get("QSTAR_DATA"), help="with --prepare: the data")
    args = flags.parsed(parser, arguments)
    out = args.out or Path("runs") / ("accelerator_tiny" if args.size == "tiny" else "accelerator")
    if args.size == "full" and not (args.data or args.plan or args.show or args.prepare):
        parser.error("--data FOLDER is missing: what --prepare wrote (or --size tiny, which makes its own)")
    for folder in [*args.done, *(args.show or ())]:
        if not (folder / RESULTS).is_file():
            parser.error(f"{folder / RESULTS} is not there: expected a folder of results")
    with contextlib.ExitStack() as held:
        try:
            if args.show:
                print(_shown(*args.show))
                return 0
            if args.prepare:
                print(carry.prepare(args.prepare, args.gguf, args.sources))
                return 0
            if args.plan:
                if args.data:
                    carry.joined(args.data)
                todo = [job for job in _chosen(args, out) if job.name not in done_in(out)]
                print(planned(todo, 60 * args.minutes, args.together))
                return 0
            if args.size == "full" and not args.devices:
                refuse_cpu()
            refuse_other_machine(out, plan.driver())
            held.enter_context(files.locked(out))
            carry.unpacked(args.data, out / "data") if args.data else carry.tiny(out / "data")
        except (OSError, ValueError) as error:
            parser.error(str(error))
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, _interrupted)
        outcomes_now = run(_chosen(args, out), out, args.minutes, together=args.together)
    print(f"\n{out / TABLES}")
    return int(any(outcome.status != "done" for outcome in outcomes_now))


def _chosen(args: argparse.Namespace, out: Path) -> list[Job]:
    jobs = plan.jobs(args.size, out / "data", out.resolve(), args.devices)
    return missing([job for job in jobs if job.part in args.part], *args.done)


def _shown(*outs: Path) -> str:
    """Of each machine what it is and its times, and the trainings of all together."""
    machines = [(out, tables.of_machine(outcomes(out))) for out in outs]
    titled = [f"# {out}\n\n{text}" if len(outs) > 1 else text for out, text in machines if text]
    return "\n".join([*titled, tables.of_trainings(outcomes(*outs), *outs)])


if __name__ == "__main__":
    sys.exit(main())
