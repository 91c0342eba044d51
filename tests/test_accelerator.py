"""experiments/accelerator: its plan, what it carries, and all of its parts at tiny size on a CPU."""

import json
import re
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import jax
import pytest

from qstar import config as configs
from qstar import files
from qstar.paths import ROOT

FOLDER = ROOT / "experiments" / "accelerator"
sys.path.insert(0, str(FOLDER))

import all as accelerator  # noqa: E402
import carry  # noqa: E402
import jobs  # noqa: E402
import plan  # noqa: E402
import tables  # noqa: E402
from all import Outcome  # noqa: E402
from plan import Job  # noqa: E402


def job(name, seconds, part="a", kind="device", timed=True, needs=()):
    return Job(part, name, kind, {}, seconds, timed=timed, needs=needs)


# --- the plan -----------------------------------------------------------------------------------------------------


def test_jobs_are_taken_in_order_of_value_while_there_is_time():
    first, large, last = job("first", 60), job("large", 600), job("last", 30)
    assert accelerator.affordable([first, large, last], 100) == ([first, last], [large])


def test_a_timed_job_runs_alone_and_the_others_share_the_device():
    timed, first, second = job("timed", 1), job("first", 1, timed=False), job("second", 1, timed=False)
    last = job("last", 1, timed=False, needs=("first", "second"))
    assert accelerator.next_of([timed, first], [], 2) is timed
    assert accelerator.next_of([first, second, last], [timed], 2) is None
    assert accelerator.next_of([second, last], [first], 2) is second
    assert accelerator.next_of([last, timed], [second], 2) is None  # last needs it, and nothing overtakes what is timed
    assert accelerator.next_of([last, second], [first], 1) is None
    assert accelerator.next_of([last], [], 2) is last
    assert accelerator.affordable([first, second, last], 1.5, 2) == ([first, second, last], [])


def test_names_of_jobs_are_unique_and_every_part_has_some(tmp_path):
    found = plan.jobs("full", tmp_path, tmp_path)
    assert len({one.name for one in found}) == len(found)
    names = [one.name for one in found]
    assert all(names.index(needed) < names.index(one.name) for one in found for needed in one.needs)
    assert {one.part for one in found} == set(plan.PARTS)
    assert {one.kind for one in found} == set(jobs.KINDS)


def done(out, *names, driver=None):
    out.mkdir(exist_ok=True)
    lines = [vars(Outcome(name, "a", "done", 1.0, {"driver": driver} if name == plan.NAMING else {})) for name in names]
    (out / accelerator.RESULTS).write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return out


def test_a_further_machine_does_what_the_earlier_ones_have_not_done(tmp_path):
    arms = [job(name, 1, timed=False) for name in ("plain", "pause", "other")]
    tests = job("paired tests", 1, timed=False, needs=("plain", "pause"))
    todo = [job(plan.NAMING, 1), *arms, tests]
    names = lambda *earlier: [one.name for one in accelerator.missing(todo, *earlier)]  # noqa: E731
    first, second = done(tmp_path / "1", plan.NAMING, "plain", "other"), done(tmp_path / "2", "pause")
    assert names() == [plan.NAMING, "plain", "pause", "other", "paired tests"]
    assert names(first, second) == [plan.NAMING, "plain", "pause", "paired tests"]  # an arm lies on one machine
    assert names(first, second, done(tmp_path / "3", "paired tests")) == [plan.NAMING]


def test_25_minutes_are_enough_for_what_no_machine_has_measured(tmp_path):
    whole = plan.jobs("full", tmp_path, tmp_path)
    left = accelerator.missing(whole, *(FOLDER / machine for machine in ("h100", "h200")))
    taken, _ = accelerator.affordable(left, 25 * 60, 3)
    begun = [one.name for one in taken]
    svamp = {f"star/svamp/{arm}/0" for arm in plan.STAR_ARMS}
    steps = {f"step/{shape}/lm/1024/minimal/cublas" for shape in ("135M", "1B", "7B")}
    assert begun[0] == plan.NAMING  # another machine may be another device
    assert {*svamp, *steps, "step/7B/quiet_star/1024/full/cublas", "grpo/3e-6/0", "grpo/3e-5/0"} <= set(begun)
    assert "generation/thoughts of 12" in begun and not any(name.startswith("mathematics/") for name in begun)


