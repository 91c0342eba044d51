"""Files are written whole or not at all, faults are named with their line, and one process writes a folder."""

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from qstar import files

ROOT = Path(__file__).parent.parent


def python(code: str, *arguments, **options) -> subprocess.Popen:
    """A process of its own that knows qstar."""
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=environment, **pipes, **options)


# --- writing ------------------------------------------------------------------------------------------------------


def test_a_file_is_replaced_whole_and_nothing_else_stays(tmp_path):
    for contents in ("first, ä\n", b"\x00\xff"):
        files.write(tmp_path / "file", contents)
    assert (tmp_path / "file").read_bytes() == b"\x00\xff"
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_a_write_into_a_folder_that_was_deleted_names_both(tmp_path):
    for write in (lambda file: files.write(file, ""), lambda file: files.append(file, [{}])):
        with pytest.raises(FileNotFoundError, match=rf"{tmp_path}/gone/file: the folder {tmp_path}/gone is not there"):
            write(tmp_path / "gone" / "file")


def test_a_folder_that_would_lie_in_a_file_names_the_file(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match=rf"{tmp_path}/file is a file"):
        files.make(tmp_path / "file" / "run")


LIMITED = """
    import resource, sys
    from qstar import files
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    for write in (lambda: files.write(sys.argv[1], "new" * 500), lambda: files.append(sys.argv[1], [{"a": 1}] * 200)):
        try:
            write()
        except OSError as error:
            print(error.errno, error.strerror)
"""


def test_a_limit_on_the_size_of_files_is_named_and_the_old_file_stays(tmp_path):
    (tmp_path / "file").write_text("old\n")
    process = python(LIMITED, tmp_path / "file")
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    for line in out.splitlines():
        assert line.startswith("27 ") and str(tmp_path / "file") in line and "ulimit -f" in line
    assert len(out.splitlines()) == 2
    # The second one tore a line, which readers do not see.
    assert (tmp_path / "file").read_text().startswith('old\n{"a": 1}\n')
    assert os.listdir(tmp_path) == ["file"]


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 64 KiB."""
    (tmp_path / "disk").mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path / "disk")]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("file systems cannot be mounted here")
    yield tmp_path / "disk"
    subprocess.run(["umount", "-l", str(tmp_path / "disk")], check=True)


def test_a_full_disk_is_named_and_what_was_complete_can_be_read(small_disk):
    file = small_disk / "lines.jsonl"
    files.write(small_disk / "kept", "whole")
    with pytest.raises(OSError, match=rf"{small_disk}/lines.jsonl: the disk is full") as error:
        for number in range(100_000):
            files.append(file, [{"step": number}])
    assert error.value.errno == 28
    with pytest.raises(OSError, match=rf"{small_disk}/kept: the disk is full"):
        files.write(small_disk / "kept", "x" * 10_000)
    assert (small_disk / "kept").read_text() == "whole"
    assert sorted(os.listdir(small_disk)) == ["kept", "lines.jsonl"]
    steps = [record["step"] for record in files.records(file, "a line", step=int)]
    assert steps == list(range(len(steps))) and len(steps) > 1000
    with files.locked(small_disk):  # a run can still be gone on with
        pass


def test_a_line_that_was_torn_does_not_spoil_the_next_one(tmp_path):
    file = tmp_path / "lines.jsonl"
    for torn in ("", '{"step": 1}\n{"st', '{"step": 1}\n', '{"st'):
        file.write_text(torn)
        files.append(file, [{"step": 2}])
        assert file.read_text() == torn[: torn.rfind("\n") + 1] + '{"step": 2}\n'


# --- reading ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"edited by hand", r"line 2: not JSON .*column 1"),
        (b'{"step": 2', r"line 2: not JSON"),
        (b"[2]", r"line 2: a JSON list"),
        (b'{"stpe": 2}', r"line 2: no 'step' in it.*it has 'stpe'"),
        (b'{"step": "2"}', r"line 2: 'step' is '2', expected int"),
        (b'{"step": true}', r"line 2: 'step' is True, expected int"),
        (b'{"step": "\xff"}', r"line 2: not JSON .*0xff is not UTF-8"),
        (b"", r"line 2: not JSON"),
        (b"\x00\x00\x00", r"line 2: not JSON"),
        (b'{"step": 2, "step": 2}', r"line 2: the key 'step' twice in one object"),
        (b'{"step": 2, "of": [{"a": 1, "b": 2, "b": 3}]}', r"line 2: the key 'b' twice in one object"),
        (b"[" * 100_000, r"line 2: .*nested too deeply|line 2: not JSON"),
    ],
)
def test_a_damaged_or_foreign_line_is_named_and_the_file_left_alone(tmp_path, line, message):
    file = tmp_path / "lines.jsonl"
    file.write_bytes(b'{"step": 1}\n' + line + b'\n{"step": 3}\n')
    before = file.read_bytes()
    for read in (files.lines, lambda *arguments, **fields: files.keep_until(*arguments[:1], 1, *arguments[1:])):
        with pytest.raises(ValueError, match=rf"(?s){file}, {message}"):
            read(file, "a line", step=int)
    assert file.read_bytes() == before


def test_steps_that_fall_are_named(tmp_path):
    file = tmp_path / "lines.jsonl"
    files.write_records(file, [{"step": 1}, {"step": 2}, {"step": 1}])
    with pytest.raises(ValueError, match=r"line 3: step 1 after step 2"):
        files.keep_until(file, 5, "a line")


def test_a_last_line_without_its_end_is_none(tmp_path):
    file = tmp_path / "lines.jsonl"
    file.write_text('{"step": 1, "text": "\u2028"}\n{"step": 2}\n{"step": 3}')
    assert [line["step"] for line in files.records(file, "a line")] == [1, 2]
    assert [line.record["step"] for line in files.keep_until(file, 1, "a line")] == [1]
    assert file.read_text() == '{"step": 1, "text": "\u2028"}\n'
    assert files.records(tmp_path / "none", "a line") == []


# --- one process at a time ----------------------------------------------------------------------------------------

HOLD = """
    import sys, time
    from qstar import files
    with files.locked(sys.argv[1]):
        print("held", flush=True)
        time.sleep(60)
