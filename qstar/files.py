"""The files of a run: written whole or not at all, read with the place of a fault named, one process at a time.

A file is written under another name, synced and renamed, so that a reader or a kill never sees half of it. Lines are
appended, and a last line without its end is torn by a kill and counts as not written. What the system refuses (a full
disk, a quota, a limit on the size of files, a folder that was deleted) is an OSError with the path and the way out.
"""

import codecs
import contextlib
import errno
import fcntl
import hashlib
import itertools
import json
import os
import platform
import shlex
import stat
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]
JsonObject = dict[str, Json]

PARTIAL = ".new"  # how the names of files end that are still being written
LOCK = ".lock"  # in a folder that a process writes; there only while it does, unless it was killed
BUSY = (errno.EAGAIN, errno.EACCES)
LATE_S = 60.0  # that a file of another machine may take to appear
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
WAYS_OUT = {
    errno.ENOSPC: "the disk is full: make room",
    errno.EDQUOT: "the quota of this user on this disk is used up: make room, or ask for more",
    errno.EFBIG: "it would be larger than this process may write: raise the limit (ulimit -f)",
    errno.EROFS: "the file system is read-only: choose another place",
    errno.EACCES: "this user may not write there: choose another place, or change its permissions",
    errno.EIO: "the disk reports a fault",
}


# --- writing ------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def explained(path: str | Path) -> Iterator[None]:
    """What the system refuses while `path` is written, as an OSError of the same kind that says so and the way out."""
    try:
        yield
    except OSError as error:
        explanation = explanation_of(error, path)
        if explanation is None:
            raise
        raise explanation from error


def explanation_of(error: OSError, path: str | Path) -> OSError | None:
    """An OSError of the same kind that names `path` and the way out; None where the error says all that is known."""
    path = Path(path)
    file = next(
        (parent for parent in (path.parent, *path.parent.parents) if parent.exists() and not parent.is_dir()), None
    )
    if file is not None:
        return NotADirectoryError(errno.ENOTDIR, f"cannot write {path}: {file} is a file; choose another place")
    if error.errno in (errno.ENOENT, errno.ESTALE) and not path.parent.is_dir():
        return FileNotFoundError(
            errno.ENOENT,
            f"cannot write {path}: the folder {path.parent} is not there; was it deleted or moved while this ran?",
        )
    if error.errno in WAYS_OUT:
        return type(error)(error.errno, f"cannot write {path}: {WAYS_OUT[error.errno]}")
    return None


def write(file: str | Path, contents: str | bytes | memoryview) -> None:
    """All of it under this name, or nothing; on disk when this returns. Text is UTF-8."""
    file = Path(file)
    fresh = file.with_name(f"{file.name}.{os.getpid()}{PARTIAL}")
    with explained(file):
        try:
            with fresh.open("wb") as out:
                out.write(contents.encode() if isinstance(contents, str) else contents)
                out.flush()
                os.fsync(out.fileno())
            fresh.replace(file)
        except OSError:
            with contextlib.suppress(OSError):  # the error above is the one to report
                fresh.unlink()
            raise
        sync(file.parent)


def remove_partial(folder: Path) -> None:
    """Remove what a killed process left of files that it was writing; for the one process that writes the folder."""
    for leftover in folder.glob(f"*.[0-9]*{PARTIAL}"):
        if leftover.name.removesuffix(PARTIAL).rpartition(".")[2].isdecimal():
            leftover.unlink(missing_ok=True)


