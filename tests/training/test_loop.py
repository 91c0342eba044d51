import dataclasses
import io
import json
import re
import signal
import threading

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import resume_driver
import tiny
from rich.console import Console

from qstar.structs import Mean
from qstar.training import console, loop
from qstar.training.checkpoint import Checkpoints
from qstar.training.metrics import MetricLogger
from qstar.training.sources import Stream
from qstar.training.step import Step


@dataclasses.dataclass(frozen=True)
class Training:
    step: Step
    steps: int
    mesh: jax.sharding.Mesh | None = None


def fit(directory, step=None, state=None, *, steps, log_every=1, source=None, mesh=None, **options):
    return loop.fit(
        Training(step or resume_driver.make_step(mesh), steps, mesh),
        source or resume_driver.data(),
        resume_driver.new_state() if state is None else state,
        loop.Log(MetricLogger(directory), log_every, **options),
    )


def lines(directory):
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


def adding(change):
    """A jitted step of the tiny run whose (params, metrics) pass through `change(step, params, metrics)`."""
    inner = resume_driver.make_step()

    @jax.jit
    def step(state, batch):
        after, metrics = inner(state, batch)
        params, metrics = change(after.step, after.params, metrics)
        return after.replace(params=params), metrics

    return step


def test_state_is_that_of_the_steps_taken_one_by_one(tmp_path):
    step, expected, source = resume_driver.make_step(), resume_driver.new_state(), resume_driver.data()
    losses = []
    for _ in range(4):
        expected, metrics = step(expected, source.next())
        losses.append(float(metrics["loss"].sum))
    state = fit(tmp_path, steps=4)
    chex.assert_trees_all_equal(state.params, expected.params)
    chex.assert_trees_all_equal(state.opt_state, expected.opt_state)
    assert int(state.step) == 4
    assert [line["loss"] for line in lines(tmp_path)] == losses


def test_steps_are_counted_from_the_state(tmp_path):
    state = resume_driver.new_state().replace(step=jnp.int32(3))
    assert int(fit(tmp_path, state=state, steps=5).step) == 5
    assert [line["step"] for line in lines(tmp_path)] == [4, 5]


def test_finished_state_comes_back_without_a_step(tmp_path):
    state = resume_driver.new_state().replace(step=jnp.int32(5))
    assert fit(tmp_path, step=None, state=state, steps=5) is state
    assert not (tmp_path / "metrics.jsonl").exists()


def test_last_log_interval_is_written_though_it_is_short(tmp_path):
    counting = adding(lambda step, params, metrics: (params, {"number": Mean.of(step.astype(jnp.float32))}))
    fit(tmp_path, counting, steps=5, log_every=2)
    assert [(line["step"], line["number"]) for line in lines(tmp_path)] == [(2, 1.5), (4, 3.5), (5, 5.0)]


class Watched:
    """A metric's number that notes when it is fetched."""

    def __init__(self, events, step):
        self.events, self.step = events, step

    def __array__(self, dtype=None, copy=None):
        self.events.append(f"fetch {self.step}")
        return np.ones((), np.float32)


def test_metrics_are_fetched_after_the_next_step_is_dispatched(tmp_path):
    events, calls = [], iter(range(1, 100))

    def step(state, batch):
        number = next(calls)
        events.append(f"dispatch {number}")
        return state, {"loss": Mean(Watched(events, number), 1.0)}

    fit(tmp_path, step, steps=3)
    assert events == ["dispatch 1", "dispatch 2", "fetch 1", "dispatch 3", "fetch 2", "fetch 3"]


def test_hooks_run_at_their_steps_and_at_the_end_with_the_state_of_the_step(tmp_path):
    seen = []
    note = lambda name: lambda step, state: seen.append((name, step, int(state.step)))  # noqa: E731
    fit(tmp_path, steps=5, hooks=[loop.Hook(2, note("two")), loop.Hook(3, note("three"))])
    assert seen == [("two", 2, 2), ("three", 3, 3), ("two", 4, 4), ("two", 5, 5), ("three", 5, 5)]


