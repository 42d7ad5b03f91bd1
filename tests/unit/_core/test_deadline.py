# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import fcntl
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core import deadline
from ansible_collections.granary.vmstore.plugins.module_utils._core.deadline import (
    iterate_with_deadline,
    run_all_with_deadline,
    run_with_deadline,
)
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import (
    CommandFailed,
    InvalidInput,
    NoSpace,
    TimedOut,
)
from refusal import refused

#: Long deadline in seconds, which no test reaches.
LONG = 60


def children() -> str:
    """Return the ids of all child processes. Other tests of the process may have left some that hang."""
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text()


def test_the_answer_comes_from_another_process() -> None:
    answer = run_with_deadline(LONG, "Asking", lambda: (os.getpid(), os.getppid(), {"names": ("a\nb", "\udcff")}))
    assert answer[0] != os.getpid()
    assert answer[1:] == (os.getpid(), {"names": ("a\nb", "\udcff")})


def test_an_answer_may_be_larger_than_a_pipe() -> None:
    assert run_with_deadline(LONG, "Asking", lambda: "x" * (5 << 20)) == "x" * (5 << 20)


def test_nothing_is_left_behind() -> None:
    before, running = os.listdir("/proc/self/fd"), children()
    run_with_deadline(LONG, "Asking", os.getpid)
    with pytest.raises(NoSpace):
        run_with_deadline(LONG, "Asking", refuse)
    assert os.listdir("/proc/self/fd") == before
    assert children() == running


def test_who_does_not_answer_is_stopped() -> None:
    running = children()
    with refused(TimedOut, says="Reading the directory /ds did not end within 0.2 seconds and was stopped."):
        run_with_deadline(0.2, "Reading the directory /ds", signal.pause)
    assert children() == running


def test_a_child_that_is_killed_is_an_error() -> None:
    with refused(CommandFailed, says="Reading was stopped by another program."):
        run_with_deadline(LONG, "Reading", lambda: os.kill(os.getpid(), signal.SIGKILL))


def refuse() -> None:
    raise NoSpace("The disk is full.")


def misuse() -> None:
    raise InvalidInput("path", "x\ny", "an absolute path is expected")


def test_errors_pass_through_as_they_were() -> None:
    with refused(NoSpace, says="The disk is full."):
        run_with_deadline(LONG, "Asking", refuse)
    with pytest.raises(InvalidInput) as caught:
        run_with_deadline(LONG, "Asking", misuse)
    assert (str(caught.value), caught.value.option, caught.value.value) == (
        r"path: 'x\ny' is not accepted: an absolute path is expected.",
        "path",
        "x\ny",
    )


@pytest.mark.parametrize("function", [lambda: 1 // 0, lambda: lambda: None, lambda: sys.exit(0)])
def test_a_defect_is_no_answer(function) -> None:
    with pytest.raises((RuntimeError, CommandFailed)):
        run_with_deadline(LONG, "Asking", function)


def test_a_defect_says_where_it_is() -> None:
    with refused(RuntimeError, names=[ZeroDivisionError.__name__]):
        run_with_deadline(LONG, "Asking", lambda: 1 // 0)


def test_each_answer_has_the_time_anew() -> None:
    def count():
        for number in range(5):
            yield number
            time.sleep(0.5)
        signal.pause()

    found = []
    with pytest.raises(CommandFailed):
        for number in iterate_with_deadline(2, "Counting", count):
            found.append(number)
    assert found == [0, 1, 2, 3, 4]


def test_the_child_is_stopped_with_the_iterator() -> None:
    answers = iterate_with_deadline(LONG, "Asking", lambda: iter(os.getpid, None))
    child = next(answers)
    answers.close()
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)


def test_the_child_keeps_no_file_of_the_parent(tmp_path: Path) -> None:
    descriptor = os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    links = run_with_deadline(
        LONG,
        "Asking",
        lambda: [
            os.readlink(f"/proc/self/fd/{number}") for number in range(50) if os.path.exists(f"/proc/self/fd/{number}")
        ],
    )
    os.close(descriptor)
    assert links[:3] == [os.devnull] * 3
    assert not [link for link in links[3:] if not link.startswith("pipe:")]


def test_the_child_runs_nothing_of_the_parent(tmp_path: Path) -> None:
    """The child runs neither the parent's signal handlers nor its exit handlers, and flushes no buffers."""
    program = f"""
import atexit, os, signal, sys
from {deadline.__name__} import run_with_deadline
atexit.register(print, "exit")
signal.signal(signal.SIGTERM, lambda *unused: os.write(2, b"handler"))
sys.stdout.write("buffered\\n")
try:
    run_with_deadline(60, "Asking", lambda: os.kill(os.getpid(), signal.SIGTERM))
except Exception as error:
    print(error)
run_with_deadline(60, "Asking", lambda: print("lost"))
"""
    # With this variable the buffer would be empty when the child is created.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment)
    assert (done.stdout, done.stderr) == ("buffered\nAsking was stopped by another program.\nexit\n", "")


def test_a_child_that_hangs_keeps_nobody_waiting_for_the_output() -> None:
    """A child that is stuck in the kernel stays alive. A reader of the parent's output still reaches the end of the
    output.
    """
    program = f"""
import os, signal
from {deadline.__name__} import iterate_with_deadline
def hang():
    yield os.getpid()
    signal.pause()
answers = iterate_with_deadline(60, "Asking", hang)
print(next(answers), flush=True)
os._exit(0)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=LONG)
    os.kill(int(done.stdout), signal.SIGKILL)


def test_functions_that_hang_take_the_time_once() -> None:
    running = children()
    functions = {"quick": os.getpid, "broken": refuse, **{f"hung {number}": signal.pause for number in range(20)}}
    start = time.monotonic()
    found = run_all_with_deadline(2, "Reading {}", functions)
    assert time.monotonic() - start < 2 * len(functions)  # a generous bound: one by one they take longer
    assert list(found) == list(functions)
    assert isinstance(found["quick"], int)
    assert isinstance(found["broken"], NoSpace)
    assert all(isinstance(found[name], CommandFailed) for name in functions if name.startswith("hung"))
    assert str(found["hung 3"]).startswith("Reading hung 3 did not end")
    assert children() == running


def test_any_number_of_functions_that_hang_leaves_the_others_their_time() -> None:
    functions = {**{f"hung {number}": signal.pause for number in range(100)}, "quick": os.getpid}
    found = run_all_with_deadline(5, "Reading {}", functions)
    assert isinstance(found["quick"], int)
    assert {type(found[name]) for name in functions if name != "quick"} == {TimedOut}


def test_what_the_child_started_is_stopped_too() -> None:
    def start() -> Iterator[int]:
        with subprocess.Popen(["sleep", "1000"]) as command:
            yield command.pid
            signal.pause()

    answers = iterate_with_deadline(LONG, "Starting", start)
    command = os.pidfd_open(next(answers))
    answers.close()
    assert select.select([command], [], [], LONG)[0] == [command]
    os.close(command)
