import errno
import json
import os
import shutil
import subprocess
import sys
import textwrap
import threading

import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import struct
from jax.sharding import PartitionSpec

from qstar import sharding
from qstar.structs import TrainState
from qstar.training import checkpoint
from qstar.training.checkpoint import Checkpoints
from qstar.training.sources import Stream

TX = optax.adamw(1e-3)


def params():
    return {"embedding": jnp.arange(64.0).reshape(16, 4), "blocks": {"query": jnp.ones((2, 4, 8)) / 3}}


def state(step, weights=None):
    weights = params() if weights is None else weights
    return TrainState(jnp.asarray(step), weights, TX.init(weights), jax.random.key(7))


def abstract(tree, place=None):
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place or leaf.sharding), tree
    )


def data():
    """Batches that name their place in the stream: batch k is [2k, 2k + 1]."""
    return Stream(iter(grain.MapDataset.range(1000).batch(2).to_iter_dataset()))


def advance(source, count):
    for _ in range(count):
        source.next()
    return source


def same(a, b):
    """Trees equal bit by bit, keys compared by their bits."""

    def raw(leaf):
        return jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf

    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(raw(x), raw(y)), a, b)


def test_restored_state_equals_the_saved_one_and_the_data_continue(tmp_path):
    with Checkpoints(tmp_path, every=2, keep=3) as saver:
        assert saver.latest is None
        assert saver.save(4, state(4), advance(data(), 4))
    with Checkpoints(tmp_path, every=2, keep=3) as saver:
        assert saver.latest == 4
        source = data()
        restored = saver.restore(abstract(state(0)), source)
    same(restored, state(4))
    assert jnp.issubdtype(restored.key.dtype, jax.dtypes.prng_key)
    np.testing.assert_array_equal(source.next(), [8, 9])


def test_a_state_saved_before_a_part_of_it_existed_is_restored_without_it(tmp_path):
    @struct.dataclass
    class Earlier:
        step: jax.Array
        params: dict
        opt_state: tuple
        key: jax.Array
        frozen: dict | None = None  # what every save leaves out

    now = state(4)
    with Checkpoints(tmp_path, every=2, keep=3) as saver:
        saver.save(4, Earlier(now.step, now.params, now.opt_state, now.key), advance(data(), 4))
        restored = saver.restore(abstract(state(0)), data())
    same(restored, now)
    assert restored.ema is None and restored.reference is None


def test_what_happens_after_save_returns_does_not_reach_the_disk(tmp_path):
    weights = {"w": jnp.arange(300_000.0)}
    source = advance(data(), 1)
    wipe = jax.jit(lambda tree: jax.tree.map(jnp.zeros_like, tree), donate_argnums=0)
    with Checkpoints(tmp_path, every=1, keep=1) as saver:
        saver.save(1, state(1, weights), source)
        jax.block_until_ready(wipe(weights))
        advance(source, 5)
        restored = saver.load_params()
        again = data()
        saver.restore(abstract(state(1, {"w": jnp.zeros(300_000)})), again)
    np.testing.assert_array_equal(restored["w"], np.arange(300_000.0))
    np.testing.assert_array_equal(again.next(), [2, 3])


def test_saves_fall_on_multiples_and_only_the_newest_are_kept(tmp_path):
    with Checkpoints(tmp_path, every=2, keep=2) as saver:
        saved = [saver.save(step, state(step), data()) for step in range(1, 8)]
        assert saved == [False, True, False, True, False, True, False]
        assert saver.latest == 6
        assert saver.save(7, state(7), data(), force=True)
        assert not saver.save(7, state(7), data(), force=True)
    assert sorted(os.listdir(tmp_path)) == ["6", "7"]


def test_no_thread_remains_after_a_save(tmp_path):
    with Checkpoints(tmp_path, every=1, keep=1) as saver:
        saver.save(1, state(1), data())
        saver.wait()
        before = threading.active_count()
        for step in range(2, 6):
            saver.save(step, state(step), data())
        saver.wait()
        assert threading.active_count() == before


