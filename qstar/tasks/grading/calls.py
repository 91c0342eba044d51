"""The kernel's calls that a locked-in process may make, as a seccomp filter: these, so asked for, and no others.

A list of what is allowed, so that a call nobody thought of, or one of a later kernel, is refused too. What is absent on
purpose: processes, threads, programs, signals and scheduling of others, sockets, name spaces, mounts, keys, tracing,
io_uring, bpf, userfaultfd, changes of mode, owner and times, folders and links. Code that a program brings along in
memory makes the same calls, so it may do no more than Python; memory is never writable and executable at once.

The filter is bytes for `confine`, so that the locked-in process needs none of this module.
"""

import errno
import functools
import struct

# Numbers on x86-64 and ARM64; None where the architecture never had the call.
FREE = {
    "read": (0, 63), "write": (1, 64), "readv": (19, 65), "writev": (20, 66), "pread64": (17, 67),
    "pwrite64": (18, 68), "lseek": (8, 62), "close": (3, 57), "close_range": (436, 436), "dup": (32, 23),
    "dup2": (33, None), "dup3": (292, 24), "flock": (73, 32), "fsync": (74, 82), "fdatasync": (75, 83),
    "fadvise64": (221, 223), "stat": (4, None), "lstat": (6, None), "fstat": (5, 80), "newfstatat": (262, 79),
    "statx": (332, 291), "access": (21, None), "faccessat": (269, 48), "faccessat2": (439, 439),
    "readlink": (89, None), "readlinkat": (267, 78), "getdents": (78, None), "getdents64": (217, 61),
    "getcwd": (79, 17), "brk": (12, 214), "munmap": (11, 215), "mremap": (25, 216), "madvise": (28, 233),
    "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135), "rt_sigpending": (127, 136), "rt_sigreturn": (15, 139),
    "sigaltstack": (131, 132), "restart_syscall": (219, 128), "alarm": (37, None), "setitimer": (38, 103),
    "getitimer": (36, 102), "pause": (34, None), "nanosleep": (35, 101), "clock_nanosleep": (230, 115),
    "clock_gettime": (228, 113), "clock_getres": (229, 114), "gettimeofday": (96, 169), "time": (201, None),
    "times": (100, 153), "getrusage": (98, 165), "getrlimit": (97, 163), "sysinfo": (99, 179), "uname": (63, 160),
    "umask": (95, 166), "getpid": (39, 172), "gettid": (186, 178), "getuid": (102, 174), "geteuid": (107, 175),
    "getgid": (104, 176), "getegid": (108, 177), "getgroups": (115, 158), "getresuid": (118, 148),
    "getresgid": (120, 150), "futex": (202, 98), "set_robust_list": (273, 99), "rseq": (334, 293),
    "sched_yield": (24, 124), "getrandom": (318, 278), "poll": (7, None), "ppoll": (271, 73), "select": (23, None),
    "pselect6": (270, 72), "exit": (60, 93), "exit_group": (231, 94),
}  # fmt: skip
# Where a folder may be written in. Landlock or the mounts say which.
WRITING = {
    "truncate": (76, 45), "ftruncate": (77, 46), "rename": (82, None), "renameat": (264, 38), "renameat2": (316, 276),
    "unlink": (87, None), "unlinkat": (263, 35),
}  # fmt: skip

# Calls by what they are asked for: allowed where all of (argument, mask, value) hold in one of the alternatives.
_INT, _POINTER = 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF  # the kernel reads 32 bits of an int
_WRITE, _EXECUTE, _ANONYMOUS = 0x2, 0x4, 0x20
# Duplicates, flags of the descriptor and locks; not F_SETOWN, F_SETSIG and F_NOTIFY, which signal any process.
_FCNTL = (0, 1, 2, 3, 5, 6, 7, 36, 37, 38, 1030)
# TCGETS, TIOCGWINSZ, FIONREAD, FIONCLEX, FIOCLEX; not TIOCSTI, which types into a terminal, nor FIOASYNC.
_IOCTL = (0x5401, 0x5413, 0x541B, 0x5450, 0x5451)
_CREATING = 0x3 | 0o100 | 0o1000  # O_ACCMODE | O_CREAT | O_TRUNC
CHECKED = {
    "mmap": ((9, 222), (((2, _EXECUTE, 0),), ((2, _WRITE, 0), (3, _ANONYMOUS, 0)))),
    "mprotect": ((10, 226), (((2, _EXECUTE, 0),),)),
    "fcntl": ((72, 25), tuple(((1, _INT, command),) for command in _FCNTL)),
    "ioctl": ((16, 29), tuple(((1, _INT, request),) for request in _IOCTL)),
    "prlimit64": ((302, 261), (((0, _INT, 0), (2, _POINTER, 0)),)),  # to read one's own
    "sched_getaffinity": ((204, 123), (((0, _INT, 0),),)),
}
OPEN = {"open": ((2, None), 1), "openat": ((257, 56), 2)}  # and which argument holds the flags

