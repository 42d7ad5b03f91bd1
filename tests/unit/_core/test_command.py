# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import itertools
import os
import sys

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core import command
from ansible_collections.granary.vmstore.plugins.module_utils._core.command import Completed, reason, run, stream
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import (
    CommandFailed,
    CommandMissing,
    NotFound,
    TimedOut,
)
from refusal import refused


def test_arguments_reach_the_program_untouched() -> None:
    hostile = ["a b", "$(touch /tmp/x)", "'\"", "-n", "ü\n"]
    done = run([sys.executable, "-c", "import sys; print(sys.argv[1:])", *hostile])
    assert done.stdout.strip() == repr(hostile)


def test_bytes_that_are_not_utf8_survive() -> None:
    done = run([sys.executable, "-c", "import sys; sys.stdout.buffer.write(sys.stdin.buffer.read())"], stdin="\udcff")
    assert done.stdout == "\udcff"


def test_the_locale_is_fixed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    assert "No such file" in run(["ls", "/nowhere"], accept=None).stderr


def test_a_missing_command_is_named() -> None:
    with refused(CommandMissing, says="The command 'no-such-command' is not installed on this host."):
        run(["no-such-command"])


def test_a_failing_command_gives_its_last_line() -> None:
    with refused(CommandFailed, says="The command 'sh' failed with exit code 3: the reason"):
        run(["sh", "-c", "echo noise >&2; echo the reason >&2; exit 3"])


def test_other_exit_codes_can_be_answers() -> None:
    assert run(["sh", "-c", "exit 3"], accept=(0, 3)).returncode == 3


def test_a_command_keeps_to_its_limits() -> None:
    assert run(["sh", "-c", "ulimit -t; ulimit -v"], limits=["--cpu=7", "--as=1048576000"]).stdout.split() == [
        "7",
        "1024000",
    ]


def test_a_command_that_hangs_is_stopped_at_its_deadline() -> None:
    with refused(TimedOut, says="The command 'sleep' did not end within 0.1 seconds and was stopped."):
        run(["sleep", "60"], timeout=0.1)


@pytest.mark.parametrize("script", ["exec yes", "exec yes >&2", "yes & exec yes >&2"])
def test_a_command_that_writes_without_end_is_stopped(script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "MOST_OUTPUT", 1 << 20)
    with refused(CommandFailed, says="The command 'sh' wrote more than 1048576 bytes and was stopped."):
        run(["sh", "-c", script])


def test_as_much_as_may_be_written_is_none_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "MOST_OUTPUT", 1 << 20)
    done = run(["sh", "-c", "head -c 524288 /dev/zero; head -c 524288 /dev/zero >&2"])
    assert (len(done.stdout), len(done.stderr)) == (1 << 19, 1 << 19)


def test_more_than_pipes_hold_goes_in_and_out() -> None:
    sent = "some text\n" * 300_000
    assert run(["tee", "/dev/stderr"], stdin=sent) == Completed(0, sent, sent)


def test_a_command_may_end_before_its_input() -> None:
    assert run(["head", "-c", "3"], stdin="abcd" * 1_000_000).stdout == "abc"


def test_what_another_host_wrote_cannot_act_on_a_terminal() -> None:
    with refused(CommandFailed, says="The command 'sh' failed with exit code 1: ?[31mred?"):
        run(["sh", "-c", r"printf '\033[31mred\377' >&2; exit 1"])


def test_a_stream_passes_on_more_than_pipes_hold() -> None:
    sent = [os.urandom(1 << 20), b"", os.urandom(3), os.urandom(1 << 20)]
    assert b"".join(stream(["cat"], sent, failed=NotFound)) == b"".join(sent)


def test_a_stream_that_fails_gives_the_last_line() -> None:
    with refused(NotFound, says="the reason"):
        list(stream(["sh", "-c", "yes | head -n 100000 >&2; exec >&-; echo the reason >&2; exit 3"], failed=NotFound))


def test_a_streaming_command_may_end_before_its_input() -> None:
    assert b"".join(stream(["head", "-c", "3"], itertools.repeat(b"abcd" * 1000), failed=NotFound)) == b"abc"


def test_a_streaming_command_may_wait_for_the_end_of_its_input() -> None:
    with refused(NotFound, names=["the reason"]):
        list(
            stream(
                ["sh", "-c", "exec >&-; cat >/dev/null; echo the reason >&2; exit 1"],
                itertools.repeat(b"x"),
                failed=NotFound,
                timeout=20,
            )
        )


def test_a_stream_that_stalls_is_stopped() -> None:
    with refused(TimedOut, says="The command 'sleep' did nothing for 0.1 seconds and was stopped."):
        list(stream(["sleep", "60"], failed=NotFound, timeout=0.1))


def test_messages_are_no_progress_of_a_stream() -> None:
    with refused(TimedOut, names=["'sh'"]):
        list(stream(["sh", "-c", "while echo still here >&2; do sleep 0.05; done"], failed=NotFound, timeout=0.3))


def test_messages_without_end_stop_a_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "MOST_STDERR", 1 << 20)
    with refused(CommandFailed, says="The command 'sh' wrote more than 1048576 bytes of messages and was stopped."):
        list(stream(["sh", "-c", "yes >&2 & exec yes"], failed=NotFound))


def test_a_streaming_command_keeps_to_its_limits() -> None:
    assert b"".join(stream(["sh", "-c", "ulimit -t"], failed=NotFound, limits=["--cpu=7"])) == b"7\n"
    with refused(NotFound, says="stopped by SIGKILL"):
        list(stream(["sh", "-c", "while :; do :; done"], failed=NotFound, limits=["--cpu=1"]))
    with refused(TimedOut, names=["'sleep'"]):
        list(stream(["sleep", "60"], failed=NotFound, timeout=0.1, limits=["--cpu=7"]))


def test_a_stream_nobody_wants_any_more_is_stopped() -> None:
    chunks = stream(["sh", "-c", "echo $$; exec yes"], failed=NotFound)
    pid = int(next(chunks).split()[0])
    chunks.close()
    assert not os.path.exists(f"/proc/{pid}")


def test_a_process_left_behind_does_not_hold_a_stream_up() -> None:
    assert list(stream(["sh", "-c", "echo done; sleep 20 >&- 2>&2 & exec >&-"], failed=NotFound, timeout=10)) == [
        b"done\n"
    ]


def test_the_reason_is_before_the_usage() -> None:
    assert (
        reason(Completed(1, "", "size 2560 is too small\nUsage: mkfs.xfs\n<value> is xxx (512 byte blocks).\n"))
        == "size 2560 is too small"
    )
    assert reason(Completed(1, "", "usage: x\nx: error: no such option\n")) == "x: error: no such option"
