# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""The command line and scenarios, as a user runs them."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from documentation import block

HARNESS = Path(__file__).resolve().parents[3]


class Shell:
    """A runner of the program with a runtime directory of its own, without other datastores."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.environment = {
            **os.environ,
            "PYTHONPATH": str(HARNESS),
            "SIMULATED_DATASTORE_RUNTIME": str(root / "run"),
            "LC_ALL": "C",
        }

    def __call__(self, *words: object, code: int = 0) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "simulated_datastore", *map(str, words)],
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
            env=self.environment,
            cwd=self.root,
        )
        assert done.returncode == code, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        if code == 1:
            assert done.stdout == ""
            assert done.stderr.startswith("simulated-datastore: ")
            assert done.stderr.count("\n") == 1
        return done.stdout if code in (0, 3) else done.stderr

    def json(self, *words: object) -> Any:
        return json.loads(self(*words, "--json"))


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    for name in ("backing", "one", "two"):
        (tmp_path / name).mkdir()
    shell = Shell(tmp_path)
    yield shell
    for name in shell.json("status"):
        shell("umount", "-d", name)


def test_a_session(shell: Shell) -> None:
    root = shell.root
    log = root / "log"
    assert "backing: mounted at" in shell("mount", "backing", "one", "--log", log)
    shell("mount", "backing", "two", "--client", "host2", "--profile", "nfs3", "--squash", "none")
    shell("set", "size=1M", "crash_tracking=true")
    shell("rule", "add", "ops=write,create", "path=*.qcow2", "error=EDQUOT")
    assert (
        subprocess.run(
            ["sh", "-c", "echo x > one/a.qcow2"], cwd=root, check=False, stderr=subprocess.DEVNULL
        ).returncode
        != 0
    )
    assert "rule-1" in shell("rule", "list")
    assert shell.json("rule", "add", "-d", "backing", "id=later", "ops=mkdir", "--json", "times=1")[0]["id"] == "later"
    assert shell.json("rule", "list")[0]["hits"] == 1
    (root / "two/file").write_text("content")
    assert shell.json("status")["backing"]["capacity"]["size"] == 1 << 20
    assert "host2" in shell("status")
    assert "EDQUOT" in shell("ledger", "--rule", "rule-1")
    assert "write" in shell("ledger", "--summary")
    shell("ledger", "--mark", "here")
    assert shell.json("ledger", "--since", "here") == []
    shell("rule", "clear")
    assert shell.json("rule", "add", "ops=write", "path=10")[0]["path"] == "10"
    assert "No entries match." in shell("ledger", "--rule", "rule-2", "--op", "read,write")
    shell("set", "latency.read=0.001", "latency.write=0.002")
    shell("set", "latency.fsync=0.003", "latency.write=null")
    assert shell.json("status")["backing"]["schedule"]["latency"] == {"read": 0.001, "fsync": 0.003}
    assert 'latency={"read": 0.001, "fsync": 0.003}' in shell("status")
    shell("set", "latency=0")
    (root / "one/unsynced").write_text("x")
    assert "/unsynced" in shell("crash", "unsynced")
    states = shell("crash", "states", "limit=2")
    assert "write 1@0" in states
    # With or without the name; empty, with the byte, and with a zero.
    assert states.endswith("\n2 of 6 states\n")
    assert "create /unsynced" in shell("crash", "now", "keep=none", "restart=true")
    assert not (root / "one/unsynced").exists()
    shell("umount", "--client", "host2")
    shell("umount")
    assert "There is no datastore." in shell("status")
    assert " ERROR " not in log.read_text()


def test_what_is_refused(shell: Shell) -> None:
    assert "There is no datastore" in shell("set", "size=1M", code=1)
    assert "isn't a directory" in shell("mount", "backing", "three", code=1)
    shell("mount", "backing", "one", "--log", shell.root / "log")
    assert "in use" in shell("mount", "backing", "one", "--client", "other", code=1)
    assert "mounted already" in shell("mount", "backing", "two", code=1)
    assert "did you mean 'size'" in shell("set", "sizes=1M", code=1)
    assert "KEY=VALUE" in shell("set", "size", code=1)
    assert "neither true nor false" in shell("set", "crash_tracking=no", code=1)
    assert "give state= as well" in shell("set", "delay=2", code=1)
    assert "isn't a list" in shell("set", "quotas=uid=1000", code=1)
    assert "name the operations" in shell("rule", "add", "path=x", code=1)
    assert "give action=delay" in shell("rule", "add", "ops=write", "delay=0.1", code=1)
    assert "only an fsync" in shell("rule", "add", "ops=write", "dirty=forget", code=1)
    assert "crash tracking" in shell("crash", "unsynced", code=1)
    assert "There is no datastore 'bakcing'" in shell("umount", "-d", "bakcing", code=1)
    assert "did you mean 'ops'" in shell("rule", "add", "op=write", code=1)
    assert "crash tracking" in shell("crash", "now", code=1)
    (shell.root / "one/file").write_bytes(b"x" * 100_000)
    assert "below the" in shell("set", "size=4096", code=1)
    assert "usage" in shell("explode", code=2)
    assert "unrecognized" in shell("rule", "add", "ops=write", "--eror=EIO", code=2)


def test_without_fuse(shell: Shell) -> None:
    hidden = 'mount -t tmpfs none /dev && mknod -m 666 /dev/null c 1 3 && mknod -m 666 /dev/urandom c 1 9 && exec "$@"'
    command = [
        "unshare",
        "--mount",
        "sh",
        "-c",
        hidden,
        "sh",
        sys.executable,
        "-m",
        "simulated_datastore",
        "mount",
        "backing",
        "one",
        "--log",
        "log",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=shell.environment, cwd=shell.root)
    assert (done.returncode, done.stdout) == (1, "")
    assert (
        done.stderr
        == "simulated-datastore: There is no /dev/fuse: load the kernel module fuse, or give the container the "
        "device.\n"
    )


def test_a_dead_daemon(shell: Shell) -> None:
    shell("mount", "backing", "one", "--log", shell.root / "log")
    pid = shell.json("status")["backing"]["pid"]
    (shell.root / "run/other").mkdir()
    assert "no datastore 'other'" in shell("set", "-d", "other", "size=1M", code=1)
    (shell.root / "run/other").rmdir()
    os.kill(pid, 9)
    # The watchdog may still be at work: the start removes the rest.
    shell("mount", "backing", "one", "--log", shell.root / "log")


def test_while_other_datastores_come_and_go(shell: Shell) -> None:
    """Other datastores start or end meanwhile, and a foreign file is in the runtime directory."""
    shell("mount", "backing", "one", "--log", "log")
    (shell.root / "other").mkdir()
    (shell.root / "run/a-directory/in-there").mkdir(parents=True)
    (shell.root / "run/a-file").write_text("[]")
    program = shlex.join([sys.executable, "-m", "simulated_datastore"])
    loop = f"for i in 1 2 3 4; do {program} mount other two --log log && {program} umount -d other || exit 1; done"
    others = subprocess.Popen(["sh", "-c", loop], env=shell.environment, cwd=shell.root, stdout=subprocess.DEVNULL)
    asked = 0
    while others.poll() is None:
        assert "backing" in shell.json("status")
        shell("-d", "backing", "set", "size=1M")
        asked += 1
    assert others.returncode == 0
    assert asked
    assert list(shell.json("status")) == ["backing"]
    shell("set", "size=2M")
    # Waiting commands continue after the end of the datastore.
    shell("mount", "other", "two", "--log", "log")
    ending = subprocess.Popen(
        [sys.executable, "-m", "simulated_datastore", "umount", "-d", "other"],
        env=shell.environment,
        cwd=shell.root,
        stdout=subprocess.DEVNULL,
    )
    again = subprocess.run(
        [sys.executable, "-m", "simulated_datastore", "mount", "other", "two", "--log", "log", "--client", "host2"],
        env=shell.environment,
        cwd=shell.root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ending.wait(60) == 0
    # The only accepted error is about a mount that still exists.
    assert again.returncode == 0 or "in use" in again.stderr, again.stderr


SCENARIO = """
clients:
  - {client: host1, profile: nfs3, squash: none}
  - {client: host2}
