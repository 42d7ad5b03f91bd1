# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.process import Process

#: Upper bound in seconds for a command of these tests on a busy machine.
DEADLINE = 60

LIST = (
    "import os; numbers = sorted(map(int, os.listdir('/proc/self/fd'))); "
    "print(*(number for number in numbers if os.path.exists(f'/proc/self/fd/{number}')))"
)


@contextmanager
def run_process(*argv: str, passed: tuple[int, ...] = ()) -> Iterator[Process]:
    made = Process(argv, dict(os.environ), passed)
    try:
        yield made
    finally:
        made.kill()
        assert made.wait(DEADLINE)
        made.close()


def output(*argv: str, passed: tuple[int, ...] = ()) -> str:
    with run_process(*argv, passed=passed) as made:
        made.close_input()
        with open(made.stdout, closefd=False) as file:
            text = file.read()
        assert made.wait(DEADLINE)
        assert made.returncode == 0
        return text


@pytest.fixture
def inheritable(tmp_path: Path) -> Iterator[int]:
    """Yield a descriptor that exec doesn't close, as inherited from another program."""
    (tmp_path / "left").write_text("left open")
    descriptor = os.open(tmp_path / "left", os.O_RDONLY)
    os.set_inheritable(descriptor, True)
    yield descriptor
    os.close(descriptor)


def test_a_command_gets_no_other_descriptors(inheritable: int) -> None:
    assert output(sys.executable, "-IS", "-c", LIST).split() == ["0", "1", "2"]


def test_a_command_gets_those_it_is_given(inheritable: int, tmp_path: Path) -> None:
    (tmp_path / "given").write_text("what is in there")
    given = os.open(tmp_path / "given", os.O_RDONLY)
    try:
        assert output(sys.executable, "-IS", "-c", LIST, passed=(given,)).split() == ["0", "1", "2", str(given)]
        assert output("cat", f"/proc/self/fd/{given}", passed=(given,)) == "what is in there"
        assert output("cat", f"/proc/self/fd/{inheritable}", passed=(given, inheritable)) == "left open"
        assert not os.get_inheritable(given)
    finally:
        os.close(given)


def test_pipes_keep_apart_where_standard_descriptors_are_closed() -> None:
    program = (
        "import os, sys; from ansible_collections.granary.vmstore.plugins.module_utils._core.command import run\n"
        "for descriptor in (0, 1, 2): os.close(descriptor)\n"
        "done = run(['sh', '-c', 'read line; echo out $line; echo err $line >&2'], stdin='in\\n')\n"
        "os.write(int(sys.argv[1]), f'{done.stdout}{done.stderr}'.encode())\n"
    )
    reading, writing = os.pipe()
    with open(reading) as file:
        subprocess.run([sys.executable, "-c", program, str(writing)], check=True, pass_fds=[writing])
        os.close(writing)
        assert file.read() == "out in\nerr in\n"


def test_signals_end_a_command_as_they_should() -> None:
    """Python itself ignores SIGPIPE, and child processes inherit this setting."""
    ignored = int(output("grep", "SigIgn", "/proc/self/status").split()[1], 16)
    assert not ignored & (1 << signal.SIGPIPE - 1 | 1 << signal.SIGXFSZ - 1)
    with run_process("yes") as made:
        os.close(made.stdout)
        made._open.remove(made.stdout)
        assert made.wait(DEADLINE)
        assert made.returncode == -signal.SIGPIPE


def test_the_end_is_waited_for_and_kept() -> None:
    with run_process("sh", "-c", "read line; exit 7") as made:
        assert not made.wait(0)
        assert not made.wait(0.01)
        made.close_input()
        made.close_input()
        assert made.wait(DEADLINE)
        assert made.wait(0)
        made.kill()  # another process may have its number by then
        assert made.returncode == 7


def test_a_command_that_is_killed() -> None:
    with run_process("sleep", "60") as made:
        made.kill()
        assert made.wait(DEADLINE)
        assert made.returncode == -signal.SIGKILL


def test_where_ended_children_are_forgotten() -> None:
    """Children of a program that ignores SIGCHLD inherit this setting."""
    program = (
        "from ansible_collections.granary.vmstore.plugins.module_utils._core.command import run; "
        "print(run(['echo', 'done'], timeout=60).stdout)"
    )
    ignoring = ["env", "--ignore-signal=CHLD", sys.executable, "-c", program]
    assert subprocess.run(ignoring, capture_output=True, text=True, check=True).stdout == "done\n\n"


@pytest.mark.parametrize(
    ("name", "mode", "error"),
    [("missing", None, FileNotFoundError), ("x", 0o644, PermissionError), ("y", 0o755, OSError)],
    ids=["missing", "mode", "empty"],
)
def test_nothing_is_left_open_of_a_command_that_cannot_be_started(
    tmp_path: Path, name: str, mode: int | None, error: type[OSError]
) -> None:
    if mode is not None:
        (tmp_path / name).write_bytes(b"\0\1no program")
        (tmp_path / name).chmod(mode)
    before = os.listdir("/proc/self/fd")
    with pytest.raises(error):
        Process([str(tmp_path / name)], {})
    assert os.listdir("/proc/self/fd") == before


def test_no_other_process_keeps_the_pipes_open() -> None:
    """With the pipes inherited by another process, a command would never reach the end of its input."""
    with run_process("cat") as first, run_process("sleep", "60"):
        first.close_input()
        assert first.wait(DEADLINE)
