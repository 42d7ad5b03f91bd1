# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""The wrapper that the role hypervisor installs: what it runs, as whom, and with which arguments."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Execute = Callable[..., str]

WRAPPER = "/usr/local/libexec/granary-virtiofsd"

#: Runs in the host as root: starts the wrapper on a directory and tells of each process of the daemon what it was called with and who it is.
START = """
import json, os, pathlib, pwd, subprocess, sys, tempfile, time
wrapper, shared = sys.argv[1:]
def text(path):
    return pathlib.Path(path).read_bytes().decode()
with tempfile.TemporaryDirectory() as directory:
    os.chown(directory, pwd.getpwnam("oneadmin").pw_uid, -1)
    socket = directory + "/socket"
    command = [wrapper, "--shared-dir", shared, "--socket-path", socket, "--uid-map", ":0:100000:65536:", "--gid-map", ":0:100000:65536:"]
    daemon = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
    end = time.monotonic() + 30
    while not os.path.exists(socket) and daemon.poll() is None and time.monotonic() < end:
        time.sleep(0.02)
    seen = {}
    if daemon.poll() is None:
        status = dict(line.split(":", 1) for line in text(f"/proc/{daemon.pid}/status").splitlines())
        seen = {"arguments": text(f"/proc/{daemon.pid}/cmdline").split("\\0")[:-1], "program": os.readlink(f"/proc/{daemon.pid}/exe"),
                "uids": status["Uid"].split(), "groups": status["Groups"].split(), "command": command}
        daemon.kill()
    seen["error"] = daemon.communicate()[1].decode()
    print(json.dumps(seen))
"""


@pytest.mark.parametrize("name", ["plain", "with blanks ", "it's \"quoted\"", "$(touch /pwned) `id` $HOME", "two\nlines", "-dash", "*?[a]\\", "ümläut"])
def test_arguments_arrive_as_they_are(execute: Execute, directory: Callable[..., str], name: str) -> None:
    path = directory("hv1", f"/srv/wrapper/{name}")
    seen = json.loads(execute("hv1", "python3", "-c", START, WRAPPER, path))
    assert seen["arguments"][1:] == seen["command"][1:], seen["error"]
    assert seen["arguments"][2] == path
    assert seen["program"] == "/usr/libexec/virtiofsd"
    assert execute("hv1", "ls", "/pwned", check=False) == ""


def test_the_daemon_is_not_root(execute: Execute, directory: Callable[..., str]) -> None:
    seen = json.loads(execute("hv1", "python3", "-c", START, WRAPPER, directory("hv1", "/srv/wrapper/user")))
    user, group = execute("hv1", "id", "-u", "oneadmin").strip(), execute("hv1", "id", "-g", "oneadmin").strip()
    # Itself, or already the first of its subordinate ids.
    assert set(seen["uids"]) <= {user, "100000"}, seen
    assert set(seen["groups"]) <= {group, "100000"}, seen


def test_capabilities_are_told_to_root(execute: Execute) -> None:
    assert json.loads(execute("hv1", WRAPPER, "--print-capabilities")) == json.loads(execute("hv1", "/usr/libexec/virtiofsd", "--print-capabilities"))


@pytest.mark.parametrize(
    ("hidden", "message"),
    [
        ("/usr/bin/setpriv", "granary-virtiofsd: setpriv is missing: install the package util-linux.\n"),
        ("/usr/bin/newuidmap", "granary-virtiofsd: newuidmap is missing: install the package uidmap.\n"),
        ("/usr/libexec/virtiofsd", "granary-virtiofsd: /usr/libexec/virtiofsd is missing: install the package virtiofsd.\n"),
        ("/etc/passwd", "granary-virtiofsd: there is no user oneadmin: run the role granary.vmstore.hypervisor.\n"),
    ],
)
def test_what_is_missing_is_named(execute: Execute, hidden: str, message: str) -> None:
    script = 'mount --bind /dev/null "$0" && "$1" --shared-dir /srv 2>&1; echo "$?"'
    assert execute("hv1", "unshare", "--mount", "sh", "-c", script, hidden, WRAPPER) == f"{message}1\n"


def test_only_root_can_change_it(execute: Execute) -> None:
    assert execute("hv1", "stat", "--format=%U:%G %a", WRAPPER) == "root:root 755\n"


def test_it_is_a_clean_shell_script(execute: Execute, tmp_path: Path) -> None:
    script = tmp_path / "granary-virtiofsd"
    script.write_text(execute("hv1", "cat", WRAPPER))
    done = subprocess.run([Path(sys.executable).with_name("shellcheck"), script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_apparmor_lets_libvirtd_run_it(execute: Execute) -> None:
    # libvirtd's profile names what libvirtd may start, and includes this file.
    assert f"{WRAPPER} PUx,\n" in execute("hv1", "cat", "/etc/apparmor.d/local/usr.sbin.libvirtd")
    assert "include if exists <local/usr.sbin.libvirtd>" in execute("hv1", "cat", "/etc/apparmor.d/usr.sbin.libvirtd")


def test_there_is_none_where_ids_cant_be_mapped(execute: Execute) -> None:
    assert execute("old", "ls", WRAPPER, check=False) == ""
