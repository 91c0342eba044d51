"""Attempts of a program to leave the sandbox. Every one is expected to be refused.

`CALLS` are calls of the kernel, by their numbers: refused means that the filter answers, before the kernel looks at an
argument. `ATTEMPTS` are Python: refused means an exception. `program` puts all of them into one program, which returns
what it tried and what got through, so that a whole table costs one process. It needs a sandbox without the audit layer,
which ends a program at the first attempt. What gets through leaves nothing changed but OUTSIDE and VICTIM.
"""

import json
import os  # noqa: F401  (for what `attempt` evaluates)
from collections.abc import Mapping

# Numbers on x86-64 and ARM64, None where there is no such call; and arguments that would do something without a filter.
CALLS = {
    # Scheduling and limits of others, and its own.
    "sched_setaffinity": (203, 122, "VICTIM, 8, b'\\1' + bytes(7)"),
    "sched_setscheduler": (144, 119, "VICTIM, 3, bytes(8)"),
    "sched_setparam": (142, 118, "VICTIM, bytes(8)"),
    "sched_setattr": (314, 274, "VICTIM, bytes(48), 0"),
    "sched_getaffinity": (204, 123, "VICTIM, 8, bytes(8)"),
    "setpriority": (141, 140, "0, VICTIM, 19"),
    "ioprio_set": (251, 30, "1, VICTIM, 3 << 13"),
    "prlimit64": (302, 261, "VICTIM, 7, struct.pack('QQ', 4, 4), 0"),
    "prlimit64, of another to read": (302, 261, "VICTIM, 7, 0, bytes(16)"),
    "prlimit64, its own": (302, 261, "0, 7, struct.pack('QQ', 64, 64), 0"),
    "setrlimit": (160, 164, "7, struct.pack('QQ', 16, 16)"),
    "migrate_pages": (256, 238, "VICTIM, 0, 0, 0"),
    "move_pages": (279, 239, "VICTIM, 0, 0, 0, 0, 0"),
    "process_madvise": (440, 440, "-1, 0, 0, 0, 0"),
    "process_mrelease": (448, 448, "-1, 0"),
    "set_mempolicy": (238, 237, "0, 0, 0"),
    # Memory and state of others.
    "ptrace, seize": (101, 117, "0x4206, VICTIM, 0, 0"),
    "ptrace, trace me": (101, 117, "0, 0, 0, 0"),
    "process_vm_readv": (310, 270, "VICTIM, 0, 0, 0, 0, 0"),
    "process_vm_writev": (311, 271, "VICTIM, 0, 0, 0, 0, 0"),
    "kcmp": (312, 272, "VICTIM, VICTIM, 1, 0, 0"),
    "pidfd_open": (434, 434, "VICTIM, 0"),
    "pidfd_getfd": (438, 438, "0, 0, 0"),
    "perf_event_open": (298, 241, "0, VICTIM, -1, -1, 0"),
    "get_robust_list": (274, 100, "VICTIM, 0, 0"),
    "getpgid": (121, 155, "VICTIM"),
    # Signals.
    "kill": (62, 129, "VICTIM, 0"),
    "kill, everybody": (62, 129, "-1, 0"),
    "tkill": (200, 130, "VICTIM, 0"),
    "tgkill": (234, 131, "VICTIM, VICTIM, 0"),
    "rt_sigqueueinfo": (129, 138, "VICTIM, 0, bytes(128)"),
    "rt_tgsigqueueinfo": (297, 240, "VICTIM, VICTIM, 0, bytes(128)"),
    "pidfd_send_signal": (424, 424, "-1, 0, 0, 0"),
    "fcntl, F_SETOWN": (72, 25, "1, 8, VICTIM"),
    "fcntl, F_SETOWN_EX": (72, 25, "1, 15, struct.pack('ii', 1, VICTIM)"),
    "fcntl, F_SETSIG": (72, 25, "1, 10, 9"),
    "fcntl, O_ASYNC": (72, 25, "1, 4, 0o20001"),
    "fcntl, F_NOTIFY": (72, 25, "0, 1026, 1"),
    "ioctl, FIOASYNC": (16, 29, "1, 0x5452, struct.pack('i', 1)"),
    "ioctl, FIOSETOWN": (16, 29, "1, 0x8901, struct.pack('i', VICTIM)"),
    "ioctl, TIOCSTI": (16, 29, "0, 0x5412, b'x'"),
    "ioctl, TIOCSTI in high bits": (16, 29, "0, 0xffff00005412, b'x'"),
    "ioctl, TIOCLINUX": (16, 29, "0, 0x541c, b'x'"),
    "ioctl, TIOCSCTTY": (16, 29, "0, 0x540e, 0"),
    "setpgid": (109, 154, "0, 0"),
    "timer_create": (222, 107, "0, 0, 0"),
    "signalfd4": (289, 74, "-1, 0, 8, 0"),
    # Processes, threads, programs.
    "clone": (56, 220, "17, 0, 0, 0, 0"),
    "clone3": (435, 435, "0, 0"),
    "fork": (57, None, ""),
    "execve": (59, 221, "0, 0, 0"),
    "execveat": (322, 281, "-1, 0, 0, 0, 0"),
    "setsid": (112, 157, ""),
    "wait4": (61, 260, "-1, 0, 1, 0"),
    # Itself: what it is and may be.
    "prctl, PR_SET_PDEATHSIG": (157, 167, "1, 0, 0, 0, 0"),
    "prctl, PR_SET_DUMPABLE": (157, 167, "4, 1, 0, 0, 0"),
    "prctl, PR_SET_PTRACER": (157, 167, "0x59616d61, -1, 0, 0, 0"),
    "prctl, PR_SET_SECCOMP": (157, 167, "22, 2, 0, 0, 0"),
    "prctl, PR_SET_SYSCALL_USER_DISPATCH": (157, 167, "59, 0, 0, 0, 0"),
    "seccomp": (317, 277, "2, 0, 0"),
    "arch_prctl": (158, None, "0x1004, 0"),
    "modify_ldt": (154, None, "0, 0, 0"),
    "personality": (135, 92, "0xffffffff"),
    "capset": (126, 91, "0, 0"),
    "setuid": (105, 146, "-1"),
    "setresuid": (117, 147, "-1, -1, -1"),
    "setgroups": (116, 159, "0, 0"),
    "setfsuid": (122, 151, "-1"),
    # Namespaces, mounts, roots.
    "unshare": (272, 97, "0"),
    "setns": (308, 268, "-1, 0"),
    "mount": (165, 40, "0, 0, 0, 0, 0"),
    "umount2": (166, 39, "0, 0"),
    "pivot_root": (155, 41, "0, 0"),
    "chroot": (161, 51, "0"),
    "chdir": (80, 49, "b'/'"),
    "fchdir": (81, 50, "-1"),
    "open_tree": (428, 428, "-1, 0, 0"),
    "move_mount": (429, 429, "-1, 0, -1, 0, 0"),
    "fsopen": (430, 430, "0, 0"),
    "fsmount": (432, 432, "-1, 0, 0"),
    "mount_setattr": (442, 442, "-1, 0, 0, 0, 0"),
    "landlock_create_ruleset": (444, 444, "0, 0, 1"),
    "name_to_handle_at": (303, 264, "-1, 0, 0, 0, 0"),
    "open_by_handle_at": (304, 265, "-1, 0, 0"),
    "openat2": (437, 437, "-1, 0, 0, 0"),
    # Interfaces of the kernel that have been ways out, or are ways around a filter.
    "io_uring_setup": (425, 425, "1, 0"),
    "io_uring_enter": (426, 426, "-1, 0, 0, 0, 0, 0"),
    "io_uring_register": (427, 427, "-1, 0, 0, 0"),
    "io_setup": (206, 0, "1, 0"),
    "bpf": (321, 280, "0, 0, 0"),
    "userfaultfd": (323, 282, "0"),
    "add_key": (248, 217, "0, 0, 0, 0, 0"),
    "request_key": (249, 218, "0, 0, 0, 0"),
    "keyctl": (250, 219, "0, -3, 0"),
    "memfd_create": (319, 279, "b'x', 0"),
    "memfd_secret": (447, 447, "0"),
    "init_module": (175, 105, "0, 0, 0"),
    "finit_module": (313, 273, "-1, 0, 0"),
    "quotactl": (179, 60, "0, 0, 0, 0"),
    "syslog": (103, 116, "10, 0, 0"),
    "fanotify_init": (300, 262, "0, 0"),
    "inotify_init1": (294, 26, "0"),
    "vmsplice": (278, 75, "-1, 0, 0, 0"),
    "splice": (275, 76, "-1, 0, -1, 0, 0, 0"),
    "tee": (276, 77, "-1, -1, 0, 0"),
    "pkey_mprotect": (329, 288, "0, 0, 0, -1"),
    "remap_file_pages": (216, 234, "0, 0, 0, 0, 0"),
    "shmget": (29, 194, "0, 4096, 0o1600"),
    "semget": (64, 190, "0, 1, 0o1600"),
    "msgget": (68, 186, "0, 0o1600"),
    "mq_open": (240, 180, "0, 0, 0, 0"),
    "clock_settime": (227, 112, "-1, 0"),
    "clock_adjtime": (305, 266, "-1, 0"),
    "sethostname": (170, 161, "0, 0"),
    "membarrier": (324, 283, "0, 0, 0"),
    # Network.
    "socket": (41, 198, "1, 1, 0"),
    "socket, netlink": (41, 198, "16, 3, 0"),
    "socket, vsock": (41, 198, "40, 1, 0"),
    "socketpair": (53, 199, "1, 1, 0, 0"),
    "connect": (42, 203, "-1, 0, 0"),
    "sendmmsg": (307, 269, "-1, 0, 0, 0"),
    "pipe2": (293, 59, "0, 0"),
    # What stands in a folder, and how.
    "mkdirat": (258, 34, "-1, 0, 0"),
    "mknodat": (259, 33, "-1, 0, 0, 0"),
    "symlinkat": (266, 36, "0, -1, 0"),
    "linkat": (265, 37, "-1, 0, -1, 0, 0"),
    "fchmodat": (268, 53, "-1, 0, 0"),
    "fchmod": (91, 52, "-1, 0"),
    "fchownat": (260, 54, "-1, 0, 0, 0, 0"),
    "utimensat": (280, 88, "-1, 0, 0, 0"),
    "setxattr": (188, 5, "0, 0, 0, 0, 0"),
    "getxattr": (191, 8, "0, 0, 0, 0"),
    "fallocate": (285, 47, "-1, 0, 0, 0"),
    # Memory that is written and run.
    "mmap, to write and run": (9, 222, "0, 4096, 7, 0x22, -1, 0"),
    "mmap, to run": (9, 222, "0, 4096, 5, 0x22, -1, 0"),
    "mmap, to run in high bits": (9, 222, "0, 4096, 0xf00000007, 0x22, -1, 0"),
}  # fmt: skip
# The second set of numbers of x86-64: getpid, kill, openat; and a call that no kernel has.
X32 = {"x32 getpid": 0x40000000 + 39, "x32 kill": 0x40000000 + 62, "x32 openat": 0x40000000 + 257}