def test_values_of_hooks_join_the_line_of_their_step(tmp_path):
    hook = loop.Hook(2, lambda step, state: {"dev/loss": jnp.float32(step / 2)})
    fit(tmp_path, steps=4, log_every=4, hooks=[hook])
    assert [(line["step"], line["dev/loss"]) for line in lines(tmp_path)] == [(2, 1.0), (4, 2.0)]


@pytest.mark.parametrize("name", ["loss", "grad_norm"])
def test_non_finite_metric_stops_the_run_and_names_the_last_good_checkpoint(name, tmp_path):
    bad = adding(lambda step, params, metrics: (params, {name: Mean.of(jnp.where(step == 5, jnp.nan, 1.0))}))
    with Checkpoints(tmp_path / "checkpoints", every=2, keep=5) as checkpoints:
        with pytest.raises(loop.NonFiniteLoss) as caught:
            fit(tmp_path, bad, steps=8, checkpoints=checkpoints)
        assert checkpoints.latest == 4
    assert f"step 5: {name} is nan; last good checkpoint: step 4 in {tmp_path / 'checkpoints'}" in str(caught.value)
    assert (caught.value.step, caught.value.what, caught.value.saved) == (5, name, 4)
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3, 4]


def test_step_with_a_non_finite_loss_is_not_saved_at_its_own_checkpoint(tmp_path):
    bad = adding(lambda step, params, metrics: (params, {"loss": Mean.of(jnp.where(step == 4, jnp.inf, 1.0))}))
    with Checkpoints(tmp_path / "checkpoints", every=2, keep=5) as checkpoints:
        with pytest.raises(loop.NonFiniteLoss, match="step 4: loss is inf; last good checkpoint: step 2"):
            fit(tmp_path, bad, steps=8, checkpoints=checkpoints)
        assert checkpoints.latest == 2


def test_weights_out_of_range_are_not_saved_though_the_loss_is_finite(tmp_path):
    def change(step, params, metrics):
        return {**params, "out": jnp.where(step == 3, jnp.inf, params["out"])}, {"loss": Mean.of(jnp.float32(1.0))}

    with Checkpoints(tmp_path / "checkpoints", every=3, keep=5) as checkpoints:
        with pytest.raises(loop.NonFiniteLoss, match="step 3: a weight is nan; no checkpoint was saved before it"):
            fit(tmp_path, adding(change), steps=8, checkpoints=checkpoints)
        assert checkpoints.latest is None


def test_checkpoints_are_saved_at_their_steps_and_at_the_end(tmp_path):
    with Checkpoints(tmp_path / "checkpoints", every=2, keep=5) as checkpoints:
        fit(tmp_path, steps=5, checkpoints=checkpoints)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["2", "4", "5"]


def test_step_is_compiled_once_on_a_mesh(tmp_path):
    mesh = resume_driver.make_mesh(4)
    step = resume_driver.make_step(mesh)
    state = jax.device_put(resume_driver.new_state(), jax.NamedSharding(mesh, jax.P()))
    with tiny.noting_compiled() as compiled:
        fit(tmp_path, step, state, steps=6, log_every=2, mesh=mesh, hooks=[loop.Hook(3, lambda step, state: None)])
    assert compiled.count("jit(step)") == 1


def test_rows_are_spread_over_the_mesh(tmp_path):
    mesh, places = resume_driver.make_mesh(4), []

    def step(state, batch):
        places.append([shard.data.shape for shard in batch.tokens.addressable_shards])
        return state, {"loss": Mean(1.0, 1.0)}

    fit(tmp_path, step, steps=1, mesh=mesh)
    assert places == [[(2, 4)] * 4]


def test_rows_that_do_not_divide_over_the_mesh_are_an_error(tmp_path):
    with pytest.raises(ValueError, match="a batch of 8 rows does not divide over data x fsdp = 3"):
        fit(tmp_path, steps=1, mesh=resume_driver.make_mesh(3))


def test_step_that_copies_to_the_device_unasked_is_an_error(tmp_path):
    inner = jax.jit(lambda state, batch, scale: (state, {"loss": Mean.of(scale.sum())}))
    with pytest.raises(Exception, match="Disallowed host-to-device transfer"):
        fit(tmp_path, lambda state, batch: inner(state, batch, np.ones(3, np.float32)), steps=1)