def test_an_older_step_can_be_restored(tmp_path):
    with Checkpoints(tmp_path, every=1, keep=2) as saver:
        for step in (1, 2):
            saver.save(step, state(step), data())
        assert int(saver.restore(abstract(state(0)), data(), step=1).step) == 1
        with pytest.raises(FileNotFoundError, match=r"has no checkpoint of step 5; there are \[1, 2\]"):
            saver.restore(abstract(state(0)), data(), step=5)


def test_eight_devices_restore_onto_one_and_back(tmp_path):
    mesh = sharding.make_mesh(sharding.MeshConfig(data=1, fsdp=4, tensor=2))
    spread = jax.sharding.NamedSharding(mesh, PartitionSpec("fsdp"))
    one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    weights = {"w": jnp.arange(64.0).reshape(16, 4)}
    with Checkpoints(tmp_path, every=1, keep=2) as saver:
        saver.save(1, state(1, jax.device_put(weights, spread)), data())
        alone = saver.restore(abstract(state(0, weights), one), data())
        assert alone.params["w"].sharding == one
        saver.save(2, alone, data())
        expected = abstract(state(0, weights), one)
        expected = expected.replace(params=abstract(weights, spread))
        again = saver.restore(expected, data(), step=2)
    assert again.params["w"].sharding == spread
    np.testing.assert_array_equal(np.asarray(again.params["w"]), np.arange(64.0).reshape(16, 4))


def saved_by_two(directory, positions):
    """A checkpoint of step 4 as two processes leave it that stood at these places of the data."""
    with Checkpoints(directory, every=2, keep=3) as saver:
        saver.save(4, state(4), advance(data(), 4))
    folder = directory / "4" / "data"
    (folder / "process_0-of-1.json").unlink()
    for index, position in enumerate(positions):
        (folder / f"process_{index}-of-2.json").write_text(json.dumps({"next_index": position}))
    checkpoint.seal(directory / "4")


def test_what_two_processes_saved_continues_in_one(tmp_path):
    saved_by_two(tmp_path, (4, 4))
    source = data()
    with Checkpoints(tmp_path, every=2, keep=3) as saver:
        same(saver.restore(abstract(state(0)), source), state(4))
    np.testing.assert_array_equal(source.next(), [8, 9])


def test_processes_that_stood_at_different_places_are_refused(tmp_path):
    saved_by_two(tmp_path, (4, 5))
    with Checkpoints(tmp_path, every=2, keep=3) as saver:
        with pytest.raises(ValueError, match=r"saved by 2 processes that stood at different places .* this run has 1"):
            saver.restore(abstract(state(0)), data())


def test_parameters_alone_come_as_numpy(tmp_path):
    with Checkpoints(tmp_path, every=1, keep=1) as saver:
        saver.save(1, state(1), data())
        loaded = saver.load_params()
    assert isinstance(loaded["embedding"], np.ndarray)
    same(loaded, jax.tree.map(np.asarray, params()))


def test_an_empty_directory_says_that_nothing_was_committed(tmp_path):
    with Checkpoints(tmp_path, every=1, keep=1) as saver:
        for load in (lambda: saver.restore(abstract(state(0)), data()), saver.load_params):
            with pytest.raises(FileNotFoundError, match="holds no committed checkpoint; is it the checkpoints folder"):
                load()


KILLED = """
    import os, sys, jax, numpy as np
    import test_checkpoint as here
    from orbax.checkpoint._src.path import atomicity

    async def die(self):
        os.kill(os.getpid(), 9)

    with here.Checkpoints(sys.argv[1], every=1, keep=1) as saver:
        saver.save(1, here.state(1), here.data())
        saver.wait()
        atomicity.AtomicRenameTemporaryPath.finalize = die
        saver.save(2, here.state(2), here.data())
        saver.wait()
"""


