"""Everything that needs an accelerator, in order of value, within so many minutes.

    python experiments/accelerator/all.py --prepare FOLDER --gguf SmolLM2-135M-Instruct.Q4_1.gguf    # once, beforehand
    python experiments/accelerator/all.py --minutes 25 --data FOLDER [--out FOLDER] [--part a b ...]
    python experiments/accelerator/all.py --size tiny --minutes 5              # a rehearsal on any machine, no data

Every job is a process of its own: one that fails or takes too long is reported and skipped. Results are written as
they come, a line per job, into OUT/results.jsonl, and OUT/tables.md is rewritten after each. The command can be given
again: jobs that are done are not repeated, trainings resume from their checkpoints. Before it starts it prints what it
will do, how long each part should take, and what it skips to save time.
"""

import dataclasses
import json
import os
import sys
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent import futures
from dataclasses import dataclass
from pathlib import Path

import carry
import plan
import tables
from plan import Job

from qstar import files
from qstar.cli import flags
from qstar.reports import frames
from qstar.runs import pool

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


def affordable(jobs: Iterable[Job], seconds: float, together: int = 1) -> tuple[list[Job], list[Job]]:
    """Jobs that fit into the time by their estimates, taken in order; and those that do not."""
    taken, left_out = [], []
    for job in jobs:
        cost = job.seconds / (1 if job.timed else together)
        fits = cost <= seconds
        (taken if fits else left_out).append(job)
        seconds -= cost * fits
    return taken, left_out


def announced(taken: Sequence[Job], left_out: Sequence[Job]) -> str:
    """What will be done and what will not, part by part."""
    lines = []
    for part, title in plan.PARTS.items():
        now, later = ([job for job in jobs if job.part == part] for jobs in (taken, left_out))
        if now or later:
            minutes = sum(job.seconds for job in now) / 60
            said = f"  {part}  {title}: {len(now)} jobs, about {minutes:.1f} min"
            lines.append(said + (f"; left out: {', '.join(job.name for job in later)}" if later else ""))
    return "\n".join(lines)


def carried_out(job: Job, out: Path, limit_s: float) -> Outcome:
    """Run a job in a process of its own, its output in a file."""
    log = out / LOGS / f"{job.name.replace('/', '_').replace(' ', '_')}.txt"
    command = [sys.executable, str(HERE / "jobs.py"), job.kind, json.dumps(job.arguments)]
    return Outcome(job.name, job.part, **vars(pool.measured(command, job.environment, log, limit_s)))


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
    done = {outcome.job for outcome in outcomes(out) if outcome.status == "done"}
    waiting = [job for job in jobs if job.name not in done]
    print(f"{len(done)} of {len(jobs)} jobs are done; {minutes:g} minutes, {together} at a time:")
    print(announced(*affordable(waiting, 60 * minutes, together)), flush=True)
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
    files.append(out / RESULTS, [vars(outcome)])
    (out / TABLES).write_text(tables.markdown(outcomes(out), out), encoding="utf-8")
    said = f"{outcome.status} in {outcome.seconds:.0f} s (estimated {job.seconds:.0f})"
    print(f"[{job.part}] {job.name}: {said}" + (f": {outcome.error}" if outcome.error else ""), flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = flags.parser(__doc__)
    parser.add_argument("--minutes", type=float, default=25.0)
    parser.add_argument("--out", type=Path, default=Path("runs/accelerator"))
    parser.add_argument("--data", type=Path, help="what --prepare wrote")
    parser.add_argument("--together", type=int, default=1, help="jobs at a time, of those whose time is not measured")
    parser.add_argument("--part", nargs="+", choices=plan.PARTS, default=list(plan.PARTS))
    parser.add_argument("--size", choices=plan.SIZES, default="full", help="tiny: a rehearsal")
    parser.add_argument("--devices", type=int, default=0, help="so many CPU devices instead of accelerators")
    parser.add_argument("--plan", action="store_true", help="print what would be done, and do nothing")
    parser.add_argument("--show", type=Path, nargs="+", metavar="FOLDER", help="only print the tables of these results")
    parser.add_argument("--prepare", type=Path, metavar="FOLDER", help="only write what the machine needs")
    parser.add_argument("--gguf", type=Path, help="with --prepare: SmolLM2-135M's weights")
    parser.add_argument("--sources", type=Path, default=os.environ.get("QSTAR_DATA"), help="with --prepare: the data")
    args = parser.parse_args(arguments)
    if args.show:
        print(tables.markdown(outcomes(*args.show), *args.show))
        return 0
    if args.prepare:
        print(carry.prepare(args.prepare, args.gguf, args.sources))
        return 0
    if args.size == "full" and not args.data:
        parser.error("--data FOLDER is missing: what --prepare wrote (or --size tiny, which makes its own)")
    args.out.mkdir(parents=True, exist_ok=True)
    data = carry.unpacked(args.data, args.out / "data") if args.data else carry.tiny(args.out / "data")
    jobs = plan.jobs(args.size, data, args.out.resolve(), args.devices)
    jobs = [job for job in jobs if job.part in args.part]
    if args.plan:
        print(announced(*affordable(jobs, 60 * args.minutes, args.together)))
        return 0
    outcomes_now = run(jobs, args.out, args.minutes, together=args.together)
    print(f"\n{args.out / TABLES}")
    return int(any(outcome.status != "done" for outcome in outcomes_now))


if __name__ == "__main__":
    sys.exit(main())
