"""Locks put on the present process before it runs what a model wrote. Standard library only: it is loaded by path.

Six layers, each taken where the system lets us, none needing root. What each holds by itself:
limits      CPU seconds, address space, size of files, open files, no core dumps; no new process unless the user is root
identity    a root process becomes `nobody` where nobody may read the interpreter; all capabilities are dropped
namespaces  network and System V memory of its own: no interface, not even the machine's own loopback
landlock    files: reading below given paths, writing in one flat folder; TCP; signals (Linux 5.13, 6.7, 6.12)
seccomp     no sockets, processes, threads, programs, signals, changes of mode, owner or mounts (x86-64, ARM64)
audit       Python's own events: all but known harmless ones end the process; a guard rail where nothing else is had
"""

import ctypes
import errno
import os
import struct
import sys

LAYERS = ("limits", "identity", "namespaces", "landlock", "seccomp", "audit")
NOBODY = 65534

# x86-64 and ARM64; None where the architecture never had the call.
CALLS = {
    "socket": (41, 198), "connect": (42, 203), "accept": (43, 202), "sendto": (44, 206), "bind": (49, 200),
    "listen": (50, 201), "socketpair": (53, 199), "clone": (56, 220), "fork": (57, None), "vfork": (58, None),
    "execve": (59, 221), "kill": (62, 129), "semget": (64, 190), "msgget": (68, 186), "shmget": (29, 194),
    "chmod": (90, None), "fchmod": (91, 52), "chown": (92, None), "fchown": (93, 55), "lchown": (94, None),
    "ptrace": (101, 117), "setpgid": (109, 154), "setsid": (112, 157), "rt_sigqueueinfo": (129, 138),
    "utime": (132, None), "pivot_root": (155, 41), "prctl": (157, 167), "chroot": (161, 51), "mount": (165, 40),
    "umount2": (166, 39), "init_module": (175, 105), "setxattr": (188, 5), "lsetxattr": (189, 6),
    "fsetxattr": (190, 7), "removexattr": (197, 14), "lremovexattr": (198, 15), "fremovexattr": (199, 16),
    "tkill": (200, 130), "tgkill": (234, 131), "utimes": (235, None), "mq_open": (240, 180), "add_key": (248, 217),
    "request_key": (249, 218), "keyctl": (250, 219), "fchownat": (260, 54), "futimesat": (261, None),
    "fchmodat": (268, 53), "unshare": (272, 97), "utimensat": (280, 88), "rt_tgsigqueueinfo": (297, 240),
    "perf_event_open": (298, 241), "prlimit64": (302, 261), "open_by_handle_at": (304, 265), "setns": (308, 268),
    "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "finit_module": (313, 273),
    "memfd_create": (319, 279), "bpf": (321, 280), "execveat": (322, 281), "userfaultfd": (323, 282),
    "pidfd_send_signal": (424, 424), "io_uring_setup": (425, 425), "open_tree": (428, 428), "move_mount": (429, 429),
    "fsopen": (430, 430), "pidfd_open": (434, 434), "clone3": (435, 435), "pidfd_getfd": (438, 438),
    "mount_setattr": (442, 442), "fchmodat2": (452, 452),
}  # fmt: skip
ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # place in CALLS, the kernel's number of it

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


def confine(layers, *, folder=None, readable=(), limits=None, forbidden=None):
    """The layers in force, in order, after those asked for were taken as far as this system has them.

    `folder` is the only place to write, None for nowhere; `readable` are folders and files to read; `limits` maps the
    names of `resource` ("RLIMIT_CPU": 5) to numbers; `forbidden(event)` is called before the audit layer ends the
    process.
    """
    readable = tuple(path for path in readable if path and os.path.exists(path))
    steps = {
        "limits": lambda: _limit(limits or {}),
        "identity": lambda: _renounce(folder, readable),
        "namespaces": _isolate,
        "landlock": lambda: _fence(folder, readable),
        "seccomp": _filter,
        "audit": lambda: _watch(folder, readable, forbidden),
    }
    if sys.platform == "linux":
        _LIBC.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    # Namespaces need the capabilities that identity drops.
    order = ("namespaces", "identity", "limits", "landlock", "seccomp", "audit")
    held = [name for name in order if name in layers and steps[name]()]
    return [name for name in LAYERS if name in held]


def die_with_parent():
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
            resource.setrlimit(kind, (value, value + 1 if name == "RLIMIT_CPU" and hard < 0 else value))
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


def _isolate():
    """A network and System V objects of its own; users who may not do that get a user namespace that may."""
    if sys.platform != "linux":
        return False
    user, network, ipc = 0x10000000, 0x40000000, 0x08000000
    return _LIBC.unshare(network | ipc) == 0 or _LIBC.unshare(user | network | ipc) == 0


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


def _filter():
    """A seccomp filter: the calls of CALLS fail with EPERM, in this process and what it could become."""
    place, architecture = ARCHITECTURES.get(os.uname().machine, (None, None))
    if sys.platform != "linux" or place is None or sys.maxsize < 2**32:
        return False
    numbers = [pair[place] for pair in CALLS.values() if pair[place] is not None]
    load, equal, at_least, back = 0x20, 0x15, 0x35, 0x06
    deny, allow, kill = 0x00050000 | errno.EPERM, 0x7FFF0000, 0x80000000
    program = [(load, 0, 0, 4), (equal, 1, 0, architecture), (back, 0, 0, kill), (load, 0, 0, 0)]
    program.append((at_least, len(numbers) + 1, 0, 0x40000000))  # the second set of numbers of x86-64
    program += [(equal, len(numbers) - at, 0, number) for at, number in enumerate(numbers)]
    program += [(back, 0, 0, allow), (back, 0, 0, deny)]
    text = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in program))

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))

    filled = Program(len(program), ctypes.addressof(text))
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