"""


def test_a_folder_that_is_written_names_its_writer_and_is_free_when_that_is_killed(tmp_path):
    process = python(HOLD, tmp_path / "run")
    assert process.stdout.readline() == "held\n"
    with pytest.raises(files.Locked, match=rf"{tmp_path}/run is being written by process {process.pid} on "):
        with files.locked(tmp_path / "run"):
            pass
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert (tmp_path / "run" / ".lock").is_file()  # a dead process cannot tidy up
    with files.locked(tmp_path / "run"):
        assert json.loads((tmp_path / "run" / ".lock").read_text())["pid"] == os.getpid()
    assert os.listdir(tmp_path / "run") == []


def test_what_a_killed_process_was_writing_is_removed_by_the_next_one(tmp_path):
    torn, own = (
        [tmp_path / "summary.md.4242.new", tmp_path / "a.b.1.new"],
        [tmp_path / "notes.new", tmp_path / "v1.2b.new"],
    )
    for file in (*torn, *own):
        file.write_text("x")
    files.remove_partial(tmp_path)
    assert [file.exists() for file in (*torn, *own)] == [False, False, True, True]
    torn[0].write_text("x")
    with files.locked(tmp_path):
        assert not torn[0].exists()
        torn[0].write_text("x")
        with pytest.raises(files.Locked), files.locked(tmp_path):
            pass
        assert torn[0].exists()  # it may be being written
        torn[0].unlink()


def test_a_lock_goes_with_its_folder_where_that_is_new_and_stays_empty(tmp_path):
    with files.locked(tmp_path / "a" / "b"):
        assert (tmp_path / "a" / "b" / ".lock").is_file()
    assert os.listdir(tmp_path) == []
    with files.locked(tmp_path / "a"):
        (tmp_path / "a" / "file").touch()
    assert os.listdir(tmp_path / "a") == ["file"]
    with files.locked(tmp_path / "a"):
        shutil.rmtree(tmp_path / "a")  # while it is held


MANY = """
    import sys
    from qstar import files
    sys.stdin.readline()
    with files.fresh(sys.argv[1]) as folder:
        (folder / "file").touch()
        print(folder)
    for _ in range(200):
        try:
            with files.locked(sys.argv[1] + "-lock"):
                with open(sys.argv[1] + "-alone", "x"):
                    pass
                import os
                os.unlink(sys.argv[1] + "-alone")
        except files.Locked:
            pass
"""


def test_processes_that_begin_together_get_folders_and_locks_of_their_own(tmp_path):
    processes = [python(MANY, tmp_path / "runs" / "now", stdin=subprocess.PIPE) for _ in range(4)]
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    outputs = [process.communicate(timeout=120) for process in processes]
    assert [err for _, err in outputs] == [""] * 4
    assert sorted(out for out, _ in outputs) == [f"{tmp_path}/runs/now{end}\n" for end in ("", "-2", "-3", "-4")]


def test_links_to_nowhere_are_named_instead_of_waited_for(tmp_path):
    (tmp_path / "gone").symlink_to(tmp_path / "unmounted" / "runs")
    for folder in (tmp_path / "gone", tmp_path / "gone" / "run"):
        for take in (files.locked, files.fresh):
            with pytest.raises(NotADirectoryError, match=rf"{tmp_path}/gone is a link to a place that is not there"):
                with take(folder / "now"):
                    pass


def test_a_lock_is_not_taken_through_a_link(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    for target in ("mine.txt", "absent/file", ".lock"):
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / ".lock").symlink_to(tmp_path / target if target != ".lock" else target)
        with pytest.raises(OSError, match=rf"{tmp_path}/run/.lock"):
            with files.locked(tmp_path / "run"):
                pass
        shutil.rmtree(tmp_path / "run")
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_a_folder_of_its_own_is_removed_where_nothing_came_of_it(tmp_path):
    with files.fresh(tmp_path / "runs" / "now") as folder:
        assert folder.is_dir()
    assert os.listdir(tmp_path) == []
