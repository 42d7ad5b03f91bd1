# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import sys

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.command import run
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import CommandFailed


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
    with pytest.raises(CommandFailed, match="'no-such-command' is not installed on this host"):
        run(["no-such-command"])


def test_a_failing_command_gives_its_last_line() -> None:
    with pytest.raises(CommandFailed, match=r"exit code 3: the reason$"):
        run(["sh", "-c", "echo noise >&2; echo the reason >&2; exit 3"])


def test_other_exit_codes_can_be_answers() -> None:
    assert run(["sh", "-c", "exit 3"], accept=(0, 3)).returncode == 3


def test_a_command_that_hangs_is_stopped_at_its_deadline() -> None:
    with pytest.raises(CommandFailed, match=r"did not end within 0\.1 seconds"):
        run(["sleep", "60"], timeout=0.1)
