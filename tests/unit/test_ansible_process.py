# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""tests/ansible_process.py: its runs equal those of the installed commands."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import ansible_process
import pytest

ANSIBLE = Path(sys.executable).with_name("ansible")
HERE = ["localhost", "-i", "localhost,", "-c", "local", "-e", f"ansible_python_interpreter={sys.executable}"]


@pytest.mark.parametrize(
    "arguments",
    [
        [*HERE, "-m", "ansible.builtin.command", "-a", "cat /proc/self/fd/0"],
        [*HERE, "-m", "ansible.builtin.setup", "-a", "filter=none"],
        [*HERE, "-m", "ansible.builtin.fail"],
        ["localhost", "--no-such-option"],
        ["nowhere", "-i", "missing.yml", "-m", "ansible.builtin.ping"],
    ],
)
def test_output_and_exit_code_are_those_of_the_command(arguments: list[str]) -> None:
    wanted = subprocess.run(
        [ANSIBLE, *arguments], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )
    found = ansible_process.run([ANSIBLE, *arguments])
    assert (found.returncode, found.stdout, found.stderr) == (wanted.returncode, wanted.stdout, wanted.stderr)


def test_each_run_has_its_own_environment_directory_and_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = {"ansible.builtin.debug": {"msg": "{{ lookup('env', 'PATH') }} {{ lookup('pipe', 'pwd') }}"}}
    for number in (1, 2):
        (directory := tmp_path / str(number)).mkdir()
        (directory / "play.json").write_text(
            json.dumps([{"hosts": "localhost", "gather_facts": False, "tasks": [task]}])
        )
        monkeypatch.chdir(directory)
        path = f"{directory}:{os.environ['PATH']}"
        done = ansible_process.run(
            [ANSIBLE.with_name("ansible-playbook"), "-i", "localhost,", "play.json"],
            environment={**os.environ, "PATH": path},
        )
        assert f'"msg": "{path} {directory}"' in done.stdout, done.stderr


def test_settings_of_ansible_are_those_of_the_environment() -> None:
    command = [ANSIBLE, *HERE, "-m", "ansible.builtin.ping"]
    callback = {"ANSIBLE_LOAD_CALLBACK_PLUGINS": "1", "ANSIBLE_STDOUT_CALLBACK": "ansible.builtin.oneline"}
    lines = [len(ansible_process.run(command).stdout.splitlines())]
    lines.append(len(ansible_process.run(command, environment={**os.environ, **callback}).stdout.splitlines()))
    assert lines[0] > lines[1] == 1


def test_a_dead_server_is_an_error() -> None:
    server = ansible_process.Server(os.environ)
    command = [str(ANSIBLE), "--version"]
    assert server.run(command, os.environ).returncode == 0
    (process,) = subprocess.run(
        ["pgrep", "--parent", str(os.getpid()), "--newest", "--full", "ansible_process"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    os.kill(int(process), signal.SIGKILL)
    with pytest.raises(RuntimeError):
        server.run(command, os.environ)