def sync(folder: Path) -> None:
    """Names in the folder as well outlive a power failure."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(file: str | Path, contents: Json) -> None:
    write(file, json.dumps(contents, indent=2) + "\n")


def write_records(file: str | Path, records: Sequence[dict]) -> None:
    write(file, "".join(json.dumps(record) + "\n" for record in records))


def await_all(expected: Sequence[Path]) -> None:
    """Wait for files of one folder that other processes have written: a network file system shows new ones late.

    Raises ValueError where one is not here a minute later.
    """
    if not expected:
        return
    deadline, folder = time.monotonic() + LATE_S, expected[0].parent
    while missing := sorted({file.name for file in expected} - {file.name for file in folder.iterdir()}):
        if time.monotonic() >= deadline:
            raise ValueError(
                f"{folder} lacks {len(missing)} of {len(expected)} files that other processes wrote "
                f"({', '.join(missing[:3])}, ...): expected a folder that all of them see; name a run_dir on a shared "
                "file system"
            )
        time.sleep(1)


def append(file: str | Path, records: Sequence[dict], durable: bool = False) -> None:
    """Add lines; on disk when this returns where `durable`. Each call opens the file: a kill tears one line at most.

    A last line that was torn is removed first: what follows it would be a part of it.
    """
    with explained(file), Path(file).open("a+b") as out:
        _drop_torn_line(out)
        out.write("".join(json.dumps(record) + "\n" for record in records).encode())
        if durable:
            out.flush()
            os.fsync(out.fileno())


def _drop_torn_line(file: BinaryIO) -> None:
    size = file.seek(0, os.SEEK_END)
    file.seek(max(size - 1, 0))
    if file.read(1) not in (b"", b"\n"):
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)


# --- reading ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Line:
    """A record of a file of JSON lines."""

    record: JsonObject
    raw: bytes  # with the end of the line
    where: str  # file and line, for errors


def lines(file: str | Path, kind: str, **fields: type | tuple[type, ...]) -> list[Line]:
    """The lines of a file of JSON lines, but for a last one that a kill has torn; none where there is no file.

    Args:
        kind: what a line should be, for errors: "a line of metrics".
        fields: the fields that every line has, with their types.

    Raises ValueError with file and line for a line that is no JSON object, or lacks a field or has one of another type.
    """
    file = Path(file)
    if not file.is_file():
        return []
    text = file.read_bytes()
    # Without its end a line is torn, even one that parses: `"loss": 1.2` may have been 1.25.
    whole = text[: text.rfind(b"\n") + 1].split(b"\n")[:-1]
    checked = []
    for number, raw in enumerate(whole, 1):
        where = f"{file}, line {number}"
        record = _record(raw, where, kind)
        check(record, where, kind, **fields)
        checked.append(Line(record, raw + b"\n", where))
    return checked


def records(file: str | Path, kind: str, **fields: type | tuple[type, ...]) -> list[JsonObject]:
    """The records of `lines`."""
    return [line.record for line in lines(file, kind, **fields)]


def keep_until(file: str | Path, step: int, kind: str, **fields: type | tuple[type, ...]) -> list[Line]:
    """The lines up to `step`; the rest is removed from the file, and so is a line that a kill has torn."""
    kept = until(file, step, kind, **fields)
    contents = b"".join(line.raw for line in kept)
    if Path(file).is_file() and contents != Path(file).read_bytes():
        write(file, contents)
    return kept


def until(file: str | Path, step: int, kind: str, **fields: type | tuple[type, ...]) -> list[Line]:
    """The lines up to `step`, of a file whose steps never fall. Raises ValueError where one does."""
    all_lines = lines(file, kind, step=int)
    for before, line in itertools.pairwise(all_lines):
        if line.record["step"] < before.record["step"]:
            raise ValueError(
                f"{line.where}: step {line.record['step']} after step {before.record['step']}: did two processes write "
                f"this file? {WAY_OUT}"
            )
    kept = [line for line in all_lines if line.record["step"] <= step]
    for line in kept:
        check(line.record, line.where, kind, **fields)
    return kept


def _record(raw: bytes, where: str, kind: str) -> JsonObject:
    try:
        record = json.loads(raw.decode("utf-8"), object_pairs_hook=_once)
    except _Repeated as error:
        raise ValueError(f"{where}: {error}, expected {kind}; {WAY_OUT}") from None
    except ValueError as error:
        raise ValueError(f"{where}: not JSON ({_reason(error)}), expected {kind}; {WAY_OUT}") from error
    except RecursionError as error:
        raise ValueError(f"{where}: JSON that is nested too deeply, expected {kind}; {WAY_OUT}") from error
    if not isinstance(record, dict):
        raise ValueError(f"{where}: a JSON {type(record).__name__}, expected {kind}; {WAY_OUT}")
    return record


WAY_OUT = "remove the line, or put back a copy of the file"


class _Repeated(ValueError):  # noqa: N818 (it is what is said)
    """An object has a key twice: readers differ in which value they take."""


def _once(pairs: list[tuple[str, Json]]) -> JsonObject:
    """An object of JSON. Raises _Repeated."""
    members = dict(pairs)
    if len(members) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in members if names.count(name) > 1)
        raise _Repeated(f"the key {twice!r} twice in one object")
    return members


def _reason(error: ValueError) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at column {error.colno}"
    if isinstance(error, UnicodeDecodeError):
        return f"byte 0x{error.object[error.start]:02x} is not UTF-8"
    return str(error)


def check(record: JsonObject, where: str, kind: str, **fields: type | tuple[type, ...]) -> None:
    """Raise ValueError where the record lacks one of the fields, or has one of another type."""
    for name, types in fields.items():
        if name not in record:
            has = ", ".join(map(repr, list(record)[:8])) or "nothing"
            raise ValueError(f"{where}: no {name!r} in it, expected {kind}; it has {has}; {WAY_OUT}")
        value = record[name]
        if not isinstance(value, types) or (isinstance(value, bool) and bool not in _as_tuple(types)):  # True is an int
            expected = " or ".join(expected_type.__name__ for expected_type in _as_tuple(types))
            raise ValueError(f"{where}: {name!r} is {value!r}, expected {expected}; {WAY_OUT}")


def _as_tuple(types: type | tuple[type, ...]) -> tuple[type, ...]:
    return types if isinstance(types, tuple) else (types,)


def read_json(file: str | Path) -> JsonObject:
    """The object in a file of JSON. Raises FileNotFoundError; ValueError with file and line for what is none."""
    file = Path(file)
    if not file.is_file():
        raise FileNotFoundError(f"{file} is missing: put back a copy of it")
    raw = file.read_bytes()
    try:
        contents = json.loads(raw.decode("utf-8"), object_pairs_hook=_once)
    except _Repeated as error:
        raise ValueError(f"{file}: {error}; put back a copy of the file") from None
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{file}, line {error.lineno}: not JSON ({_reason(error)}); put back a copy of the file"
        ) from error
    except UnicodeDecodeError as error:
        number = raw.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{file}, line {number}: {_reason(error)}; put back a copy of the file") from error
    if not isinstance(contents, dict):
        raise ValueError(f"{file}, line 1: a JSON {type(contents).__name__}, expected an object; put back a copy of it")
    return contents


def place(file: str | Path, key: str) -> str:
    """`FILE, line N` of the line of a JSON or YAML file that first gives this key; the file where none does."""
    for number, line in enumerate(Path(file).read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        if line.strip().lstrip('"').startswith((f'{key}"', f"{key}:")):
            return f"{file}, line {number}"
    return str(file)


def checksum(file: str | Path) -> str:
    """Of the bytes of a file; lets other threads go on."""
    with Path(file).open("rb") as opened:
        return hashlib.file_digest(opened, _digest).hexdigest()


def checksum_of(contents: bytes | memoryview) -> str:
    """Of bytes, as `checksum` of a file of them."""
    digest = _digest()
    digest.update(contents)
    return digest.hexdigest()


def _digest() -> "hashlib._Hash":
    return hashlib.blake2b(digest_size=16)


# --- written by somebody else -------------------------------------------------------------------------------------

MAX_JSON = 256 << 20  # bytes of a file of a model that is read whole; the largest tokenizers have a tenth of it


def decoded(raw: bytes, path: Path, start: int = 0) -> str:
    """UTF-8 text of bytes that begin at byte `start` of a file. Raises ValueError with the offset of a wrong byte."""
    if not start:
        start = len(codecs.BOM_UTF8) if raw.startswith(codecs.BOM_UTF8) else 0
        raw = raw[start:]
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not UTF-8: byte 0x{raw[error.start]:02x} at byte offset {start + error.start}; "
            "convert it, for example with iconv"
        ) from error


def expanded(path: str | os.PathLike) -> Path:
    """With a user's home folder for `~`. Raises ValueError where nobody has one."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise ValueError(f"{path}: there is no such home folder; write ./{path} for a folder of this name") from error