# Each is the body of a function; what it returns, or that it returns at all, says that it got through.
ATTEMPTS = {
    "read a file": "open(OUTSIDE).read()",
    "read a file, descriptor": "os.read(os.open(OUTSIDE, os.O_RDONLY), 9)",
    "read a file, C": "native(libc.open(OUTSIDE.encode(), 0))",
    "read a file, by the folder above": "open('../' * 20 + OUTSIDE).read()",
    "write a file": "open(OUTSIDE, 'a').write('x')",
    "empty a file": "os.truncate(OUTSIDE, 0)",
    "remove a file": "os.remove(OUTSIDE)",
    "rename a file": "os.rename(OUTSIDE, 'here')",
    "make a file beside it": "made(OUTSIDE + '.new')",
    "make a file in the root": "made('/qstar-escape')",
    "make a file in /tmp": "made('/tmp/qstar-escape')",
    "make a file beside the folder": "made(os.path.dirname(os.getcwd()) + '/qstar-escape')",
    "list the root": "[name for name in os.listdir('/') if name == 'home'] or 1 / 0",
    "users": "open('/etc/passwd').read()",
    "environment": "open('/proc/self/environ').read()",
    "own memory": "open('/proc/self/mem', 'r+b')",
    "memory of the caller": "open(f'/proc/{VICTIM}/mem', 'r+b')",
    "memory of the parent": "open(f'/proc/{os.getppid()}/mem', 'r+b')",
    "open files of the caller": "os.listdir(f'/proc/{VICTIM}/fd')",
    "the old root": "open('/proc/1/root' + OUTSIDE).read()",
    "the command line of the first process": "open('/proc/1/cmdline').read()",
    "settings of the kernel": "open('/proc/sys/kernel/hostname').read()",
    "devices": "open('/dev/mem', 'rb')",
    "the terminal": "open('/dev/tty', 'r+b')",
    "change the standard library": "os.open(os.__file__, os.O_RDWR)",
    "a module in the standard library": "made(os.path.dirname(os.__file__) + '/qstar_escape.py')",
    "rename the standard library": "os.rename(os.__file__, os.__file__)",
    "a folder in the folder": "os.mkdir('folder')",
    "a link to a file": "os.symlink(OUTSIDE, 'link') or open('link').read()",
    "another name of a file": "os.link(OUTSIDE, 'name')",
    "a device in the folder": "os.mknod('device', 0o20666, os.makedev(1, 1))",
    "a pipe in the folder": "os.mkfifo('pipe')",
    "its order": "os.pread(0, 1, 0)",
    "descriptors left open": "[number for number in range(3, 200) if is_open(number)][1]",
    "the folder's mode": "os.chmod('.', 0o755)",
    "a process": "os.fork() or os._exit(0)",
    "a program": "__import__('subprocess').run(['/bin/true'])",
    "a program, spawned": "os.posix_spawn('/bin/true', ['true'], {})",
    "a thread": "__import__('_thread').start_new_thread(int, ())",
    "an interpreter's process": "__import__('multiprocessing').Process(target=int).start()",
    "a connection": "__import__('socket').create_connection(('127.0.0.1', PORT), 1)",
    "a name server": "__import__('socket').getaddrinfo('localhost', 1)[0][4][0] and __import__('socket').socket()",
    "nicer": "os.nice(1)",
    "own affinity": "os.sched_setaffinity(0, [0])",
    "affinity of the caller": "os.sched_setaffinity(VICTIM, [0])",
    "affinity of the parent": "os.sched_setaffinity(os.getppid(), os.sched_getaffinity(0))",
    "the parent": "os.kill(os.getppid(), 0)",
    "the group": "os.killpg(0, 0)",
    "higher limits": "__import__('resource').setrlimit(7, (64, 64))",
    "limits of the caller": "__import__('resource').prlimit(VICTIM, 7, (64, 64))",
    "memory to run": "__import__('mmap').mmap(-1, 4096, prot=7)",
    "memory made to run": "made_to_run(5)",
    "memory made to write and run": "made_to_run(7)",
    "a file to write and run": "__import__('mmap').mmap(grown('code'), 4096, prot=7)",
    "left in sys.modules": "native(sys.modules['confine']._LIBC.open(OUTSIDE.encode(), 0))",
    "left in __main__": "native(sys.modules['__main__'].confine._LIBC.open(OUTSIDE.encode(), 0))",
    "left in frames": "native(last_frame().f_globals['confine']._LIBC.open(OUTSIDE.encode(), 0))",
    "found by gc": "native(libraries()[-1].open(OUTSIDE.encode(), 0))",
    "found among subclasses": "native(subclass('CDLL')(None).open(OUTSIDE.encode(), 0))",
    "found by gc, a signal": "native(libraries()[-1].kill(VICTIM, 0))",
}  # fmt: skip
# Where code may come from a file of the folder, it is held by the filter alone; a mount without code forbids it.
CODE_IN_THE_FOLDER = {"a file to run": "__import__('mmap').mmap(grown('code'), 4096, flags=2, prot=5)"}

