import json
import struct
import sys
import types

import jax.numpy as jnp
import pytest

from qstar.structs import Mean
from qstar.training.metrics import MetricLogger


def lines(directory, name="metrics.jsonl"):
    return [json.loads(line) for line in (directory / name).read_text().splitlines()]


def logger_at(directory, step, sinks=()):
    logger = MetricLogger(directory, sinks)
    logger.rewind(step)
    return logger


def test_sums_and_counts_are_added_and_divided_once(tmp_path):
    logger = logger_at(tmp_path, 0)
    logger.add({"loss": Mean(8.0, 2.0), "weight": Mean(1.0, 2.0)})
    logger.add({"loss": Mean(1.0, 1.0), "weight": Mean(0.0, 2.0)})
    assert logger.write(2) == {"loss": 3.0, "weight": 0.25}
    logger.add({"loss": Mean(5.0, 1.0)})
    assert logger.write(3) == {"loss": 5.0}


def test_line_holds_step_then_time_then_sorted_metrics_and_values_of_hooks(tmp_path):
    logger = logger_at(tmp_path, 0)
    logger.add({"weight": Mean(1.0, 2.0), "loss": Mean(jnp.float32(3.0), jnp.float32(2.0))})
    logger.write(10, {"dev/loss": 2.0})
    text = (tmp_path / "metrics.jsonl").read_text()
    time_s = json.loads(text)["time_s"]
    assert text == f'{{"step": 10, "time_s": {time_s}, "dev/loss": 2.0, "loss": 1.5, "weight": 0.5}}\n'


def test_lines_of_the_lost_tail_are_dropped(tmp_path):
    logger = logger_at(tmp_path, 0)
    for step in (2, 4, 6, 8):
        logger.write(step)
    logger_at(tmp_path, 5).write(6)
    assert [line["step"] for line in lines(tmp_path)] == [2, 4, 6]


def test_start_at_step_0_begins_a_new_file(tmp_path):
    logger_at(tmp_path, 0).write(2)
    logger_at(tmp_path, 0)
    assert (tmp_path / "metrics.jsonl").read_text() == ""


@pytest.mark.parametrize("torn", ['{"step": 4, "time_s": 2.0, "lo', '{"step": 4, "time_s": 2.0, "loss": 1.5}'])
def test_torn_last_line_is_removed(torn, tmp_path):
    whole = '{"step": 2, "time_s": 1.0, "loss": 3.5}\n'
    (tmp_path / "metrics.jsonl").write_text(whole + torn)
    logger_at(tmp_path, 4)
    assert (tmp_path / "metrics.jsonl").read_text() == whole


@pytest.mark.parametrize("bad", ["{nonsense", "[3]", '{"loss": 1.0}'])
def test_line_that_is_not_a_record_is_an_error_that_names_it(bad, tmp_path):
    good = '{"step": 2, "time_s": 1.0}'
    (tmp_path / "metrics.jsonl").write_text(f"{good}\n{bad}\n{good}\n")
    with pytest.raises(ValueError, match=r"metrics\.jsonl, line 2: .*remove the line"):
        logger_at(tmp_path, 4)


def test_log_interval_open_at_a_save_is_taken_up_again(tmp_path):
    logger = logger_at(tmp_path, 0)
    logger.add({"loss": Mean(1.0, 1.0)})
    logger.mark(1)
    logger.add({"loss": Mean(0.1, 3.0)})
    logger.mark(2)
    logger.add({"loss": Mean(100.0, 1.0)})  # step 3: lost, done again below
    logger.mark(3)
    resumed = logger_at(tmp_path, 2)
    resumed.add({"loss": Mean(2.9, 1.0)})
    assert resumed.write(3) == {"loss": 0.8}
    assert [mark["step"] for mark in lines(tmp_path, "metrics_open.jsonl")] == [1, 2]


def test_log_interval_of_another_save_is_not_taken_up(tmp_path):
    logger = logger_at(tmp_path, 0)
    logger.add({"loss": Mean(100.0, 1.0)})
    logger.mark(1)
    resumed = logger_at(tmp_path, 2)
    resumed.add({"loss": Mean(3.0, 1.0)})
    assert resumed.write(3) == {"loss": 3.0}


def test_clock_continues_where_the_kept_part_of_the_run_stopped(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 2, "time_s": 50.0}\n{"step": 4, "time_s": 900.0}\n')
    (tmp_path / "metrics_open.jsonl").write_text('{"step": 3, "time_s": 70.0, "sums": {}}\n')
    logger_at(tmp_path, 3).write(4)
    assert 70.0 <= lines(tmp_path)[-1]["time_s"] < 80.0


def test_unknown_sink_is_refused(tmp_path):
    with pytest.raises(ValueError, match="'comet': choose from tensorboard, wandb"):
        MetricLogger(tmp_path, ["comet"])


@pytest.mark.parametrize(("sink", "package"), [("tensorboard", "tensorboardX"), ("wandb", "wandb")])
def test_sink_without_its_package_names_the_extra_to_install(sink, package, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)  # what an import of a missing package finds
    with pytest.raises(ModuleNotFoundError, match=rf"needs the package {package}: pip install '\.\[{sink}\]'"):
        MetricLogger(tmp_path, [sink])


def scalars(directory):
    """(step, name, value) of every scalar in the event files, oldest file first."""
    event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")
    found = []
    for path in sorted((directory / "tensorboard").iterdir()):
        data, at = path.read_bytes(), 0
        while at < len(data):
            (size,) = struct.unpack_from("<Q", data, at)
            event = event_pb2.Event.FromString(data[at + 12 : at + 12 + size])
            found += [(event.step, value.tag, value.simple_value) for value in event.summary.value]
            found += [(event.step, "purged", 0.0)] if event.HasField("session_log") else []
            at += 12 + size + 4
    return found


def test_tensorboard_gets_the_scalars_and_hides_the_lost_tail(tmp_path):
    pytest.importorskip("tensorboardX")
    logger = logger_at(tmp_path, 0, ["tensorboard"])
    logger.write(2, {"loss": 3.5})
    logger.write(4, {"loss": 2.5})
    logger.close()
    before = scalars(tmp_path)
    assert [one for one in before if one[1] == "loss"] == [(2, "loss", 3.5), (4, "loss", 2.5)]
    with logger_at(tmp_path, 2, ["tensorboard"]) as resumed:
        resumed.write(4, {"loss": 1.5})
    after = scalars(tmp_path)
    assert (3, "purged", 0.0) in after and (4, "loss", 1.5) in after


def test_wandb_run_keeps_its_id_over_a_resume(tmp_path, monkeypatch):
    calls = []

    class Run:
        def log(self, values, step):
            calls.append((step, values))

        def finish(self):
            calls.append("finished")

    def init(**settings):
        calls.append(settings)
        return Run()

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=init))
    with logger_at(tmp_path, 0, ["wandb"]) as logger:
        logger.write(2, {"loss": 3.5})
    with logger_at(tmp_path, 2, ["wandb"]) as logger:
        logger.write(4, {"loss": 2.5})
    opened, first, _, reopened, second, last = calls
    assert opened == reopened and opened["resume"] == "allow" and len(opened["id"]) == 8
    assert opened["name"] == tmp_path.name
    assert (first, second, last) == ((2, {"loss": 3.5}), (4, {"loss": 2.5}), "finished")