def text(path: Path) -> str:
    """The text of a whole file. Raises ValueError for other encodings."""
    return decoded(path.read_bytes(), path)


def small_text(path: Path) -> str:
    """The text of a file that is small where it is whole. Raises ValueError as `small_bytes` and `text`."""
    return decoded(small_bytes(path), path)


def small_bytes(path: Path) -> bytes:
    """The contents of such a file. Raises ValueError for one that is far too large, unread."""
    size = os.stat(path).st_size
    if size > MAX_JSON:
        raise ValueError(f"{path} has {size:,} bytes, expected at most {MAX_JSON:,}: put back a copy of the file")
    return path.read_bytes()


def parsed(text: str, where: str) -> Json:
    """The value of a JSON text. Raises ValueError that begins with `where`."""
    try:
        value = json.loads(text, object_pairs_hook=_once)
    except _Repeated as error:
        raise ValueError(f"{where} has {error}: keep one of them") from None
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}" if error.lineno > 1 else f"column {error.colno}"
        raise ValueError(f"{where} is not JSON: {error.msg} at {place}") from error
    except RecursionError as error:
        raise ValueError(f"{where} is JSON nested too deeply to be read") from error
    except ValueError as error:  # integers of thousands of digits
        raise ValueError(f"{where} is not JSON that can be read: {error}") from error
    if "\\ud" in text.lower():
        _check_surrogates(value, where)
    return value


def _check_surrogates(value: Json, where: str) -> None:
    r"""Raise ValueError for halves of characters: \ud83d without its partner is no text."""
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        half = error.object[error.start]
        raise ValueError(f"{where} is not Unicode: it holds {half!r}, half of a surrogate pair") from error