# Layers left out, as systems of several kinds lack them.
SYSTEMS = {
    "bubblewrap": ("audit",),
    "own layers": ("audit", "bubblewrap"),
    "no namespaces": ("audit", "bubblewrap", "namespaces", "mounts"),
    "no landlock": ("audit", "bubblewrap", "landlock"),
}

_START = """
import ctypes, errno, json, mmap, os, struct, sys
VICTIM, OUTSIDE, PORT = {victim}, {outside!r}, {port}
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
libc.syscall.argtypes = None
libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
def native(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), 'refused')
    return True
def asked(number, *arguments):
    ctypes.set_errno(0)
    result = libc.syscall(number, *[ctypes.c_long(a) if isinstance(a, int) else a for a in arguments])
    if result == 0 and os.getpid() != PID:
        os._exit(0)
    return result >= 0 or ctypes.get_errno() not in (errno.EPERM, errno.ENOSYS)
def made(path):
    open(path, 'x').close()
    os.remove(path)
def is_open(number):
    try:
        return bool(os.fstat(number))
    except OSError:
        return False
def made_to_run(protection):
    memory = mmap.mmap(-1, 4096)
    return native(libc.mprotect(ctypes.addressof(ctypes.c_char.from_buffer(memory)), 4096, protection))
def grown(path):
    with open(path, 'wb') as file:
        file.write(bytes(4096))
    return os.open(path, os.O_RDWR)
def libraries():
    import gc
    return [one for one in gc.get_objects() if type(one).__name__ == 'CDLL' and isinstance(one, ctypes.CDLL)]
def last_frame():
    frame = sys._getframe()
    while frame.f_back:
        frame = frame.f_back
    return frame
def subclass(name):
    return next(kind for kind in object.__subclasses__() if kind.__name__ == name)
PID = os.getpid()
tried, through = 0, []
"""
_TRY = """
tried += 1
try:
    {expression}
    through.append({name!r})
except (Exception, SystemExit):
    pass
"""
_CALL = """
tried += 1
if asked({number}, {arguments}):
    through.append({name!r})
"""


