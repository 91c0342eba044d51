"""Locks put on the present process before it runs what a model wrote. Standard library only: it is loaded by path.

The layers, outermost first, each taken where the system lets us, none needing root. What each holds by itself:
bubblewrap  files, processes, network: `bwrap` started this process; it takes the place of namespaces and mounts
limits      CPU seconds, address space, size of files, open files, no core dumps; no new process unless the user is root
identity    a root process becomes `nobody` where nobody may read the interpreter; all capabilities are dropped
namespaces  user, processes, network, System V memory, host name of its own: nobody else can be named, no interface
mounts      a root of its own: what may be read, unchangeable, and the folder, from which no code is run (Linux 5.12)
landlock    files: reading below given paths, writing in one flat folder; TCP; signals (Linux 5.13, 6.7, 6.12)
seccomp     all calls of the kernel but those that computing needs (`calls.py`; x86-64, ARM64)
audit       Python's own events: all but known harmless ones end the process; a guard rail where nothing else is had
"""

import ctypes  # and little more: imports are most of the time that a program takes
import os
import struct
import sys

LAYERS = ("bubblewrap", "limits", "identity", "namespaces", "mounts", "landlock", "seccomp", "audit")
# Of each group one has to hold: else a program reaches other processes, or files.
NEEDED = (("seccomp",), ("bubblewrap", "mounts", "landlock"))
NOBODY = 65534

# Events of Python that a computation may raise. All others, present or future, end the process.
HARMLESS = frozenset(
    "compile exec marshal.loads marshal.load marshal.dumps object.__getattr__ object.__setattr__ object.__delattr__ "
    "code.__new__ function.__new__ sys._getframe sys._getframemodulename builtins.id id array.__new__ "
    "pickle.find_class time.sleep tempfile.mkstemp tempfile.mkdtemp sys.excepthook sys.unraisablehook os.putenv "
    "os.unsetenv os.walk glob.glob glob.glob/2 builtins.input builtins.input/result "
    "cpython.PyInterpreterState_Clear cpython._PySys_ClearAuditHooks".split()
)
# Modules that reach below Python, beside its events.
NEVER_IMPORTED = frozenset(
    "ctypes _ctypes _posixsubprocess _posixshmem _socket _testcapi _testinternalcapi _xxsubinterpreters _interpreters "
    "_multiprocessing mmap".split()
)
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

_LIBC = ctypes.CDLL(None, use_errno=True)
_NO_NEW_PRIVILEGES, _DEATH_SIGNAL, _SECCOMP = 38, 1, 22
# New user, mount, process, network, System V, host name and control group namespaces.
_USER, _MOUNTS, _PROCESSES, _NETWORK = 0x10000000, 0x00020000, 0x20000000, 0x40000000
_OTHERS = 0x08000000 | 0x04000000 | 0x02000000
_CPU_TIME = 24  # SIGXCPU
# Of mounts: what mount_setattr sets (read only, no set-user-ID, no devices, no code), and flags of mount, open_tree.
_UNCHANGEABLE, _NO_PRIVILEGES, _NO_DEVICES, _NO_CODE = 1, 2, 4, 8
_PRIVATE_THROUGHOUT = 0x4000 | 1 << 18
_COPY_THROUGHOUT = 1 | 0x8000
_HERE, _DETACH, _EMPTY_PATH, _MOVE_EMPTY_PATH, _RECURSIVE = -100, 2, 0x1000, 4, 0x8000
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}


def confine(layers, *, folder=None, readable=(), limits=None, calls=b"", forbidden=None):
    """The layers in force, in order, after those asked for were taken as far as this system has them.

    `folder` is the only place to write, None for nowhere; `readable` are folders and files to read; `limits` maps the
    names of `resource` ("RLIMIT_CPU": 5) to numbers; `calls` is the filter of `calls.py`; `forbidden(event)` is called
    before the audit layer ends the process. With a folder and "namespaces" it is a child that goes on, for which the
    present process waits. "bubblewrap" is believed.
    """
    readable = tuple(path for path in readable if path and os.path.exists(path))
    own = "namespaces" in layers and "bubblewrap" not in layers
    alone = own and folder is not None  # a process that calls come to stays where it is
    mounts = alone and "mounts" in layers
    steps = {
        "bubblewrap": lambda: True,
        "namespaces": lambda: own and _isolate(_PROCESSES * alone | _MOUNTS * mounts),
        "mounts": lambda: mounts and "namespaces" in held and _enter(folder, readable),
        "identity": lambda: _renounce(folder, readable),
        "limits": lambda: _limit(limits or {}),
        "landlock": lambda: _fence(folder, readable),
        "seccomp": lambda: _filter(calls),
        "audit": lambda: _watch(folder, readable, forbidden),
    }
    if sys.platform == "linux":
        _LIBC.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    held = []
    # Mounts need the capabilities that identity drops; seccomp refuses what the others need.
    for name in ("bubblewrap", "namespaces", "mounts", "identity", "limits", "landlock", "seccomp", "audit"):
        if name in layers and steps[name]():
            held.append(name)
        if name == "mounts" and alone and "namespaces" in held:
            _go_on_in_a_child(limits or {})
        if name == "identity" and name in layers:
            _die_with_parent()  # here, as a change of user takes it back
    return [name for name in LAYERS if name in held]