settings: {size: 1M, error_at: write}
rules:
  - {id: torn, ops: [write], path: "*.raw", action: torn}
steps:
  - name: the disk fills
    run: [dd, if=/dev/zero, "of={host1}/big", bs=64k, count=100]
    exit: 1
    stderr: No space left
  - {name: it is deleted, run: [rm, "{host2}/big"], mark: after}
  - name: a rule
    rule: {id: slow, ops: [mkdir], action: delay, delay: 0.01}
    run: [mkdir, "{host2}/dir"]
    expect: {rule: slow, count: 1}
  - {name: read only, set: {state: read-only}, run: [touch, "{host1}/x"], exit: 1}
  - {name: nothing was written, expect: {op: write, since: after, count: 0}}
"""


def test_a_scenario(shell: Shell) -> None:
    path = shell.root / "full.yml"
    path.write_text(SCENARIO)
    assert [(step["step"], step["problem"]) for step in shell.json("run", path)] == [
        (name, "") for name in ("the disk fills", "it is deleted", "a rule", "read only", "nothing was written")
    ]
    path.write_text(SCENARIO.replace("exit: 1\n", "exit: 0\n"))
    assert "FAILED  the disk fills: 'dd' ended with 1, expected 0" in shell("run", path, code=3)
    path.write_text(SCENARIO.replace("settings:", "setings:"))
    assert "did you mean 'settings'" in shell("run", path, code=1)
    path.write_text(SCENARIO.replace("action: torn", "action: tear"))
    assert "scenario.rules[0].action" in shell("run", path, code=1)
    path.write_text("clients: [")
    assert "isn't YAML" in shell("run", path, code=1)
    assert "can't be read" in shell("run", "nothing.yml", code=1)
    assert shell("status") == "There is no datastore.\n"


def test_the_scenario_of_the_page(shell: Shell) -> None:
    path = shell.root / "page.yml"
    path.write_text(block("tests/harness/README.md", "Scenarios").text)
    names = [step["name"] for step in yaml.safe_load(path.read_text())["steps"]]
    assert len(names) > 2
    assert [(step["step"], step["problem"]) for step in shell.json("run", path)] == [(name, "") for name in names]


def test_a_scenario_whose_command_hangs(shell: Shell) -> None:
    path = shell.root / "hangs.yml"
    path.write_text(
        "clients: [{client: host1}]\nsteps:\n  - {rule: {ops: [lookup], action: hang, path: x}, run: [cat, "
        "'{host1}/x'], deadline: 1}\n"
        "  - {run: [touch, '{host1}/y']}\n"
    )
    assert "FAILED  step 1: 'cat' didn't end within 1 seconds" in (out := shell("run", path, code=3))
    assert "ok      step 2" in out
    path.write_text("clients: [{client: host1}]\nsteps: [{run: [touch, '{host9}/y']}]\n")
    assert "the clients are host1" in shell("run", path, code=1)


def test_a_scenario_in_which_a_command_must_hang(shell: Shell) -> None:
    path = shell.root / "hangs.yml"
    path.write_text("""
