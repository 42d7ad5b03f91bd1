# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""Run script/demo or script/test in a clone of the checkout, in a new root tree of each release.

The tree runs as a privileged container with a network of its own. Its labs can therefore have the names, addresses and
packet filters of labs on this machine, and nothing of them is left when the container ends. The programs that the demo
runs are compared with the lists of packages (programs.py).
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NoReturn

from lab import LabError, cache, podman, trees

ROOT = Path(__file__).resolve().parents[1]
RELEASES = {"bookworm": "Debian 12", "trixie": "Debian 13"}
#: The suites of script/test, without the suite that runs this program.
SUITES = ("lint", "docs", "sanity", "unit", "integration", "molecule")

#: Files that this machine may need to reach packages.
SETTINGS = ("/etc/pip.conf", "/etc/xdg/pip", "/usr/local/share/ca-certificates")
VARIABLES = (
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    *(name for name in os.environ if name.startswith("PIP_")),
)

#: The program of PID 1, which reaps. The program ends after the command, or when the other end of its input is closed.
INIT = """
update-ca-certificates >/dev/null 2>&1
cd /srv/vmstore
echo "fresh: ready"
read -r _ || exit 1
"$@" </dev/null
echo "fresh: ended with $?"
read -r _
"""
PROGRAMS = (
    "cd /srv/vmstore; . script/lib.sh; mapfile -t packages < <(apt_packages); exec /usr/bin/python3 script/programs.py "
    '/dev/stdin "${packages[@]}"'
)

BEGIN = time.monotonic()