def lacking(held, needed=NEEDED):
    """The groups of which no layer is in force."""
    return [group for group in needed if not set(group) & set(held)]


def _die_with_parent():
    """The kernel kills this process when the thread that started it ends."""
    if sys.platform == "linux":
        _LIBC.prctl(_DEATH_SIGNAL, 9, 0, 0, 0)


def _limit(limits):
    import resource

    complete = True
    for name, value in limits.items():
        kind = getattr(resource, name, None)
        hard = resource.RLIM_INFINITY if kind is None else resource.getrlimit(kind)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        try:
            # A second between the limits of processor time: at the first the process dies of a signal that says why.
            says_why = name == "RLIMIT_CPU" and hard == resource.RLIM_INFINITY and os.getpid() != 1
            resource.setrlimit(kind, (value, value + says_why))
        except (OSError, ValueError, TypeError):  # macOS has no bound on the address space
            complete = False
    return complete


def _readable_by_all(path):
    """Whether any user may come to a path and read it."""
    path = os.path.realpath(path)
    try:
        if not os.stat(path).st_mode & 0o004:
            return False
        while path != os.path.dirname(path):
            path = os.path.dirname(path)
            if not os.stat(path).st_mode & 0o001:
                return False
    except OSError:
        return False
    return True


def _renounce(folder, readable):
    """Nobody's identity where that can work, and no capability in any case. Whether no privilege is left."""
    plain = os.getuid() != 0
    if not plain and all(map(_readable_by_all, (*readable, os.path.dirname(folder) if folder else "/"))):
        try:
            if folder:
                os.chown(folder, NOBODY, NOBODY)
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
            plain = True
        except OSError:  # a container that maps no such user
            pass
    if sys.platform == "linux":
        header = struct.pack("Ii", 0x20080522, 0)
        plain = _LIBC.capset(header, struct.pack("6I", 0, 0, 0, 0, 0, 0)) == 0 and plain
    return plain


def _isolate(more):
    """Namespaces of its own, `more` beside the usual; users who may not do that get a user namespace that may."""
    if sys.platform != "linux":
        return False
    kinds, user, group = _NETWORK | _OTHERS | more, os.getuid(), os.getgid()
    if _LIBC.unshare(kinds) == 0:
        return True
    if _LIBC.unshare(_USER | kinds) != 0:
        return False
    owners = {"setgroups": "deny", "uid_map": f"{NOBODY} {user} 1", "gid_map": f"{NOBODY} {group} 1"}
    try:
        for name, text in owners.items():
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)
    except OSError:  # files can be made without these in mounts that are not new
        pass
    return True


def _enter(folder, readable):
    """A root that holds only what may be read, unchangeable, and the folder. Whether that could be made.

    The calls open_tree (428), move_mount (429) and mount_setattr (442) have the same numbers on all machines.
    """
    machine = os.uname().machine
    if machine not in _PIVOT_ROOT:
        return False
    below = [path for path in readable if not any(path.startswith(other + "/") for other in readable)]
    places = dict.fromkeys(below, _UNCHANGEABLE | _NO_PRIVILEGES | _NO_DEVICES)
    places[folder] = _NO_PRIVILEGES | _NO_DEVICES | _NO_CODE
    folders = {path for path in places if os.path.isdir(path)}
    trees, root = {}, os.path.dirname(folder)
    try:
        if _LIBC.mount(None, b"/", None, ctypes.c_ulong(_PRIVATE_THROUGHOUT), None) != 0:  # nothing gets out of here
            return False
        for path, flags in places.items():
            trees[path] = _LIBC.syscall(428, _HERE, os.fsencode(path), _COPY_THROUGHOUT | os.O_CLOEXEC)
            if trees[path] < 0 or not _mark(trees[path], b"", _EMPTY_PATH | _RECURSIVE, flags):
                return False
        flags = ctypes.c_ulong(_NO_PRIVILEGES | _NO_DEVICES)
        if _LIBC.mount(b"none", os.fsencode(root), b"tmpfs", flags, b"mode=755,size=64k") != 0:
            return False
        try:
            for path, tree in trees.items():
                _place(root + path, path in folders)
                if _LIBC.syscall(429, tree, b"", _HERE, os.fsencode(root + path), _MOVE_EMPTY_PATH) != 0:
                    raise OSError(f"no mount at {path}")
            os.chdir(root)
            if _LIBC.syscall(_PIVOT_ROOT[machine], b".", b".") != 0:
                raise OSError("no new root")
        except OSError:
            _LIBC.umount2(os.fsencode(root), _DETACH)
            os.chdir(folder)
            return False
        # The old root is mounted over the new one now.
        held = _LIBC.umount2(b".", _DETACH) == 0
        os.chdir("/")
        held = _mark(_HERE, b"/", 0, _UNCHANGEABLE | _NO_PRIVILEGES | _NO_DEVICES | _NO_CODE) and held
        os.chdir(folder)
        return held
    finally:
        for tree in trees.values():
            if tree >= 0:
                os.close(tree)


