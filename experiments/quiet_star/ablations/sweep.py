"""Train every arm of every ablation with every seed, and evaluate it.

    python experiments/quiet_star/ablations/sweep.py [NAME ...] [--seeds 0 1 2] [--out runs/ablations] [--workers 1]

Finished runs are not repeated and interrupted ones resume, so the command can be given again. Arms that are the same
run, in one ablation or in several, are trained once. A run is evaluated in three ways on the same questions: without
thoughts, with its likeliest thoughts, with sampled ones; the answers lie in its directory in answers.jsonl. Then
`tables.py` makes the tables. Seeds come in order: after the first one there is something to see of everything.
"""

from pathlib import Path

from qstar.cli import entry, flags
from qstar.runs import ablation, pool


def main() -> None:
    parser = flags.parser(__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(ablation.shipped())}; or a .yaml file")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("runs/ablations"))
    parser.add_argument("--workers", type=int, default=1, help="processes, at most one a processor; 1 on accelerators")
    flags.overriding(parser, "--set", "overrides of the recipe of all arms")
    args = parser.parse_args()
    with entry.errors():
        ablations = [ablation.read(name) for name in args.names or ablation.shipped()]
        todo = ablation.jobs(ablations, args.seeds, args.out, args.set)
        pool.carry_out(ablation.work, todo, args.workers, entry.prepare_jax)


if __name__ == "__main__":
    main()
