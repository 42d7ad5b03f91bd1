# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""Measure transfers of an image between hosts against ssh(1) and rsync(1), over a real sshd on this machine.

The image is sparse, with 1 GiB of data in 4 GiB. The floor ``ssh cat`` gets a file with only the data, so it has no
holes to find and verifies nothing. All results are on the disk: sync(1) follows the other tools on the other host.
CPU times are those of the front-end's processes, without the server's.
"""

from __future__ import annotations

import argparse
import importlib
import os
import resource
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench_cp import write_image
from measuring import Row, format_table, interleave, make_directory, measure_time, run

ROOT = Path(__file__).parents[2]


@contextmanager
def running_sshd(directory: Path) -> Iterator[None]:
    """Run a sshd as the host ``h1``, and let ssh(1) find it."""
    sshd, ssh = shutil.which("sshd", path="/usr/sbin:/usr/bin"), shutil.which("ssh", path="/usr/bin:/bin")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    for name in ("host", "user"):
        run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", directory / name])
    (directory / "known_hosts").write_text(f"h1 {(directory / 'host.pub').read_text()}")
    (directory / "client").write_text(
        f"Host h1\n  HostName 127.0.0.1\n  HostKeyAlias h1\n  User root\n  Port {port}\n"
        f"  IdentityFile {directory}/user\n  IdentitiesOnly yes\n  UserKnownHostsFile {directory}/known_hosts\n"
    )
    (directory / "server").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {directory}/host\nPidFile none\nUsePAM no\nStrictModes no\n"
        f"PermitRootLogin yes\nAuthorizedKeysFile {directory}/user.pub\nPrintMotd no\n"
    )
    (binaries := directory / "bin").mkdir()
    (binaries / "ssh").write_text(f'#!/bin/sh\nexec {ssh} -F "{directory}/client" "$@"\n')
    (binaries / "ssh").chmod(0o755)
    os.environ["PATH"] = f"{binaries}:{os.environ['PATH']}"
    Path("/run/sshd").mkdir(exist_ok=True)
    with subprocess.Popen([str(sshd), "-D", "-f", directory / "server"]) as server:
        try:
            end = time.monotonic() + 30
            while subprocess.run(["ssh", "h1", "true"], capture_output=True, check=False).returncode != 0:
                if time.monotonic() > end:
                    raise RuntimeError("sshd does not start")
            yield
        finally:
            server.terminate()


class Transfers:
    """Ways to transfer an image. Each way returns seconds and removes the copy."""

    def __init__(self, directory: Path) -> None:
        (package := directory / "engine" / "granary_vmstore").mkdir(parents=True)
        for path in (ROOT / "plugins" / "module_utils").iterdir():
            (package / path.name).symlink_to(path)
        (package / "_trial").symlink_to(ROOT / "tests" / "integration" / "transfer_trial")
        sys.path.insert(0, str(package.parent))
        self.here, self.there = directory / "here", directory / "there"
        self.cpu: dict[str, list[float]] = {}
        for path in (self.here, self.there):
            path.mkdir()
        write_image(self.here / "image", 1024)
        with (self.here / "image").open("rb") as source, (self.here / "data").open("wb") as target:
            for start, end in self.module("_core.sparse").extents(source.fileno(), 4 << 30):
                os.sendfile(target.fileno(), source.fileno(), start, end - start)
        run(["sync", self.here / "data"])

    @staticmethod
    def module(name: str) -> Any:
        return importlib.import_module(f"granary_vmstore.{name}")

    def measure(self, name: str, work: Callable[[], object], *made: Path) -> float:
        before = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        seconds = measure_time(work)
        after = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        used = sum(b.ru_utime + b.ru_stime - a.ru_utime - a.ru_stime for a, b in zip(before, after, strict=True))
        self.cpu.setdefault(name, []).append(used)
        for path in made:
            path.unlink()
        return seconds

    def _route(self) -> tuple[Any, Any]:
        protocol = self.module("_trial.protocol")
        return self.module("_remote.transfer").Route("h1", protocol.__name__, print), protocol

    def push(self) -> float:
        route, protocol = self._route()
        directory = os.open(self.here, os.O_RDONLY)
        source = self.module("_remote.tree").Source(directory, str(self.here), {"image": "image"})
        request = protocol.request("put", str(self.there))
        work = self.module("_remote.transfer").push_tree
        try:
            return self.measure(
                "push",
                lambda: work(route, "put", protocol.OPERATIONS["put"], request, source, kinds={}),
                self.there / "image",
            )
        finally:
            os.close(directory)

    def pull(self) -> float:
        route, protocol = self._route()
        directory = os.open(self.there, os.O_RDONLY)
        request = protocol.request("read", str(self.here), {"image": "image"})
        work = self.module("_remote.transfer").pull_tree
        try:
            return self.measure(
                "pull",
                lambda: work(route, "read", protocol.OPERATIONS["read"], request, directory, kinds={}),
                self.there / "image",
            )
        finally:
            os.close(directory)

    def cat_there(self) -> float:
        target = self.there / "cat"
        script = 'ssh h1 "cat > $2 && sync $2" < "$1"'
        return self.measure(
            "push by ssh cat", lambda: run(["sh", "-c", script, "sh", self.here / "data", target]), target
        )

    def cat_here(self) -> float:
        target = self.there / "cat"
        script = 'ssh h1 "cat $1" > "$2" && sync "$2"'
        return self.measure(
            "pull by ssh cat", lambda: run(["sh", "-c", script, "sh", self.here / "data", target]), target
        )

    def rsync(self) -> float:
        target = self.there / "rsync"
        command = ["rsync", "--sparse", "--whole-file", "--fsync", self.here / "image", f"h1:{target}"]
        return self.measure("rsync --sparse", lambda: run(command), target)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measures transfers between hosts.")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--directory", default="/var/tmp", help="on the file system to measure on, with 6 GiB free")
    options = parser.parse_args()
    with make_directory(options.directory) as directory, running_sshd(directory):
        transfers = Transfers(directory)
        found = interleave(
            options.runs,
            {
                "push": transfers.push,
                "pull": transfers.pull,
                "push by ssh cat": transfers.cat_there,
                "pull by ssh cat": transfers.cat_here,
                "rsync --sparse": transfers.rsync,
            },
        )
        cpu = {name: sorted(values)[len(values) // 2] for name, values in transfers.cpu.items()}
    what = "{}, 1 GiB of data in 4 GiB"
    rows = []
    for way in ("push", "pull"):
        floor = f"{way} by ssh cat"
        rows.append(Row(what.format(way), found[way], "ssh cat of the data, sync", found[floor], target=1))
        rows.append(Row(f"{way}, CPU of the front-end", cpu[way], "ssh cat of the data, sync", cpu[floor]))
    rows.append(Row(what.format("push"), found["push"], "rsync --sparse", found["rsync --sparse"], target=1))
    rows.append(Row("push, CPU of the front-end", cpu["push"], "rsync --sparse", cpu["rsync --sparse"]))
    print(format_table(rows))


if __name__ == "__main__":
    main()