def json_object(path: Path) -> JsonObject:
    """The object of a JSON file. Raises ValueError for other files, and for one that is far too large."""
    contents = parsed(small_text(path), str(path))
    if not isinstance(contents, dict):
        raise ValueError(f"{path} is a JSON {type(contents).__name__}, expected an object like {{...}}")
    return contents


# --- one process at a time ----------------------------------------------------------------------------------------


class Locked(ValueError):  # noqa: N818 (it is what is said)
    """Another process writes the folder."""


@contextlib.contextmanager
def locked(folder: str | Path) -> Iterator[None]:
    """Be the one process that writes the folder, which is made where it is missing, and what a killed one left removed.

    The lock is the system's own (flock): it ends with the process, however that ends. A folder that was made for it and
    stayed empty is removed again. Where the file system has no locks, a line says so.

    Raises Locked, with the process that holds it.
    """
    folder = Path(folder)
    made = []
    try:
        handle = _lock(folder, made)
        try:
            remove_partial(folder)
            yield
        finally:
            with contextlib.suppress(OSError):  # deleted while it was held
                (folder / LOCK).unlink()
            os.close(handle)
    finally:
        remove_empty(made)


def _lock(folder: Path, made: list[Path]) -> int:
    """The open lock file; `made` is told of the folders that were made for it."""
    while True:
        made += make(folder)
        try:
            with explained(folder / LOCK):
                # Not through a link: what that leads to would be emptied.
                handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        except FileNotFoundError:
            continue  # another process has just removed the folder, which was empty
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.read(handle, 4096).decode(errors="replace")
            os.close(handle)
            if error.errno in BUSY:
                raise Locked(_busy(folder, holder)) from None
            if error.errno not in NO_LOCKS:
                raise
            print(
                f"{folder}: this file system has no locks; make sure that no other process writes there",
                file=sys.stderr,
            )
            return os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
        if _is_named(handle, folder / LOCK):
            with contextlib.suppress(OSError):  # a full disk; the lock itself takes no room
                os.ftruncate(handle, 0)
                os.write(handle, _holder().encode())
            return handle
        os.close(handle)  # its holder removed it between our two calls: the name is another file's by now


def _is_named(handle: int, file: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), file.stat())
    except FileNotFoundError:
        return False


def _holder() -> str:
    contents = {"pid": os.getpid(), "host": platform.node(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
    return json.dumps(contents | {"command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])[:2000]})


def _busy(folder: Path, holder: str) -> str:
    try:
        about = json.loads(holder)
        who = f"process {about['pid']} on {about['host']} since {about['since']} ({about['command']})"
    except (ValueError, KeyError, TypeError):
        who = "another process"
    return f"{folder} is being written by {who}: wait for it to end or stop it, or choose another folder"


@contextlib.contextmanager
def fresh(folder: str | Path) -> Iterator[Path]:
    """A folder that nobody else has: this one, or FOLDER-2, FOLDER-3, ... where it is there already.

    It is made at once, and removed at the end if it is still empty.
    """
    claimed = claim(folder)
    try:
        yield claimed[-1]
    finally:
        remove_empty(claimed)


def claim(folder: str | Path) -> list[Path]:
    """Make a folder that is not there yet: `folder`, or with -2, -3, ... after it. What was made, its parents first."""
    number, made = 1, make(Path(folder).parent)
    while True:
        candidate = Path(folder) if number == 1 else Path(f"{folder}-{number}")
        try:
            with explained(candidate):
                candidate.mkdir()
            return [*made, candidate]
        except FileExistsError:  # another process was faster, or there is a file of this name
            number += 1
        except FileNotFoundError:  # another process has just removed the parent, which was empty
            made += make(candidate.parent)


def _is_folder(path: Path) -> bool:
    """One system call: between two of them another process can make it. Raises NotADirectoryError."""
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        if path.is_symlink():  # which no folder can be made at
            raise NotADirectoryError(errno.ENOTDIR, f"{path} is a link to a place that is not there") from None
        return False
    if not stat.S_ISDIR(mode):
        raise NotADirectoryError(errno.ENOTDIR, f"{path} is a file: choose another folder")
    return True


def make(folder: Path) -> list[Path]:
    """Make a folder and its parents; those that were not there, parents first."""
    missing = []
    while not _is_folder(folder):
        missing.append(folder)
        if folder == folder.parent:
            break
        folder = folder.parent
    for path in reversed(missing):
        # Another process may make the same folders at the same time, and remove them again while they are empty.
        with explained(path), contextlib.suppress(FileExistsError):
            path.mkdir(parents=True)
    return missing[::-1]


def remove_empty(folders: Sequence[Path]) -> None:
    """Remove those that are empty, the last one first."""
    for folder in reversed(folders):
        with contextlib.suppress(OSError):
            folder.rmdir()