ARCHITECTURES = {
    "x86_64": (0, 0xC000003E),
    "aarch64": (1, 0xC00000B7),
}  # place in the tables, the kernel's number of it
X32 = 0x40000000  # the second set of numbers of x86-64
UNKNOWN = 470  # calls from here on did not exist when these tables were made

ALLOW, KILL = 0x7FFF0000, 0x80000000
REFUSE, NO_SUCH_CALL = 0x00050000 | errno.EPERM, 0x00050000 | errno.ENOSYS
_LOAD, _EQUAL, _AT_LEAST, _AND, _RETURN = 0x20, 0x15, 0x35, 0x54, 0x06


@functools.cache
def filter_for(machine: str, writes: bool) -> bytes:
    """The filter for a machine as `os.uname` names it, b"" for one whose numbers are not known here.

    `writes` allows files to be made, changed and removed. Calls of another architecture kill the process.
    """
    if machine not in ARCHITECTURES:
        return b""
    place, architecture = ARCHITECTURES[machine]
    lines = [(_LOAD, 0, 0, 4), (_EQUAL, 1, 0, architecture), (_RETURN, 0, 0, KILL), (_LOAD, 0, 0, 0)]
    if machine == "x86_64":
        lines += [(_AT_LEAST, 0, 1, X32), (_RETURN, 0, 0, REFUSE)]
    # As an older kernel would answer, so that the C library takes the older call.
    lines += [(_AT_LEAST, 0, 1, UNKNOWN), (_RETURN, 0, 0, NO_SUCH_CALL)]
    checked = {name: (numbers[place], alternatives) for name, (numbers, alternatives) in CHECKED.items()}
    if machine == "aarch64":  # the C library changes the protection of a library's code, with PROT_BTI
        checked["mprotect"] = (checked["mprotect"][0], (((2, _EXECUTE, 0),), ((2, _WRITE, 0),)))
    free = FREE | WRITING if writes else FREE
    for name, (numbers, flags) in OPEN.items():
        checked[name] = (numbers[place], ((),) if writes else (((flags, _CREATING, 0),),))
    for numbers in free.values():
        if numbers[place] is not None:
            lines += [(_EQUAL, 0, 1, numbers[place]), (_RETURN, 0, 0, ALLOW)]
    for number, alternatives in checked.values():
        if number is not None:
            block = [line for conditions in alternatives for line in _alternative(conditions)]
            block.append((_RETURN, 0, 0, REFUSE))
            lines += [(_EQUAL, 0, len(block), number), *block]
    lines.append((_RETURN, 0, 0, REFUSE))
    return b"".join(struct.pack("=HBBI", *line) for line in lines)


def _alternative(conditions: tuple[tuple[int, int, int], ...]) -> list[tuple[int, int, int, int]]:
    """Allow where all conditions hold, else continue after this block."""
    tests = []
    for argument, mask, value in conditions:
        for half in (0, 1):  # both machines put the low half first
            part = mask >> 32 * half & _INT
            if part:
                tests.append(
                    ((_LOAD, 0, 0, 16 + 8 * argument + 4 * half), (_AND, 0, 0, part), value >> 32 * half & _INT)
                )
    lines = []
    for at, (load, mask, value) in enumerate(tests):
        lines += [load, mask, (_EQUAL, 0, 3 * (len(tests) - at - 1) + 1, value)]
    return [*lines, (_RETURN, 0, 0, ALLOW)]
