# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""The functions for driver scripts of a site, in the shells that a site uses."""

from __future__ import annotations

import os
import re
import shlex
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import PathNotAllowed
from ansible_collections.granary.vmstore.plugins.module_utils._core.plan import Plan
from ansible_collections.granary.vmstore.plugins.module_utils._service.drivers.helper_functions import (
    helper_functions,
    plan_helper_functions,
)
from documentation import block
from refusal import refused
from ssh_hosts import make_key, server_command, write_client

TENANT = 61001

#: A text that would run a command if a shell evaluated the text.
HOSTILE = "a'b\"c $(touch pwned) `touch pwned` %s \\n *"

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(params=["dash", "bash", "bash --posix"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Run:
    """Run a script that sources the functions, and return its result. No hostile text may be evaluated."""
    (tmp_path / "scripts_common.sh").write_text(helper_functions())

    def run_script(script: str, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        (tmp_path / "script").write_text(f". {tmp_path}/scripts_common.sh\n{script}\n")
        command = [*request.param.split(), str(tmp_path / "script"), *arguments]
        done = subprocess.run(
            command, input=stdin, capture_output=True, text=True, cwd=tmp_path, timeout=60, check=False
        )
        assert not (tmp_path / "pwned").exists()
        return done

    return run_script


def log_of(stderr: str) -> list[str]:
    """Return the lines that a front-end writes to its log (design: driver contract)."""
    return [line for line in stderr.splitlines() if re.match("(ERROR|INFO|WARN|DEBUG): ", line)]


def message_of(stderr: str) -> str:
    """Return the message that a front-end gives the user."""
    return "".join(line for line in stderr.splitlines() if not re.match("(ERROR|INFO|WARN|DEBUG): ", line))


def test_shellcheck_accepts_the_file(tmp_path: Path) -> None:
    (tmp_path / "scripts_common.sh").write_text(helper_functions())
    done = subprocess.run(["shellcheck", tmp_path / "scripts_common.sh"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_a_text_is_one_line_of_the_log(run: Run) -> None:
    done = run('log "$1"', f"{HOSTILE}\nERROR: x\r\x1b[31m\té")
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == f"INFO: {HOSTILE} ERROR: x  [31m é\n"


@pytest.mark.parametrize("text", ["File 'x' not found", HOSTILE, "ERROR: x", "INFO: x\nDEBUG: y", "-n", "", "é"])
def test_a_message_is_one_line_for_the_user(run: Run, text: str) -> None:
    done = run('error_message "$1"', text)
    assert log_of(done.stderr) == []
    assert message_of(done.stderr).strip() == text.replace("\n", " ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("argument", "host", "path"),
    [
        ("h1:/var/lib/one//datastores/0/1/disk.0", "h1", "/var/lib/one/datastores/0/1/disk.0"),
        ("h1.example.com:/srv/", "h1.example.com", "/srv"),
        ("h1:/", "h1", "/"),
        ("h1://", "h1", "/"),
        ("2001:db8::1:/srv/a:/b", "2001:db8::1", "/srv/a:/b"),
        ("h1:/$(touch pwned)", "h1", "/$(touch pwned)"),
    ],
)
def test_arguments_have_a_host_and_a_path(run: Run, argument: str, host: str, path: str) -> None:
    assert run('arg_host "$1"; arg_path "$1"', argument).stdout == f"{host}\n{path}\n"


@pytest.mark.parametrize("argument", ["", "/srv", "h1", "h1:srv", ":/srv", "-oProxyCommand=id:/srv"])
@pytest.mark.parametrize("function", ["arg_host", "arg_path"])
def test_other_arguments_are_refused(run: Run, function: str, argument: str) -> None:
    done = run(f'set -e; found=$({function} "$1"); echo "$found"', argument)
    assert (done.returncode, done.stdout) == (1, "")
    assert message_of(done.stderr) == f"'{argument}' is not accepted: HOST:PATH with an absolute path is expected."


@pytest.mark.parametrize("options", ["", "set -eu", "set -u"])
def test_a_command_is_logged(run: Run, options: str) -> None:
    """The output of the command isn't the result of the script, and the script's input isn't the command's."""
    done = run(f'{options}\nexec_and_log "echo output; cat"; cat', stdin="document")
    assert (done.returncode, done.stdout) == (0, "document")
    assert done.stderr == 'INFO: Executed "echo output; cat".\n'


@pytest.mark.parametrize("options", ["", "set -eu", "set -u"])
def test_a_command_that_fails_ends_the_script(run: Run, options: str) -> None:
    done = run(f"{options}\nexec_and_log \"echo first; echo 'the reason' >&2; exit 7\"; echo next")
    assert (done.returncode, done.stdout) == (7, "")
    assert log_of(done.stderr) == [
        "ERROR: Command \"echo first; echo 'the reason' >&2; exit 7\" failed: the reason",
    ]
    assert message_of(done.stderr) == ("Error executing echo first; echo 'the reason' >&2; exit 7: the reason")


def test_a_message_of_the_script_comes_first(run: Run) -> None:
    done = run('exec_and_log false "$1"', HOSTILE)
    assert (done.returncode, message_of(done.stderr)) == (1, HOSTILE)


@pytest.mark.parametrize("size", [10, 10_000_000])
def test_words_of_a_command_are_only_words(run: Run, size: int) -> None:
    """A file with a hostile name fails the command, and there may be much more output than anybody wants to read."""
    script = f"exec_and_log \"head -c {size} /dev/zero >&2; printf '%s' '\\$(touch pwned)' >&2; false\""
    done = run(script)
    assert done.returncode == 1
    assert "$(touch pwned)" in message_of(done.stderr)
    assert len(done.stderr) < 10_000


def test_a_command_may_take_so_long(run: Run) -> None:
    assert run('timeout_exec_and_log 60 "true"').stderr == 'INFO: Executed "true".\n'
    done = run('timeout_exec_and_log 60 "exit 3" "no copy"')
    assert (done.returncode, message_of(done.stderr)) == (3, "no copy")
    done = run('timeout_exec_and_log 1 "exec sleep 60"; echo next')
    assert (done.returncode, done.stdout) == (124, "")
    assert message_of(done.stderr) == "Error executing exec sleep 60: it took longer than 1 seconds"


@pytest.mark.parametrize("seconds", ["", "0", "-1", "1.5", "$(touch pwned)", "5m"])
def test_a_time_is_a_number_of_seconds(run: Run, seconds: str) -> None:
    done = run('timeout_exec_and_log "$1" "echo ran >&2"', seconds)
    assert (done.returncode, log_of(done.stderr)) == (1, [])
    assert message_of(done.stderr) == (
        f"timeout_exec_and_log: '{seconds}' is not accepted: a number of seconds of at least 1 is expected."
    )


# Other hosts


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the name of a host with a real sshd(8), which each connection starts."""
    make_key(tmp_path / "host")
    (tmp_path / "authorized_keys").write_text(make_key(tmp_path / "key"))
    server = server_command(tmp_path, "PermitRootLogin yes", "Subsystem sftp internal-sftp")
    binaries = write_client(tmp_path, f"Host h1\n  ProxyCommand {shlex.join(server)}\n", key="key", user="root")
    monkeypatch.setenv("PATH", f"{binaries}:{os.environ['PATH']}")
    return "h1"


def test_a_command_on_another_host(run: Run, host: str, tmp_path: Path) -> None:
    made = tmp_path / 'it\'s "made" $x'
    done = run('ssh_exec_and_log "$1" "$2" "Error message"; cat', host, f"touch {shlex.quote(str(made))}", stdin="rest")
    assert (done.returncode, done.stdout) == (0, "rest")
    assert made.exists()
    done = run('ssh_exec_and_log "$1" "echo no >&2; exit 9" "Error message"; echo next', host)
    assert (done.returncode, done.stdout, message_of(done.stderr)) == (9, "", "Error message")
    assert log_of(done.stderr) == ['ERROR: Command "echo no >&2; exit 9" failed: no']


def test_the_script_of_the_page_works(run: Run, host: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bin" / "scp").write_text(f'#!/bin/sh\nexec /usr/bin/scp -F {tmp_path}/client "$@"\n')
    (tmp_path / "bin" / "scp").chmod(0o755)
    script = block("roles/opennebula_drivers/README.md", "Functions for your own driver scripts").text
    (tmp_path / "image").write_text("image")
    done = run(
        script.partition("scripts_common.sh")[2].partition("\n")[2],
        f"front:{tmp_path}//image",
        f"h1:{tmp_path}/7/disk.0",
    )
    assert (done.returncode, done.stdout, message_of(done.stderr)) == (0, "", "")
    assert log_of(done.stderr)[-1] == f"INFO: {tmp_path}/7/disk.0 has the image"
    assert (tmp_path / "7" / "disk.0").read_text() == "image"


@pytest.mark.parametrize("name", ["dead", "-oProxyCommand=touch pwned"])
def test_a_host_that_cant_be_reached(run: Run, host: str, name: str) -> None:
    done = run('ssh_exec_and_log "$1" true', name)
    assert done.returncode == 255
    assert message_of(done.stderr).startswith("Error executing true: ")


# The file in the directory of remotes


@pytest.fixture
def kept() -> Iterator[Path]:
    """Return a directory that, like all directories around it, only root can change."""
    path = Path(f"/root/.granary-kept-{os.getpid()}")
    yield path
    subprocess.run(["rm", "-rf", path], check=True)


@pytest.fixture
def plan(tenant: Path, kept: Path) -> Callable[[], Plan]:
    """Return the plan for the remotes of the user of ``tenant``."""
    (tenant / "remotes").mkdir()
    os.chown(tenant / "remotes", TENANT, TENANT)

    def build() -> Plan:
        found = Plan()
        plan_helper_functions(found, str(tenant / "remotes"), str(kept))
        return found

    return build


def test_the_file_is_installed_once(plan: Callable[[], Plan], tenant: Path, kept: Path) -> None:
    own, path = (tenant / "remotes" / name for name in ("scripts_common.sh", "granary/scripts_common.sh"))
    own.write_text("the front-end's own")
    assert [action.name for action in plan().actions] == ["install helper functions"]
    assert not path.exists()
    plan().run()
    assert path.read_text() == helper_functions()
    assert (path.stat().st_uid, stat.S_IMODE(path.stat().st_mode)) == (TENANT, 0o644)
    assert not plan().changed
    assert own.read_text() == "the front-end's own"
    # Only permissions, and the text of an older version, are corrected without keeping a file.
    for change in (lambda: path.chmod(0o600), lambda: path.write_text(helper_functions() + "# older")):
        change()
        assert plan().run().changed
        assert not plan().changed
    assert not kept.exists()


def test_a_file_of_somebody_else_is_kept(plan: Callable[[], Plan], tenant: Path, kept: Path) -> None:
    path = tenant / "remotes" / "granary" / "scripts_common.sh"
    path.parent.mkdir()
    path.write_text("of a site")
    assert plan().run().as_result()[0]["before"] == {"replaced": ["scripts_common.sh"]}
    assert [one.read_text() for one in kept.rglob("scripts_common.sh.*")] == ["of a site"]
    assert path.read_text() == helper_functions()


def test_links_of_the_front_ends_user_lead_nowhere(plan: Callable[[], Plan], tenant: Path, tmp_path: Path) -> None:
    link = tenant / "remotes" / "granary"
    link.symlink_to(tmp_path)
    os.chown(link, TENANT, TENANT, follow_symlinks=False)
    before = sorted(tmp_path.iterdir())
    with refused(PathNotAllowed, option="remotes", value=str(link)):
        plan()
    assert sorted(tmp_path.iterdir()) == before
