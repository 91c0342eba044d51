"""The filter of calls, answered by a second reading of it (`tests/reference/bpf.py`), for both architectures."""

import errno

import escapes
import pytest
from reference import bpf

from qstar.tasks.grading import calls

ALLOW, KILL, REFUSE, NO_SUCH_CALL = 0x7FFF0000, 0x80000000, 0x00050001, 0x00050026
NUMBERS = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
PLACES = {"x86_64": 0, "aarch64": 1}
I386, ARM = 0x40000003, 0x40000028
READ, WRITE, RUN = 1, 2, 4
PRIVATE, ANONYMOUS = 0x2, 0x20


@pytest.fixture(params=NUMBERS)
def machine(request):
    return request.param


def ask(machine, numbers, *arguments, writes=True):
    number = numbers[PLACES[machine]] if isinstance(numbers, tuple) else numbers
    return bpf.answer(calls.filter_for(machine, writes), NUMBERS[machine], number, arguments)


def test_errors_are_those_of_the_kernel():
    assert (REFUSE & 0xFFFF, NO_SUCH_CALL & 0xFFFF) == (errno.EPERM, errno.ENOSYS)


@pytest.mark.parametrize("name", [name for name in escapes.CALLS if "," not in name and name not in calls.CHECKED])
def test_calls_that_reach_others_are_refused_whatever_they_ask(machine, name):
    numbers = escapes.CALLS[name][:2]
    if numbers[PLACES[machine]] is not None:
        assert ask(machine, numbers) == REFUSE
        assert ask(machine, numbers, 0, 1, 2, 3, 4, 5) == REFUSE


@pytest.mark.parametrize(
    "numbers",
    [
        (0, 63),
        (1, 64),
        (3, 57),
        (257, 56),
        (262, 79),
        (11, 215),
        (12, 214),
        (231, 94),
        (228, 113),
        (318, 278),
        (202, 98),
    ],
    ids="read write close openat newfstatat munmap brk exit_group clock_gettime getrandom futex".split(),
)
def test_calls_that_computing_needs_are_allowed(machine, numbers):
    assert ask(machine, numbers) == ALLOW


def test_calls_of_another_architecture_end_the_process(machine):
    for architecture in {I386, ARM, *NUMBERS.values()} - {NUMBERS[machine]}:
        assert bpf.answer(calls.filter_for(machine, True), architecture, 0) == KILL


def test_the_second_numbers_of_x86_are_refused():
    assert {ask("x86_64", 0x40000000 + number) for number in range(600)} == {REFUSE}


def test_calls_that_came_later_do_not_exist_and_numbers_wrap_nowhere(machine):
    assert {ask(machine, number) for number in (470, 500, 1000, 0x3FFFFFFF)} == {NO_SUCH_CALL}
    assert ask(machine, 0xFFFFFFFF) in (REFUSE, NO_SUCH_CALL)


def test_memory_is_never_to_write_and_to_run(machine):
    mmap, mprotect = (9, 222), (10, 226)
    assert ask(machine, mmap, 0, 4096, READ | WRITE, PRIVATE | ANONYMOUS) == ALLOW
    assert ask(machine, mmap, 0, 4096, READ | RUN, PRIVATE, 3) == ALLOW  # a library
    assert ask(machine, mmap, 0, 4096, READ | WRITE | RUN, PRIVATE, 3) == REFUSE
    assert ask(machine, mmap, 0, 4096, READ | RUN, PRIVATE | ANONYMOUS) == REFUSE
    assert ask(machine, mmap, 0, 4096, 2**40 | WRITE | RUN, PRIVATE, 3) == REFUSE
    assert ask(machine, mprotect, 0, 4096, READ | WRITE) == ALLOW
    assert ask(machine, mprotect, 0, 4096, READ | WRITE | RUN) == REFUSE
    # On ARM64 the C library marks libraries that way.
    assert ask(machine, mprotect, 0, 4096, READ | RUN) == (ALLOW if machine == "aarch64" else REFUSE)


def test_descriptors_signal_nobody(machine):
    fcntl, ioctl = (72, 25), (16, 29)
    allowed = {command for command in range(2048) if ask(machine, fcntl, 1, command) == ALLOW}
    assert allowed == {0, 1, 2, 3, 5, 6, 7, 36, 37, 38, 1030}
    assert ask(machine, fcntl, 1, 2**32 + 8) == REFUSE
    assert {request for request in range(0x10000) if ask(machine, ioctl, 1, request) == ALLOW} == {
        0x5401, 0x5413, 0x541B, 0x5450, 0x5451,
    }  # fmt: skip
    assert ask(machine, ioctl, 0, 2**32 + 0x5412) == REFUSE


def test_limits_and_affinity_are_read_of_oneself_alone(machine):
    prlimit64, sched_getaffinity = (302, 261), (204, 123)
    assert ask(machine, prlimit64, 0, 7, 0, 4096) == ALLOW
    assert ask(machine, prlimit64, 1, 7, 0, 4096) == REFUSE
    assert ask(machine, prlimit64, 0, 7, 4096, 0) == REFUSE
    assert ask(machine, prlimit64, 0, 7, 2**32, 0) == REFUSE  # an address whose low half is zero
    assert ask(machine, sched_getaffinity, 0, 8, 4096) == ALLOW
    assert ask(machine, sched_getaffinity, 7, 8, 4096) == REFUSE


def test_without_a_folder_files_are_only_read(machine):
    openat, unlinkat, renameat2 = (257, 56), (263, 35), (316, 276)
    assert ask(machine, openat, -100, 0, 0o2000000, writes=False) == ALLOW
    for flags in (1, 2, 3, 0o100, 0o1000, 0o2100, 2**33 | 1):
        assert ask(machine, openat, -100, 0, flags, writes=False) == REFUSE
        assert ask(machine, openat, -100, 0, flags, writes=True) == ALLOW
    for numbers in (unlinkat, renameat2):
        assert (ask(machine, numbers, writes=False), ask(machine, numbers, writes=True)) == (REFUSE, ALLOW)
    assert ask("x86_64", 2, 0, 1, writes=False) == REFUSE  # open


def test_machines_whose_numbers_are_not_known_have_no_filter():
    assert calls.filter_for("riscv64", True) == b""
