# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""The wrapper that the role hypervisor installs: its commands, their users, and their arguments."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

Execute = Callable[..., str]

WRAPPER = "/usr/local/libexec/granary-virtiofsd"
SOURCE = Path(__file__).resolve().parents[2] / "plugins" / "module_utils" / "_host" / "virtiofsd" / "wrapper.py"

#: Script that runs in the host as root, starts the wrapper on a directory, and prints the arguments and ids of each
#: daemon process.
START = """
import json, os, pathlib, pwd, subprocess, sys, tempfile, time
wrapper, shared = sys.argv[1:]
def text(path):
    return pathlib.Path(path).read_bytes().decode()
with tempfile.TemporaryDirectory() as directory:
    os.chown(directory, pwd.getpwnam("oneadmin").pw_uid, -1)
    socket = directory + "/socket"
    maps = ["--uid-map", ":0:100000:65536:", "--gid-map", ":0:100000:65536:"]
    command = [wrapper, "--shared-dir", shared, "--socket-path", socket, *maps]
    daemon = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
    end = time.monotonic() + 30
    while not os.path.exists(socket) and daemon.poll() is None and time.monotonic() < end:
        time.sleep(0.02)
    seen = {}
    if daemon.poll() is None:
        status = dict(line.split(":", 1) for line in text(f"/proc/{daemon.pid}/status").splitlines())
        seen = {"arguments": text(f"/proc/{daemon.pid}/cmdline").split("\\0")[:-1],
                "program": os.readlink(f"/proc/{daemon.pid}/exe"),
                "uids": status["Uid"].split(), "groups": status["Groups"].split(), "command": command}
        daemon.kill()
    seen["error"] = daemon.communicate()[1].decode()
    print(json.dumps(seen))
"""


@pytest.mark.parametrize(
    "name",
    [
        "plain",
        "with blanks ",
        'it\'s "quoted"',
        "$(touch /pwned) `id` $HOME",
        "two\nlines",
        "-dash",
        "*?[a]\\",
        "ümläut",
    ],
)
def test_arguments_arrive_as_they_are(execute: Execute, directory: Callable[..., str], name: str) -> None:
    path = directory("hv1", f"/srv/wrapper/{name}")
    seen = json.loads(execute("hv1", "python3", "-c", START, WRAPPER, path))
    assert seen["arguments"][1:] == seen["command"][1:], seen["error"]
    assert seen["arguments"][2] == path
    assert seen["program"] == "/usr/libexec/virtiofsd"
    assert execute("hv1", "ls", "/pwned", check=False) == ""


def test_the_daemon_is_not_root(execute: Execute, directory: Callable[..., str]) -> None:
    seen = json.loads(execute("hv1", "python3", "-c", START, WRAPPER, directory("hv1", "/srv/wrapper/user")))
    user = execute("hv1", "id", "-u", "oneadmin").strip()
    # The id is the user's own, or already the first of its subordinate ids.
    assert set(seen["uids"]) <= {user, "100000"}, seen
    # The user's groups would give a guest access to the catalog and the images.
    assert seen["groups"] == [], seen


def test_capabilities_are_told_to_root(execute: Execute) -> None:
    assert json.loads(execute("hv1", WRAPPER, "--print-capabilities")) == json.loads(
        execute("hv1", "/usr/libexec/virtiofsd", "--print-capabilities")
    )


@pytest.mark.parametrize(
    ("hidden", "message"),
    [
        ("/usr/bin/newuidmap", "granary-virtiofsd: newuidmap is missing: install the package uidmap.\n"),
        (
            "/usr/libexec/virtiofsd",
            "granary-virtiofsd: /usr/libexec/virtiofsd is missing: install the package virtiofsd.\n",
        ),
        ("/etc/passwd", "granary-virtiofsd: there is no user oneadmin: run the role granary.vmstore.hypervisor.\n"),
    ],
)
def test_what_is_missing_is_named(execute: Execute, hidden: str, message: str) -> None:
    script = 'mount --bind /dev/null "$0" && "$1" --shared-dir /srv 2>&1; echo "$?"'
    assert execute("hv1", "unshare", "--mount", "sh", "-c", script, hidden, WRAPPER) == f"{message}1\n"


def test_only_root_can_change_it(execute: Execute) -> None:
    assert execute("hv1", "stat", "--format=%U:%G %a", WRAPPER) == "root:root 755\n"


def test_a_host_without_the_configuration_says_what_to_do(execute: Execute) -> None:
    script = 'mount -t tmpfs none /etc/granary-vmstore && "$0" --shared-dir /srv 2>&1; echo "$?"'
    said = execute("hv1", "unshare", "--mount", "sh", "-c", script, WRAPPER)
    assert (
        said == "granary-virtiofsd: /etc/granary-vmstore/virtiofsd.json is missing: run the role "
        "granary.vmstore.hypervisor.\n1\n"
    )


def test_it_is_the_file_that_the_modules_use(execute: Execute) -> None:
    assert execute("hv1", "cat", WRAPPER) == "#!/usr/bin/python3 -IS\n" + SOURCE.read_text()


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--uid-map", ":0:100000:9:"),
        ("--uid-map=:1000:100000:9:", "--gid-map=:0:100000:9:"),
        ("--uid-map=:0:100000:9:", "--gid-map=:7:100000:9:"),
    ],
)
def test_a_guest_whose_root_would_be_the_service_user_does_not_start(
    execute: Execute, arguments: tuple[str, ...]
) -> None:
    said = execute("hv1", "sh", "-c", '"$0" "$@" 2>&1; echo "$?"', WRAPPER, "--shared-dir", "/srv", *arguments)
    assert "to the guest's id 0, so the guest could use files of the user oneadmin" in said
    assert said.endswith("\n1\n")


def test_apparmor_lets_libvirtd_run_it(execute: Execute) -> None:
    # libvirtd's profile lists the programs that libvirtd may start, and includes this file.
    assert f"{WRAPPER} PUx,\n" in execute("hv1", "cat", "/etc/apparmor.d/local/usr.sbin.libvirtd")
    assert "include if exists <local/usr.sbin.libvirtd>" in execute("hv1", "cat", "/etc/apparmor.d/usr.sbin.libvirtd")


def test_there_is_none_where_ids_cant_be_mapped(execute: Execute) -> None:
    assert execute("old", "ls", WRAPPER, check=False) == ""