def test_a_save_killed_before_its_commit_is_ignored_and_can_be_repeated(tmp_path):
    here = os.path.dirname(__file__)
    env = os.environ | {"PYTHONPATH": os.pathsep.join([here, os.path.join(here, "..", "..")])}
    run = subprocess.run([sys.executable, "-c", textwrap.dedent(KILLED), tmp_path], env=env, capture_output=True)
    assert run.returncode == -9, run.stderr.decode()
    assert len(os.listdir(tmp_path)) == 2  # step 1, kept although keep=1, and the remains of step 2
    with Checkpoints(tmp_path, every=1, keep=1) as saver:
        assert saver.latest == 1
        assert int(saver.restore(abstract(state(0)), data()).step) == 1
        assert saver.save(2, state(2), data())
        assert saver.latest == 2
    assert os.listdir(tmp_path) == ["2"]


def test_a_checkpoint_of_another_model_is_refused_with_the_differences(tmp_path):
    with Checkpoints(tmp_path, every=1, keep=1) as saver:
        saver.save(1, state(1), data())
        other = {"embedding": jnp.zeros((16, 5)), "head": jnp.zeros(3)}
        with pytest.raises(ValueError) as error:
            saver.restore(abstract(state(0, other)), data())
    text = str(error.value)
    assert "missing params/head (3,)" in text
    assert "unexpected params/blocks/query (2, 4, 8)" in text
    assert "params/embedding is (16, 4), expected (16, 5)" in text


def test_a_checkpoint_of_another_optimiser_is_refused(tmp_path):
    with Checkpoints(tmp_path, every=1, keep=1) as saver:
        saver.save(1, state(1), data())
        sgd = state(1).replace(opt_state=optax.sgd(0.1).init(params()))
        with pytest.raises(ValueError, match=r"unexpected opt_state/0/mu/embedding \(16, 4\)"):
            saver.restore(abstract(sgd), data())


def test_a_damaged_checkpoint_is_named(tmp_path):
    with Checkpoints(tmp_path, every=1, keep=1) as saver:
        saver.save(1, state(1), data())
        saver.wait()
        shutil.rmtree(tmp_path / "1" / "state")
        with pytest.raises(ValueError, match=r"/1 is .*damaged"):
            saver.restore(abstract(state(0)), data())


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """Checkpoints of the steps 1, 2 and 3, in a folder whose name a shell would take apart."""
    directory = tmp_path_factory.mktemp("run") / "it's a=b, c" / "checkpoints"
    with Checkpoints(directory, every=1, keep=3) as saver:
        for step in (1, 2, 3):
            saver.save(step, state(step), advance(data(), step))
    return directory


def contents(checkpoint_directory):
    """All files but the seal."""
    return sorted(file for file in checkpoint_directory.rglob("*") if file.is_file() and file.name != checkpoint.SEAL)


