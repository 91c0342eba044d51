"""experiments/accelerator: its plan, what it carries, and all of its parts at tiny size on a CPU."""

import json
import sys
import time
from pathlib import Path

import jax
import pytest

from qstar import config as configs
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
    assert "hydra-core" in names and "gguf" in names
    assert not set(names) & set(carry.PRESENT)


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


def test_a_training_that_did_not_end_shows_how_far_it_came(tmp_path):
    folder = tmp_path / "grpo" / "1e-5" / "1"
    folder.mkdir(parents=True)
    shares = {"accuracy": 0.5, "accuracy_low": 0.4, "accuracy_high": 0.6}
    (folder / "evals.jsonl").write_text(json.dumps({"step": 20, "way": "none", "n": 10} | shares) + "\n")
    text = tables.markdown([], tmp_path)
    assert "| learning rate | seed | dev, 20 steps | test |" in text and "| 1e-5 | 1 | 0.500 |  |" in text