def test_a_part_takes_less_time_when_its_jobs_share_the_device():
    shared = [job(name, 60, timed=False) for name in ("first", "second")]
    assert "2 jobs, about 2.0 min" in accelerator.announced(shared, [])
    assert "2 jobs, about 1.0 min" in accelerator.announced(shared, [], 2)


def test_a_plan_writes_nothing_and_names_jobs_in_order(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert accelerator.main(["--plan", "--minutes", "3", "--part", "a"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[:3] == [["20", "s", "a", "device"], [*"40 s a attention of the text".split()],
                         [*"40 s a attention of the columns".split()]]  # fmt: skip
    assert not list(tmp_path.iterdir())


def test_every_training_of_the_full_plan_composes(tmp_path, monkeypatch):
    monkeypatch.setenv("QSTAR_DATA", str(tmp_path))
    settings = {}
    for one in plan.jobs("full", tmp_path, tmp_path):
        if one.kind in ("trained", "improved") and one.name.endswith("/1"):  # other seeds change nothing else
            command = {"trained": "train", "improved": "improve"}[one.kind]
            name = one.arguments["experiment_name"]
            settings[one.name] = configs.composed(command, [f"experiments={name}", *one.arguments["overrides"]])
    arms = [settings[f"mathematics/{arm}/1"] for arm in plan.ARMS if arm != "plain LM"]
    assert {(cfg.method.beta, cfg.method.reinforce_temperature, cfg.method.fill) for cfg in arms} == {
        (1e6, 3.0, "sampled"), (1e6, 1.0, "sampled"), (1.0, 1.0, "sampled"), (1e6, 3.0, "pause")
    }  # fmt: skip
    assert all((cfg.steps, cfg.seed, cfg.control) == (100, 1, False) for cfg in arms)
    star = [settings[f"star/sums/{arm}/1"].improve for arm in plan.STAR_ARMS if arm != "direct"]
    assert {(cfg.keep, cfg.hint) for cfg in star} == {
        ("right", "failures"), ("right", "never"), ("all", "failures"), ("all", "never")
    }  # fmt: skip
    assert {(cfg.temperature, cfg.samples) for cfg in star} == {(1.0, 2)}


def test_flags_of_all_jobs_stand_before_those_of_one(tmp_path, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_of_all=1")
    by = {one.name: one.environment.get("XLA_FLAGS", "") for one in plan.jobs("full", tmp_path, tmp_path)}
    quick = "--xla_of_all=1 --xla_gpu_enable_triton_gemm=false"
    assert by["mathematics/pause/0"] == by["step/1B/quiet_star/256/minimal/cublas"] == quick
    assert by["step/1B/quiet_star/256/minimal/triton"] == "--xla_of_all=1"
    for one in (name for name in by if name.startswith("step/")):
        assert by[one] == by[f"compiled/{one.removeprefix('step/')}"]  # or the cache would not have it


def test_tests_without_arms_fail_rather_than_report_nothing(tmp_path):
    with pytest.raises(ValueError, match="seed 0"):
        jobs.paired_tests(str(tmp_path), ["plain_LM", "pause"], 0)


def test_a_step_is_tried_with_half_the_rows_and_without_a_kernel_that_fails(monkeypatch):
    tried = []

    def taken(program, rows, length, steps):
        tried.append((rows, program.lm.attention))
        if program.lm.attention == "cudnn":
            raise ValueError("no such kernel here")
        if rows > 2:
            raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 80 GiB")
        return types.SimpleNamespace(rows=rows)

    monkeypatch.setattr(jobs.trial, "taken", taken)
    monkeypatch.setattr(jobs.trial, "rows_that_fit", lambda program, length, most_rows: most_rows)
    program = lambda *setting: types.SimpleNamespace(lm=types.SimpleNamespace(attention=setting[4]))  # noqa: E731
    monkeypatch.setattr(jobs, "program_of", program)
    setting = {"shape": "tiny", "method": "lm", "length": 8, "remat": "full", "dtype": "float32", "steps": 1}
    measured = jobs.step(**setting, attention="cudnn", most_rows=8)
    assert tried == [(8, "cudnn"), (8, "einsum"), (4, "einsum"), (2, "einsum")]
    assert (measured["rows"], measured["attention"]) == (2, "einsum")
    assert [tuple(one.values())[:2] for one in measured["left_out"]] == tried[:3]


# --- running ------------------------------------------------------------------------------------------------------


def test_a_failed_and_a_slow_job_are_reported_and_passed_over(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(accelerator.pool, "GRACE_S", 0.5)
    script = tmp_path / "jobs.py"
    script.write_text(
        "import sys, time\n"
        "if sys.argv[1] == 'slow': time.sleep(60)\n"
        "if sys.argv[1] == 'broken': sys.exit('no such kernel')\n"
        "print('measured: {\"devices\": 1}')\n"
    )
    monkeypatch.setattr(accelerator, "HERE", tmp_path)
    todo = [job("slow", 0.3, kind="slow"), job("broken", 5, kind="broken"), job("good", 5, part="h", kind="good")]
    found = {one.job: one for one in accelerator.run(todo, tmp_path / "out", minutes=1)}
    assert {name: one.status for name, one in found.items()} == {
        "slow": "too slow", "broken": "failed", "good": "done"
    }  # fmt: skip
    assert "no such kernel" in found["broken"].error
    assert found["good"].result == {"devices": 1}
    begun = time.monotonic()
    assert len(accelerator.run(todo[2:], tmp_path / "out", minutes=1)) == 3  # done: not repeated
    assert time.monotonic() - begun < 1
    assert "| broken | failed |" in (tmp_path / "out" / "tables.md").read_text()
    assert "1 of 1 jobs are done" in capsys.readouterr().out


def test_jobs_without_enough_time_are_left_out_and_named(tmp_path, capsys):
    assert accelerator.run([job("long", 3600)], tmp_path, minutes=1) == []
    assert "left out, too long for the time: long" in capsys.readouterr().out


def test_a_job_is_left_out_with_what_it_needs_and_done_in_a_later_call(tmp_path):
    def carry_out(job, out, limit_s):
        return Outcome(job.name, job.part, "done", 0.0, {})

    todo = [job("arm", 3600, timed=False), job("test of it", 1, timed=False, needs=("arm",)), job("other", 1)]
    assert [one.job for one in accelerator.run(todo, tmp_path, 1, carry_out)] == ["other"]
    assert {one.job for one in accelerator.run(todo, tmp_path, 90, carry_out)} == {"arm", "test of it", "other"}


@pytest.fixture
def refused(capsys, monkeypatch):
    """What the script says before it would start a job."""
    monkeypatch.setattr(accelerator, "run", lambda *_, **__: [])

    def error(*arguments):
        with pytest.raises(SystemExit):
            accelerator.main([*map(str, arguments)])
        return capsys.readouterr().err

    return error


def test_without_an_accelerator_only_a_rehearsal_is_begun(tmp_path, monkeypatch, refused):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert "expected an accelerator, jax finds cpu" in refused("--data", tmp_path, "--out", tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_results_of_another_machine_are_not_continued(tmp_path, monkeypatch, refused):
    out = done(tmp_path / "out", plan.NAMING, driver="H100, 580.1, 81559 MiB")
    monkeypatch.setattr(plan, "driver", lambda: "H200, 580.1, 143771 MiB")
    error = refused("--size", "tiny", "--out", out)
    assert "expected 'H100, 580.1, 81559 MiB', found 'H200" in error and f"--done {out}" in error


def test_one_call_at_a_time_writes_a_folder(tmp_path, refused):
    with files.locked(tmp_path / "out"):
        assert "is being written by process" in refused("--size", "tiny", "--out", tmp_path / "out")


def test_a_rehearsal_and_a_measurement_share_no_folder(tmp_path, monkeypatch, refused):
    (tmp_path / "carried").mkdir()
    (tmp_path / "carried" / carry.MANIFEST).write_text('{"piece.000": "0"}')
    carry.tiny(tmp_path / "out" / "data")
    monkeypatch.setattr(accelerator, "refuse_cpu", lambda: None)
    assert "another --data" in refused("--data", tmp_path / "carried", "--out", tmp_path / "out")
    (tmp_path / "out" / "data" / carry.MANIFEST).write_text('{"piece.000": "0"}')
    assert "another --data or --size" in refused("--size", "tiny", "--out", tmp_path / "out")


def test_a_full_disk_ends_the_call_with_what_was_recorded(tmp_path):
    script = (
        "import resource, sys\n"
        f"sys.path.insert(0, {str(FOLDER)!r})\n"
        "import all as accelerator\n"
        "from pathlib import Path\n"
        "def carry_out(job, out, limit_s):\n"
        "    if job.name == 'second':\n"
        "        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))\n"
        "    return accelerator.Outcome(job.name, job.part, 'done', 0.0, {})\n"
        "jobs = [accelerator.Job('a', name, 'device', {}, 1) for name in ('first', 'second', 'third')]\n"
        f"accelerator.run(jobs, Path({str(tmp_path / 'out')!r}), 1, carry_out)\n"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert ended.returncode == 1 and "cannot write" in ended.stderr and "Traceback" not in ended.stderr
    assert [one.job for one in accelerator.outcomes(tmp_path / "out")] == ["first"]


def test_a_job_whose_output_has_no_room_is_reported_as_failed(tmp_path):
    (tmp_path / accelerator.LOGS).write_text("a file where the folder should be")
    outcome = accelerator.carried_out(job("device", 5), tmp_path, 5)
    assert outcome.status == "failed" and accelerator.LOGS in outcome.error


def gone(process):
    """Whether a process ended, given ten seconds."""
    until = time.monotonic() + 10
    while time.monotonic() < until:
        try:
            if Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except FileNotFoundError:
            return True
        time.sleep(0.05)
    return False


@pytest.mark.skipif(sys.platform != "linux", reason="the signal is Linux's")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_job_outlives_the_call_and_it_goes_on_afterwards(tmp_path, number):
    """A job that was left over would hold the accelerator's memory; so would a process that the job started."""
    out = tmp_path / "out"
    path = f"import sys\nsys.path.insert(0, {str(FOLDER)!r})\n"
    (tmp_path / "inner.py").write_text("import os, sys, time\nprint(os.getpid(), file=sys.stderr)\ntime.sleep(60)\n")
    (tmp_path / "jobs.py").write_text(
        f"{path}import jobs\ncommand = [sys.executable, {str(tmp_path / 'inner.py')!r}]\n"
        "jobs.KINDS = {'device': lambda side: jobs.spawned(command, {})}\n"
        "jobs.main()\n"
    )
    (tmp_path / "call.py").write_text(
        f"{path}from pathlib import Path\nimport all as accelerator\n"
        f"accelerator.HERE = Path({str(tmp_path)!r})\n"
        f"accelerator.main(['--size', 'tiny', '--part', 'a', '--out', {str(out)!r}])\n"
    )
    command = [sys.executable, str(tmp_path / "call.py")]
    outer = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    log = out / accelerator.LOGS / "device.txt"
    until = time.monotonic() + 60
    while not (log.is_file() and log.read_text().endswith("\n")):
        assert time.monotonic() < until and outer.poll() is None
        time.sleep(0.05)
    started = log.read_text().split()[-1]
    job_of_it = Path(f"/proc/{started}/stat").read_text().rpartition(")")[2].split()[1]
    outer.send_signal(number)
    _, said = outer.communicate(timeout=20)
    assert gone(started) and gone(job_of_it)
    assert number == signal.SIGKILL or "the same command goes on from here" in said
    with files.locked(out):  # nothing holds the folder
        assert accelerator.outcomes(out) == []


def in_this_process(job, out, limit_s):
    result = jobs.KINDS[job.kind](**job.arguments)
    return Outcome(job.name, job.part, "done", 1.0, json.loads(json.dumps(result)))


@pytest.mark.slow  # a minute; what it is made of composes and is ordered, shown and carried in the others
def test_all_parts_run_at_tiny_size(tmp_path, monkeypatch):
    data = carry.tiny(tmp_path / "data")
    monkeypatch.setenv("QSTAR_DATA", str(data))
    monkeypatch.setenv("QSTAR_CACHE", str(tmp_path / "cache"))
    todo = [one for one in plan.jobs("tiny", data, tmp_path) if one.kind not in jobs.SPAWNING]
    found = accelerator.run(todo, tmp_path, minutes=30, carry_out=in_this_process)
    assert {one.part for one in found} == set(plan.PARTS) and len(found) == len(todo)
    text = (tmp_path / "tables.md").read_text()
    for title in ("The device", "Correctness", "Steps", "mathematical text", "Generation", "STaR", "GRPO", "Sharding"):
        assert f"## {title}" in text or f"{title}\n" in text, title
    assert f"{len(jax.devices())} x cpu" in text
    done = {one.job: one.result for one in found}
    assert done["logits against the CPU"]["highest"]["largest_difference"] == 0.0  # it is the CPU
    assert done["sharding/data"]["devices"] == len(jax.devices())
    assert [line["step"] for line in done["mathematics/beta 1e6 T 3/0"]["evaluations"]].count(2) > 0
    assert {one["against"] for one in done["mathematics/paired tests/0"]["comparisons"]} == {
        "plain_LM", "its own answers without thoughts"
    }  # fmt: skip
    kept = {path.relative_to(tmp_path).parts[0] for path in tmp_path.rglob("checkpoints")}
    assert kept == {"mathematics"}  # what the other trainings leave would fill a disk


# --- what is carried ----------------------------------------------------------------------------------------------


def test_pieces_come_back_as_they_were_and_damage_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr(carry, "PIECE_BYTES", 1000)
    sources = carry.tiny(tmp_path / "sources")
    (sources / "svamp").mkdir()
    (tmp_path / "weights.gguf").write_bytes(bytes(range(256)) * 20)
    carry.prepare(tmp_path / "pieces", tmp_path / "weights.gguf", sources)
    pieces = sorted((tmp_path / "pieces").glob("piece.*"))
    assert len(pieces) > 1 and all(piece.stat().st_size <= 1000 for piece in pieces)
    target = carry.unpacked(tmp_path / "pieces", tmp_path / "there")
    assert Path(carry.model(target)).read_bytes() == bytes(range(256)) * 20
    assert (target / "gsm8k" / "test.jsonl").read_text() == (sources / "gsm8k" / "test.jsonl").read_text()
    assert len((target / "sums" / "train.jsonl").read_text().splitlines()) > 100
    pieces[1].write_bytes(b"0" + pieces[1].read_bytes()[1:])
    with pytest.raises(ValueError, match=r"piece\.001"):
        carry.unpacked(tmp_path / "pieces", tmp_path / "elsewhere")
    pieces[1].unlink()
    with pytest.raises(FileNotFoundError, match=r"piece\.001"):
        carry.unpacked(tmp_path / "pieces", tmp_path / "elsewhere")


def test_wheels_name_what_is_imported_beyond_what_the_machine_has():
    names = [line.partition("==")[0] for line in carry.wheels()]
    assert {"hydra-core", "antlr4-python3-runtime", "jinja2", "markupsafe", "gguf", "tqdm"} <= set(
        names
    )  # and what these need
    assert not set(names) & {*carry.PRESENT, "jaxlib", "numpy", "scipy", "ml-dtypes"}  # jax brings these


def test_a_table_of_nothing_is_only_its_jobs():
    assert tables.markdown([]).strip() == "## Jobs"


def evaluated(out, arm, seed, step, ways, scores):
    folder = out / "mathematics" / arm / str(seed)
    folder.mkdir(parents=True)
    lines = [
        {"step": step, "task": task, "way": way, "nll": 7.0}
        | {f"{name}{end}": scores[way] for name in ("probability", "accuracy") for end in ("", "_low", "_high")}
        for way in ways for task in tables.TASKS
    ]  # fmt: skip
    (folder / "evals.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))


def test_results_of_two_machines_are_shown_together_and_the_last_one_counts(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    for seed, plain, mine in ((0, 0.1, 0.3), (1, 0.2, 0.5)):
        out = first if seed == 0 else second
        evaluated(out, "plain_LM", seed, 100, ["none"], {"none": plain})
        evaluated(out, "pause", seed, 100, ["none", "greedy"], {"none": mine, "greedy": mine + 0.1})
    evaluated(first, "pause", 1, 50, ["none"], {"none": 0.9})  # cut there, and done on the second machine
    for out, status in ((first, "failed"), (second, "done")):
        line = vars(Outcome("device", "a", status, 1.0, {}, "no device" if status == "failed" else ""))
        (out / accelerator.RESULTS).write_text(json.dumps(line) + "\n")
    outcomes = accelerator.outcomes(first, second)
    assert [one.status for one in outcomes] == [one.status for one in accelerator.outcomes(second, first)] == ["done"]
    text = tables.markdown([], first, second)
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| pause |")]
    over = next(row for row in rows if row[1:3] == ["greedy", "2"])
    mean, less_plain, less_none = over[3:6]
    assert mean.startswith("0.5000 ±") and less_plain.startswith("+0.3500 ±") and less_none.startswith("+0.1000 ±")
    assert "0.9000" not in text


def figures(row):
    """Cells that are numbers, with their spread or interval."""
    cells = [cell.strip().strip("*") for cell in row.strip().strip("|").split("|")]
    return [cell for cell in cells if re.fullmatch(r"[-+]?[\d.,]+( (± |to )[\d.,]+)?( \[.*\])?", cell)]


@pytest.mark.parametrize(
    ("page", "head", "machines", "count"),
    [
        ("accelerator", "| layout | devices |", ["cpu"], 3),
        ("benchmarks", "| shape | method | T | remat | products |", ["h100"], 10),
        ("benchmarks", "| SmolLM2-135M writes, rows |", ["h100"], 3),
        ("quiet_star/smollm2_math", "| GSM8K after 100 steps |", ["h100", "h200"], 9),
        ("quiet_star/smollm2_math", "| CommonsenseQA after 100 steps |", ["h100", "h200"], 9),
    ],
)
def test_figures_of_the_pages_are_those_of_the_records(page, head, machines, count, capsys):
    accelerator.main(["--show", *(str(FOLDER / machine) for machine in machines)])
    shown = [figures(line) for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    table = (ROOT / "experiments" / page / "README.md").read_text().partition(head)[2].partition("\n\n")[0]
    rows = [line for line in table.splitlines()[2:] if not line.startswith("| before training")]
    assert len(rows) == count
    assert [row for row in rows if len(figures(row)) < 3] == []
    assert [row for row in rows if not any(set(figures(row)) <= set(line) for line in shown)] == []


def test_times_stand_below_the_machine_that_has_them(capsys, tmp_path):
    step = {"rows": 1, "seconds": [1.0], "flops": 1, "tokens": 1, "thoughts": 0, "peak_flops": 1, "peak_bytes": 1}
    device = {"devices": 1, "platform": "", "driver": None, "jax": "", "memory_bytes": None, "peak_flops": {},
              "copy_bytes_per_s": 1.0}  # fmt: skip
    for kind, setting in (("H100", "1B"), ("H200", "7B")):
        (tmp_path / kind).mkdir()
        lines = [Outcome(plan.NAMING, "a", "done", 1.0, device | {"kind": kind}),
                 Outcome(f"step/{setting}/lm/256/full/cublas", "b", "done", 1.0, step)]  # fmt: skip
        (tmp_path / kind / accelerator.RESULTS).write_text("".join(f"{json.dumps(vars(one))}\n" for one in lines))
    accelerator.main(["--show", str(tmp_path / "H100"), str(tmp_path / "H200")])
    first, second = capsys.readouterr().out.partition("## Jobs")[0].split(f"# {tmp_path / 'H200'}\n")
    assert "1 x H100" in first and "| 1B |" in first and "H200" not in first and "| 7B |" not in first
    assert "1 x H200" in second and "| 7B |" in second and "| 1B |" not in second


def test_a_training_that_did_not_end_shows_how_far_it_came(tmp_path):
    folder = tmp_path / "grpo" / "1e-5" / "1"
    folder.mkdir(parents=True)
    shares = {"accuracy": 0.5, "accuracy_low": 0.4, "accuracy_high": 0.6}
    (folder / "evals.jsonl").write_text(json.dumps({"step": 20, "way": "none", "n": 10} | shares) + "\n")
    text = tables.markdown([], tmp_path)
    assert "| learning rate | seed | dev, 20 steps | test |" in text and "| 1e-5 | 1 | 0.500 |  |" in text