def harm(file, how):
    whole = file.read_bytes()
    if how == "gone":
        return file.unlink()
    if how == "flipped":
        middle = len(whole) // 2
        return file.write_bytes(whole[:middle] + bytes([whole[middle] ^ 4]) + whole[middle + 1 :])
    return file.write_bytes({"emptied": b"", "cut": whole[: len(whole) // 2], "longer": whole + b"\0"}[how])


@pytest.mark.parametrize("how", ["flipped", "emptied", "cut", "longer", "gone"])
def test_whatever_file_of_a_checkpoint_is_damaged_is_named(three, tmp_path, how):
    names = [file.relative_to(three / "3") for file in contents(three / "3")]
    assert len(names) > 8
    for number, name in enumerate(names):
        copy = shutil.copytree(three / "3", tmp_path / str(number))
        assert checkpoint.damage(copy) == ""
        harm(copy / name, how)
        assert checkpoint.damage(copy).startswith(f"{name} ")


@pytest.mark.parametrize("also", [(), (2,), (1, 2)])
def test_the_command_that_is_advised_leads_to_the_newest_checkpoint_that_is_whole(three, tmp_path, also):
    directory = shutil.copytree(three.parent, tmp_path / "it's a=b, c") / "checkpoints"
    for step in (3, *also):
        harm(max(contents(directory / str(step)), key=lambda file: file.stat().st_size), "flipped")
    whole = {(): 2, (2,): 1, (1, 2): None}[also]
    for load in (lambda saver: saver.restore(abstract(state(0)), data()), lambda saver: saver.load_params()):
        with Checkpoints(directory, every=1, keep=3) as saver, pytest.raises(checkpoint.Damaged) as error:
            load(saver)
        assert (error.value.path, error.value.whole) == (directory / "3", whole)
    subprocess.run(["sh", "-c", str(error.value).splitlines()[-1]], check=True)
    with Checkpoints(directory, every=1, keep=3) as saver:
        assert saver.latest == whole
        if whole:
            same(saver.restore(abstract(state(0)), data()), state(whole))
    assert (directory.parent / "damaged_checkpoint_3" / checkpoint.SEAL).is_file()  # nothing is lost


def test_a_seal_that_is_damaged_is_named_and_one_that_is_not_there_is_not_needed(three, tmp_path):
    directory = shutil.copytree(three, tmp_path / "checkpoints")
    (directory / "3" / checkpoint.SEAL).write_text('{"state/')
    with Checkpoints(directory, every=1, keep=3) as saver:
        with pytest.raises(checkpoint.Damaged, match=r"/3 is a damaged checkpoint: checksums.json cannot be read"):
            saver.load_params()
        (directory / "3" / checkpoint.SEAL).unlink()  # as earlier versions left it
        same(saver.restore(abstract(state(0)), data()), state(3))


@pytest.mark.parametrize("how", ["emptied", "cut"])
@pytest.mark.parametrize("name", ["data/process_0-of-1.json", "state/_METADATA", "state/array_metadatas/process_0"])
def test_damage_to_a_checkpoint_of_an_earlier_version_is_named_as_well(three, tmp_path, name, how):
    directory = shutil.copytree(three, tmp_path / "checkpoints")
    (directory / "3" / checkpoint.SEAL).unlink()
    harm(directory / "3" / name, how)
    with Checkpoints(directory, every=1, keep=3) as saver:
        with pytest.raises(checkpoint.Damaged, match=r"/3 is a damaged checkpoint: .* .* step 2") as error:
            saver.restore(abstract(state(0)), data())
    assert error.value.whole == 2


def test_parameters_that_were_altered_are_refused(tmp_path):
    checkpoint.save_params(tmp_path / "params", params())
    harm(max(contents(tmp_path / "params"), key=lambda file: file.stat().st_size), "flipped")
    with pytest.raises(checkpoint.Damaged, match=r"params is a damaged checkpoint: .* holds other bytes"):
        checkpoint.load_params(tmp_path / "params")


LIMITED = """
    import resource, sys
    import test_checkpoint as here
    from qstar.training.checkpoint import Checkpoints

    with Checkpoints(sys.argv[1], every=1, keep=1) as saver:
        saver.save(1, here.state(1), here.data())
        saver.wait()
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        large = {"w": here.jax.random.normal(here.jax.random.key(0), (100_000,))}
        try:
            saver.save(2, here.state(2, large), here.data())
            saver.wait()
        except OSError as error:
            print(error.errno, error.strerror)
        print(saver.latest)
"""


def test_a_limit_on_the_size_of_files_names_the_last_good_checkpoint(tmp_path):
    here = os.path.dirname(__file__)
    env = os.environ | {"PYTHONPATH": os.pathsep.join([here, os.path.join(here, "..", "..")])}
    command = [sys.executable, "-c", textwrap.dedent(LIMITED), tmp_path]
    run = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    said, latest = run.stdout.splitlines()
    assert said.startswith("27 ") and "ulimit -f" in said and "the last good checkpoint is step 1" in said
    assert latest == "1"


@pytest.mark.parametrize("again", [False, True])
def test_a_folder_that_was_deleted_is_named(tmp_path, again):
    with pytest.raises(FileNotFoundError, match=rf"{tmp_path}/checkpoints is not there; was it deleted"):
        with Checkpoints(tmp_path / "checkpoints", every=1, keep=1) as saver:
            saver.save(1, state(1), data())
            saver.wait()
            shutil.rmtree(tmp_path / "checkpoints")
            if again:  # as a save in flight does
                (tmp_path / "other").mkdir()
                (tmp_path / "other").rename(tmp_path / "checkpoints")
            saver.save(2, state(2), data())
    assert not list(tmp_path.glob("checkpoints/*"))


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        # As the array writer words it.
        ValueError("RESOURCE_EXHAUSTED: Failed to write 4096 bytes: No space left on device [os_error_code='28']"),
    ],
)
def test_a_full_disk_names_the_last_good_checkpoint_and_keeps_it(tmp_path, monkeypatch, error):
    from orbax.checkpoint._src.path import atomicity

    async def full(self):
        raise error

    with Checkpoints(tmp_path, every=1, keep=1) as saver:
        saver.save(1, state(1), data())
        assert saver.latest == 1
        with monkeypatch.context() as disk:
            disk.setattr(atomicity.AtomicRenameTemporaryPath, "finalize", full)
            saver.save(2, state(2), data())
            with pytest.raises(OSError, match=r"the disk is full: .* the last good checkpoint is step 1") as caught:
                saver.wait()
        assert caught.value.errno == errno.ENOSPC
        assert saver.latest == 1
        assert int(saver.restore(abstract(state(0)), data()).step) == 1
        saver.save(3, state(3), data())
        assert saver.latest == 3
    assert "1" not in os.listdir(tmp_path)


def test_a_disk_that_is_full_already_is_found_before_the_save_begins(tmp_path, monkeypatch):
    def full(dir):
        raise OSError(errno.ENOSPC, "No space left on device", str(dir))

    with Checkpoints(tmp_path, every=2, keep=1) as saver:
        monkeypatch.setattr(checkpoint.tempfile, "TemporaryFile", full)
        assert not saver.save(1, state(1), data())
        with pytest.raises(OSError, match=r"the disk is full: .* no checkpoint has been committed"):
            saver.save(2, state(2), data())
    assert os.listdir(tmp_path) == []


def test_other_errors_of_a_save_are_not_called_a_full_disk(tmp_path, monkeypatch):
    from orbax.checkpoint._src.path import atomicity

    async def denied(self):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(atomicity.AtomicRenameTemporaryPath, "finalize", denied)
    with Checkpoints(tmp_path, every=1, keep=1) as saver:
        saver.save(1, state(1), data())
        with pytest.raises(PermissionError):
            saver.wait()


@pytest.mark.parametrize(("every", "keep"), [(0, 1), (1, 0), (-1, 1)])
def test_intervals_are_positive(tmp_path, every, keep):
    with pytest.raises(ValueError, match=f"every = {every}, keep = {keep}"):
        Checkpoints(tmp_path, every, keep)


def test_saving_logs_nothing(tmp_path, capfd, caplog):
    with Checkpoints(tmp_path, every=1, keep=1) as saver:
        saver.save(1, state(1), data())
        saver.restore(abstract(state(0)), data())
    assert caplog.text == ""
    assert capfd.readouterr() == ("", "")


def test_parameters_saved_alone_come_back_as_numpy_or_onto_a_mesh(tmp_path):
    checkpoint.save_params(tmp_path / "params", params())
    loaded = checkpoint.load_params(tmp_path / "params")
    assert isinstance(loaded["blocks"]["query"], np.ndarray)
    same(loaded, jax.tree.map(np.asarray, params()))
    mesh = sharding.make_mesh(sharding.MeshConfig(fsdp=2))
    place = jax.sharding.NamedSharding(mesh, PartitionSpec("fsdp"))
    placed = checkpoint.load_params(tmp_path / "params", abstract(params(), place))
    assert placed["blocks"]["query"].sharding == place
    same(jax.tree.map(np.asarray, placed), jax.tree.map(np.asarray, params()))


def test_parameters_of_another_model_absent_or_in_the_way_are_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match="no parameters at"):
        checkpoint.load_params(tmp_path / "params")
    checkpoint.save_params(tmp_path / "params", params())
    with pytest.raises(ValueError, match="exists: parameters are saved to a new path"):
        checkpoint.save_params(tmp_path / "params", params())
    with pytest.raises(ValueError, match=r"missing head \(3,\)"):
        checkpoint.load_params(tmp_path / "params", params() | {"head": jnp.zeros(3)})
    (tmp_path / "other").mkdir()
    with pytest.raises(ValueError, match="other is a damaged checkpoint: its 'params' cannot be read"):
        checkpoint.load_params(tmp_path / "other")
