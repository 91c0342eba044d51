"""Jobs in several processes, and processes that say what they measured."""

import os
import sys

import pytest

from qstar.runs import pool


def processors_of(job):
    """What a worker may use, in a line."""
    if job == "broken":
        raise ValueError("no such job")
    return f"{job}: {len(os.sched_getaffinity(0))}"


def test_every_job_is_carried_out_in_its_share_of_the_processors(capsys):
    pool.carry_out(processors_of, ["a", "b", "c"], 2)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("]")[0] for line in lines] == ["[1/3", "[2/3", "[3/3"]
    shares = {len(share) for share in pool.shares_of_processors(2)}
    assert {line.split("] ")[1].split(": ")[0] for line in lines} == {"a", "b", "c"}
    assert {int(line.split(": ")[1]) for line in lines} <= shares


def test_one_worker_is_this_process_and_begins_once(capsys):
    begun = []
    pool.carry_out(lambda job: f"{job} after {len(begun)}", ["a", "b"], 1, lambda: begun.append(1))
    assert capsys.readouterr().out == "[1/2] a after 1\n[2/2] b after 1\n"


def test_what_a_job_raises_is_raised():
    with pytest.raises(ValueError, match="no such job"):
        pool.carry_out(processors_of, ["broken"], 1)


def test_shares_have_every_processor_once(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 0, 1})
    assert pool.shares_of_processors(2) == [[0, 3], [1]]


def test_a_silent_a_failing_and_a_slow_process_are_distinguished(tmp_path, monkeypatch):
    monkeypatch.setattr(pool, "GRACE_S", 0.5)

    def measured(code, limit_s=20.0):
        return pool.measured([sys.executable, "-c", code], {"X": "1"}, tmp_path / "logs" / "log.txt", limit_s)

    say = "import os; print('\\nmeasured: {\"x\": ' + os.environ['X'] + '}')"
    done, silent = measured(say), measured("print('hello')")
    assert (done.status, done.result, done.error) == ("done", {"x": 1}, "")
    assert (silent.status, silent.result, silent.error) == ("failed", {}, "hello")
    assert measured(f"{say}; raise SystemExit(2)").status == "failed"
    assert measured("import time; time.sleep(60)", 0.3).status == "too slow"
    assert measured(f"{say}; import sys, time; sys.stdout.flush(); time.sleep(60)", 3).result == {"x": 1}  # stands
    torn = measured("import time; print('measured: {\"x', end='', flush=True); time.sleep(60)", 3)
    assert (torn.status, torn.result) == ("too slow", {})