def program(
    victim: int, outside: str, port: int, machine: str, attempts: Mapping = ATTEMPTS, calls: Mapping = CALLS
) -> str:
    """All of it in a program that returns JSON: how many were tried, the names of those that got through.

    `victim` is a process of the same user, `outside` a file that this user may read and write, `port` one that listens.
    """
    parts = [_START.format(victim=victim, outside=outside, port=port)]
    place = {"x86_64": 0, "aarch64": 1}[machine]
    parts += [_TRY.format(expression=expression, name=name) for name, expression in attempts.items()]
    numbers = {name: (numbers[place], numbers[2]) for name, numbers in calls.items()}
    if machine == "x86_64" and calls is CALLS:
        numbers |= {name: (number, "0, 0, 0") for name, number in X32.items()}
    parts += [
        _CALL.format(number=number, arguments=arguments, name=name)
        for name, (number, arguments) in numbers.items()
        if number is not None
    ]
    return "".join(parts) + "\ndef solution():\n    return json.dumps([tried, through])\n"


def result(text: str) -> tuple[int, list[str]]:
    tried, through = json.loads(text)
    return tried, through


# For a worker, which calls `attempt` in a locked copy of its process.


def prepare() -> None:
    pass


def attempt(lines: str) -> str:
    """What each expression comes to, "refused" where an error is raised."""
    return json.dumps({name: _attempted(line) for name, line in json.loads(lines).items()})


def _attempted(line: str) -> str:
    try:
        return str(eval(line))
    except OSError:
        return "refused"