class FreshError(Exception):
    """A release failed; ``str(error)`` is the reason."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="script/fresh", description="Run script/demo in a new and minimal root tree.")
    parser.add_argument("release", nargs="?", choices=RELEASES, help="default: both, one after the other")
    parser.add_argument("--test", action="store_true", help="run all suites of script/test instead")
    parser.add_argument(
        "--cached", action="store_true", help="use the root trees that the lab of this machine has built"
    )
    options = parser.parse_args()
    rows = []
    for release in [options.release] if options.release else RELEASES:
        begin = time.monotonic()
        # SIGTERM and SIGHUP end the program like Ctrl-C, so that the container is removed.
        on_signals(lambda number, _: sys.exit(128 + number))
        try:
            attempt(release, options.test, options.cached)
            result = "passed"
        except (FreshError, LabError) as error:
            print(f"script/fresh: {release}: {error}", file=sys.stderr, flush=True)
            result = "failed"
        rows.append(f"{release:12} {time.monotonic() - begin:7.0f}  {result}")
    print(f"\n{'release':12} {'seconds':>7}  result", *rows, sep="\n")
    return 1 if any(row.endswith("failed") for row in rows) else 0


def on_signals(handler: Callable[[int, object], NoReturn] | signal.Handlers) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, handler)


def attempt(release: str, test: bool, cached: bool) -> None:
    """Run the demo, or the tests, in a new tree of *release*. Raises :class:`FreshError` or :class:`LabError`."""
    say(f"{release}: a minimal root tree of {RELEASES[release]}")
    tree = trees.build_minimal_tree(release)
    path = ROOT / ".cache" / "fresh" / f"{release}.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    name = f"vmstore-fresh-{os.getpid()}"
    with (
        tempfile.TemporaryDirectory(prefix=f"{name}-", dir="/var/tmp") as directory,
        path.open("w+", encoding="utf-8") as log,
    ):
        checkout, executed = Path(directory, "checkout"), path.with_suffix(".programs")
        executed.unlink(missing_ok=True)
        clone(checkout)
        command = ["script/test", *SUITES] if test else ["script/demo"]
        with container(name, tree, checkout, cached, command) as process:
            wait_for("fresh: ready", process, log)
            # A test may run any program, so only the demo is traced.
            tracer = None if test else trace(name, executed)
            say(
                f"{release}: {command[0]} in a clone of this "
                f"checkout{', with the root trees of this machine' if cached else ''} ({path.relative_to(ROOT)})"
            )
            proceed(process)
            status = wait_for("fresh: ended with ", process, log)
            if test:
                log.seek(0)
                print("suite " + log.read().rpartition("\nsuite ")[2].rpartition("fresh: ")[0], end="")
            if status != "0":
                raise FreshError(f"{command[0]} ended with {status}, and its output with:\n{read_end(log)}")
            if tracer:
                tracer.terminate()
                tracer.wait()
                with executed.open() as file:
                    done = podman_command("exec", "--interactive", name, "bash", "-c", PROGRAMS, stdin=file)
                if done.returncode:
                    raise FreshError(
                        f"not every program that ran is in a list of packages:\n{(done.stdout + done.stderr).rstrip()}"
                    )
                say(f"{release}: every program that ran is in a list of packages")


def clone(directory: Path) -> None:
    """Clone this checkout with its changes to tracked files. Raises :class:`FreshError`."""
    git(ROOT, "clone", "--quiet", "--no-hardlinks", str(ROOT), str(directory))
    changes = git(ROOT, "diff", "--binary", "HEAD")
    if changes:
        git(directory, "apply", "--index", stdin=changes)


def git(directory: Path, *arguments: str, stdin: bytes = b"") -> bytes:
    # Without safe.directory git refuses root the checkout of another user.
    done = subprocess.run(
        ["git", "-c", "safe.directory=*", "-C", directory, *arguments], input=stdin, capture_output=True, check=False
    )
    if done.returncode:
        raise FreshError(
            f"'git {arguments[0]}' ended with {done.returncode}: {done.stderr.decode(errors='replace').strip()}"
        )
    return done.stdout


@contextmanager
def container(
    name: str, tree: Path, checkout: Path, cached: bool, command: list[str]
) -> Iterator[subprocess.Popen[str]]:
    """Start a container on *tree* that runs *command* after :func:`proceed`, and remove the container at the end."""
    volumes = [f"{checkout}:/srv/vmstore", *(f"{path}:{path}:ro" for path in SETTINGS if os.path.exists(path))]
    if cached:
        volumes.append(f"{cache.root()}:/root/.cache/granary-vmstore")
    arguments = [
        "podman",
        "run",
        "--rm",
        "--interactive",
        "--name",
        name,
        "--privileged",
        "--systemd=false",
        # The writable files of podman and of overlay file systems in the container must not be on an overlay. Tests
        # compare the space that files take on a disk.
        "--tmpfs=/run:exec",
        "--tmpfs=/tmp:exec",
        "--tmpfs=/var/lib/containers",
        "--tmpfs=/root/.cache:exec",
        "--volume=/var/tmp",
        *(f"--volume={volume}" for volume in volumes),
        *(f"--env={variable}" for variable in VARIABLES if variable in os.environ),
        "--rootfs",
        f"{tree}:O",
        "bash",
        "-c",
        INIT,
        "bash",
        *command,
    ]
    # In a session of its own, podman gets no Ctrl-C of the terminal.
    with subprocess.Popen(
        arguments,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
        env={**os.environ, **podman.environment()},
    ) as process:
        try:
            yield process
        finally:
            on_signals(signal.SIG_IGN)  # a second Ctrl-C must not interrupt the removal
            podman_command("rm", "--force", "--ignore", "--volumes", "--time", "0", name)
            # A container that podman was still creating ends at the end of its input.
            process.stdin.close()
            process.stdout.close()
            process.wait()


def podman_command(*arguments: str, stdin: IO[str] | int = subprocess.DEVNULL) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["podman", *arguments],
        stdin=stdin,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **podman.environment()},
    )


def proceed(process: subprocess.Popen[str]) -> None:
    """Let the container's init continue."""
    process.stdin.write("\n")
    process.stdin.flush()


def wait_for(word: str, process: subprocess.Popen[str], log: IO[str]) -> str:
    """Read the container's output up to a line that begins with *word*, and return the rest of that line.

    All lines go to *log*, and headings also to the terminal. Raises :class:`FreshError`.
    """
    for line in process.stdout:
        log.write(line)
        log.flush()
        if line.startswith(word):
            return line[len(word) :].strip()
        if line.startswith("==> "):
            say(f"  {re.sub(r'^==> ( *[0-9]+ s: )?', '', line)[:100].rstrip()}")
    raise FreshError(f"the container ended with {process.wait()}, and its output with:\n{read_end(log)}")


def trace(name: str, executed: Path) -> subprocess.Popen[str]:
    """Start to write the programs that the container runs to *executed*. Raises :class:`FreshError`."""
    pid = podman_command("inspect", "--format", "{{.State.Pid}}", name).stdout.strip()
    tracer = subprocess.Popen(
        [sys.executable, ROOT / "script" / "execs.py", pid, executed], stdout=subprocess.PIPE, text=True
    )
    if tracer.stdout.readline() != "attached\n":
        raise FreshError(f"its programs can't be traced: execs.py ended with {tracer.wait()}.")
    return tracer


def read_end(log: IO[str]) -> str:
    log.seek(0)
    return "".join(log.readlines()[-40:]).rstrip()


def say(text: str) -> None:
    print(f"==> {time.monotonic() - BEGIN:4.0f} s: {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