def _mark(tree, path, how, flags):
    return _LIBC.syscall(442, tree, path, how, struct.pack("4Q", flags, 0, 0, 0), ctypes.c_size_t(32)) == 0


def _place(path, folder):
    """An empty folder or file as a mount point."""
    os.makedirs(path if folder else os.path.dirname(path), exist_ok=True)
    if not folder:
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o644))


def _go_on_in_a_child(limits):
    """Go on as the first of the new processes; the one before waits, and ends as a shell says it: 128 + a signal."""
    _die_with_parent()
    child = os.fork()
    if not child:
        return
    _, status, usage = os.wait4(child, 0)
    code = os.waitstatus_to_exitcode(status)
    # The kernel spares the first process of a namespace the signal that says why, and kills it. Its account may be a
    # few ticks behind.
    if code == -9 and usage.ru_utime + usage.ru_stime > 0.9 * limits.get("RLIMIT_CPU", float("inf")):
        code = -_CPU_TIME
    os._exit(code if code >= 0 else 128 - code)


def _fence(folder, readable):
    """Landlock, with the rights that this kernel's version knows. Its calls have the same numbers on all machines."""
    if sys.platform != "linux":
        return False
    version = _LIBC.syscall(444, None, ctypes.c_size_t(0), 1)
    if version < 1:
        return False
    rights = {1: 13, 2: 14, 3: 15, 4: 15}.get(version, 16)  # bits of the rights on files that this version has
    handled = struct.pack("QQQ", (1 << rights) - 1, 0b11, 0b11)[: 8 if version < 4 else 16 if version < 6 else 24]
    rules = _LIBC.syscall(444, handled, ctypes.c_size_t(len(handled)), 0)
    if rules < 0:
        return False
    read_file, folder_rights = 1 << 2, 0b1 << 1 | 1 << 2 | 1 << 3 | 1 << 5 | 1 << 8
    try:
        for path in readable:
            _allow(rules, path, read_file | (1 << 3 if os.path.isdir(path) else 0))
        if folder:
            _allow(rules, folder, folder_rights | (1 << 14 if version >= 3 else 0))
        return _LIBC.syscall(446, rules, 0) == 0
    finally:
        os.close(rules)


def _allow(rules, path, rights):
    try:
        opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:  # what we may not reach needs no right
        return
    try:
        if _LIBC.syscall(445, rules, 1, struct.pack("=Qi", rights, opened), 0) != 0:
            raise OSError(ctypes.get_errno(), f"landlock refuses a rule for {path}")
    finally:
        os.close(opened)


def _filter(calls):
    """A seccomp filter, given as the kernel reads it, in this process and what it could become."""
    if sys.platform != "linux" or not calls or sys.maxsize < 2**32:
        return False
    text = ctypes.create_string_buffer(calls, len(calls))

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))

    filled = Program(len(calls) // 8, ctypes.addressof(text))
    return _LIBC.prctl(_SECCOMP, 2, ctypes.byref(filled), 0, 0) == 0


def _watch(folder, readable, forbidden):
    """An audit hook. It holds all it uses in closed-over, unchangeable values: a program may replace any other name.

    A breach ends the process rather than raise: a traceback would hand the program this function's frame.
    """
    inside = (folder + "/", os.path.realpath(folder) + "/") if folder else ()
    below = tuple({name + "/" for path in readable for name in (path, os.path.realpath(path))})
    exact = frozenset(
        path for name in (*readable, *([folder] if folder else [])) for path in (name, os.path.realpath(name))
    )
    starts, split, kind, leave, harmless, never = str.startswith, str.split, type, os._exit, HARMLESS, NEVER_IMPORTED
    text, raw, whole, nothing, said, writing = str, bytes, int, type(None), forbidden, WRITING

    def near(path, roots):
        if kind(path) is raw:
            path = raw.decode(path, "utf-8", "surrogateescape")
        if kind(path) is not text or ".." in split(path, "/"):
            return False
        return starts(path, roots) if starts(path, "/") else folder is not None

    def may_read(path):
        return kind(path) in (whole, nothing) or near(path, inside + below) or (kind(path) is text and path in exact)

    def hook(event, args):
        if event in harmless:
            return
        if event == "open":
            path, _, flags = args
            fine = kind(path) is whole or (near(path, inside) if flags & writing else may_read(path))
        elif event in ("os.listdir", "os.scandir"):
            fine = may_read(args[0])
        elif event == "os.remove":
            fine = near(args[0], inside)
        elif event == "os.rename":
            fine = near(args[0], inside) and near(args[1], inside)
        else:
            fine = event == "import" and kind(args[0]) is text and split(args[0], ".")[-1] not in never
        if not fine:
            if said is not None:
                said(event)
            leave(77)

    sys.addaudithook(hook)
    return True