clients: [{client: host1, profile: nfs3, squash: none}]
steps:
  - {name: it hangs, set: {state: hung}, run: [sh, -c, "echo x > {host1}/x"], expect: hang}
  - {name: so does another, run: [ls, "{host1}"], expect: hang}
  - {name: nothing hangs, set: {state: up}, run: [ls, "{host1}"]}
""")
    assert [(step["step"], step["problem"]) for step in shell.json("run", path)] == [
        (name, "") for name in ("it hangs", "so does another", "nothing hangs")
    ]
    path.write_text(
        "clients: [{client: host1}]\nsteps:\n  - {run: [ls, '{host1}'], expect: hang}\n"
        "  - {set: {state: slow, delay: 30}, run: [ls, '{host1}'], expect: hang, deadline: 1}\n  - {run: ['/nothing'], "
        "expect: hang}\n"
    )
    problems = [step["problem"] for step in json.loads(shell("run", path, "--json", code=3))]
    assert [
        ("had to hang" in problems[0]),
        ("didn't hang within 1 seconds" in problems[1]),
        ("can't be run" in problems[2]),
    ] == [True] * 3, problems
    path.write_text("clients: [{client: host1}]\nsteps: [{expect: hang}]\n")
    assert "needs a command" in shell("run", path, code=1)
    path.write_text("clients: [{client: host1}]\nsteps: [{run: [ls], expect: hangs}]\n")
    assert "did you mean 'hang'" in shell("run", path, code=1)


def test_a_path_that_a_client_has(shell: Shell) -> None:
    """A path with the mount point would match nothing."""
    shell("mount", "backing", "one", "--log", "log")
    path = f"{shell.root}/one/dir/*.raw"
    for words in (
        ["rule", "add", "ops=write", f"path={path}"],
        ["ledger", "--path", path],
        ["set", "quotas=" + json.dumps([{"path": path, "size": 4096}])],
    ):
        assert f"begins with '{shell.root}/one'" in (refusal := shell(*words, code=1))
        assert "give '/dir/*.raw'" in refusal
    assert "give '/'" in shell("rule", "add", "ops=write", f"path={shell.root}/backing", code=1)
    # A name with the same beginning, and a directory of the same name, are accepted.
    shell("rule", "add", "ops=write", f"path={shell.root}/oneself")
    (shell.root / f"backing{shell.root}/one").mkdir(parents=True)
    shell("rule", "add", "ops=write", f"path={path}")


def test_the_name_comes_before_the_command_or_after_it(shell: Shell) -> None:
    shell("mount", "backing", "one", "--log", "log")
    (shell.root / "other").mkdir()
    shell("mount", "other", "two", "--log", "log")
    assert "there are 2 (backing, other)" in shell("set", "size=1M", code=1)
    shell("-d", "backing", "set", "size=1M")
    shell("set", "-d", "other", "size=2M")
    assert {name: status["capacity"]["size"] for name, status in json.loads(shell("--json", "status")).items()} == {
        "backing": 1 << 20,
        "other": 2 << 20,
    }
    assert list(json.loads(shell("--json", "-d", "other", "status"))) == ["other"]
    assert shell("-d", "third", "status") == "There is no datastore.\n"
    assert "--name" in shell("-d", "third", "mount", "backing", "one", code=2)
    assert "is there already" in shell("mount", "two", "one", "--name", "backing", "--client", "host2", code=1)


def test_a_table_is_for_people(shell: Shell) -> None:
    """A table shortens a long list, and the JSON has all of it."""
    shell("mount", "backing", "one", "--log", "log")
    shell("set", "crash_tracking=true")
    fd = os.open(shell.root / "one/file", os.O_CREAT | os.O_WRONLY)
    for number in range(100):
        os.pwrite(fd, b"x", number * 8192)
    os.close(fd)
    assert "more" in (table := shell("crash", "unsynced"))
    assert len(table) < 1000
    assert len(shell("crash", "states")) < 100_000
    assert len(shell.json("crash", "unsynced")["files"][0]["ranges"]) == 100


def test_without_the_capability(shell: Shell) -> None:
    command = [
        "setpriv",
        "--bounding-set=-sys_admin",
        sys.executable,
        "-m",
        "simulated_datastore",
        "mount",
        "backing",
        "one",
        "--log",
        "log",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=shell.environment, cwd=shell.root)
    assert done.returncode == 1
    assert "lacks the capability CAP_SYS_ADMIN" in done.stderr
    assert "--cap-add SYS_ADMIN" in done.stderr
    assert "fusermount" not in done.stderr


def test_without_root(shell: Shell) -> None:
    """The program runs in a user namespace without rights outside."""
    program = shlex.join([sys.executable, "-m", "simulated_datastore"])
    work = f"""set -e
        {program} mount backing one --log log
        {program} set size=1M
        echo content > one/file
        cat backing/file
        {program} umount"""
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", work],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env=shell.environment,
        cwd=shell.root,
    )
    assert done.returncode == 0, done.stderr
    assert "content" in done.stdout
    # Files of the real root can't be written there.
    unwritable = {"SIMULATED_DATASTORE_RUNTIME": "/proc/simulated-datastore"}
    done = subprocess.run(
        [sys.executable, "-m", "simulated_datastore", "mount", "backing", "one"],
        capture_output=True,
        text=True,
        check=False,
        env={**shell.environment, **unwritable},
        cwd=shell.root,
    )
    assert (done.returncode, "SIMULATED_DATASTORE_RUNTIME" in done.stderr, "Traceback" in done.stderr) == (
        1,
        True,
        False,
    )
    assert "--log names another" in shell("mount", "backing", "one", "--log", "/proc/nothing/log", code=1)


def test_two_clients_of_a_new_datastore_at_once(shell: Shell) -> None:
    command = [sys.executable, "-m", "simulated_datastore", "mount", "backing"]
    both = [
        subprocess.Popen([*command, point, "--client", point, "--log", "log"], env=shell.environment, cwd=shell.root)
        for point in ("one", "two")
    ]
    codes = [each.wait(60) for each in both]
    # The second start is another client, or is refused because the name is being taken. The daemon is always ready.
    assert 0 in codes
    assert set(shell.json("status")["backing"]["clients"]) == {
        point for point, code in zip(("one", "two"), codes, strict=True) if code == 0
    }