def test_data_that_ends_early_is_an_error(tmp_path):
    source = Stream(iter([resume_driver.example(0), resume_driver.example(1)]))
    with pytest.raises(ValueError, match="the data ended after step 2, expected 5 steps"):
        fit(tmp_path, steps=5, source=source)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_stops_after_the_step_and_gives_the_handlers_back(number, tmp_path):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    hook = loop.Hook(2, lambda step, state: signal.raise_signal(number))
    with pytest.raises(loop.Interrupted, match="interrupted after step 2; nothing was saved") as caught:
        fit(tmp_path, steps=5, hooks=[hook])
    assert (caught.value.step, caught.value.directory) == (2, None)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_signal_at_the_last_step_still_interrupts_what_follows(tmp_path):
    hook = loop.Hook(5, lambda step, state: signal.raise_signal(signal.SIGTERM))
    with Checkpoints(tmp_path / "checkpoints", every=2, keep=5) as checkpoints:
        with pytest.raises(loop.Interrupted, match="after step 5; saved in"):
            fit(tmp_path, steps=5, hooks=[hook], checkpoints=checkpoints)
        assert checkpoints.latest == 5


def test_signal_after_the_last_look_reaches_whoever_gets_the_handlers_back(tmp_path, monkeypatch):
    class Ending(console.Progress):
        def __exit__(self, *error):
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(console, "progress", lambda *_: Ending())
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background has it ignored
    try:
        with pytest.raises(KeyboardInterrupt):
            fit(tmp_path, steps=1)
    finally:
        signal.signal(signal.SIGINT, before)


def test_loop_runs_in_a_thread_that_may_not_hold_signal_handlers(tmp_path):
    states = []
    thread = threading.Thread(target=lambda: states.append(fit(tmp_path, steps=2)))
    thread.start()
    thread.join()
    assert int(states[0].step) == 2


def test_output_to_a_pipe_is_one_plain_line_per_log_interval(tmp_path, capsys):
    shown = {"weight": Mean.of(jnp.float32(0.25)), "loss": Mean.of(jnp.float32(1234.5)), "other": Mean.of(jnp.ones(()))}
    fit(tmp_path, adding(lambda step, params, metrics: (params, shown)), steps=5, log_every=2, description="lm [tiny]")
    found = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[:3] for line in found] == [
        ["lm [tiny] 2/5", "loss 1234", "weight 0.25"],
        ["lm [tiny] 4/5", "loss 1234", "weight 0.25"],
        ["lm [tiny] 5/5", "loss 1234", "weight 0.25"],
    ]
    assert all(re.fullmatch(r"[\d.e+]+ steps/s  \d:\d\d:\d\d left", line.split("  ", 3)[3]) for line in found)


def test_plain_lines_are_not_folded(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    console.console.cache_clear()
    console.PlainLines("a description of a run that is longer than the line", 0, 2, ()).interval(1, {})
    console.console.cache_clear()
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_terminal_shows_a_bar_with_the_values_of_the_newest_step(tmp_path, monkeypatch):
    screen = Console(file=io.StringIO(), force_terminal=True, force_interactive=True, width=120)
    monkeypatch.setattr(console, "console", lambda: screen)
    counting = adding(lambda step, params, metrics: (params, {"loss": Mean.of(step.astype(jnp.float32))}))
    fit(tmp_path, counting, steps=3, log_every=3, description="lm")
    last = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", screen.file.getvalue()).strip().split("\r")[-1].strip()
    assert re.fullmatch(r"lm .* 3/3 .* loss 3(  [\d.e+]+ steps/s.*)?", last)  # after three steps a speed may be known


def test_intervals_of_no_steps_are_refused(tmp_path):
    with pytest.raises(ValueError, match="hook every 0 steps"):
        loop.Hook(0, print)
    with pytest.raises(ValueError, match="log_every = 0: expected a positive number"):
        fit(tmp_path, steps=1, log_every=0)
