# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""Measure the CPU time, children included, and the processes of each datastore action.

The floor is ``python3 -c pass`` with the flags of the drivers' scripts. Images have 1 MiB, so that the figures are the
cost of an action without data. ``export`` reads its image for a checksum. The image of 8 MiB comes from a server in
this process, whose time doesn't count. The bridge is this host, and a program that starts a shell replaces ssh(1): the
figures are the work of both sides without the network.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import gzip
import http.server
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from measuring import (
    MIB,
    PYTHON,
    FrontEnd,
    Row,
    build_document,
    count_processes,
    format_table,
    interleave,
    make_directory,
    measure_cpu,
    run,
)

#: Largest ratios to the floor, and largest times in ms.
TARGETS = {"rm": 3, "stat": 3, "monitor": 3, "rm, virtiofs": 2, "stat, virtiofs": 2, "monitor, virtiofs": 2}
LIMITS = {"cp, raw, 8 MiB by HTTP": 100}

#: Ending of the names of actions on a bridge, and the attributes of the datastore.
BRIDGE = ", bridge"
BRIDGED = "<TEMPLATE><BRIDGE_LIST>localhost</BRIDGE_LIST></TEMPLATE>"
#: The program in place of ssh(1). The last argument is the command.
SSH = '#!/bin/sh\nfor command; do :; done\nexec /bin/sh -c "$command"\n'

#: Name of the image of each action.
NAME = "0123456789abcdef0123456789abcdef"


class Store:
    """A datastore in the state before an action."""

    def __init__(self, root: Path) -> None:
        self.path = root / "datastores" / "100"
        self.files = root / "files"
        self.path.mkdir(parents=True)
        self.files.mkdir()
        self.raw = self.files / "raw"
        self.raw.write_bytes(bytes(range(256)) * (MIB // 256))
        self.qcow2 = self.files / "qcow2"
        run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", self.raw, self.qcow2])
        self.gzip = self.files / "gzip"
        self.gzip.write_bytes(gzip.compress(self.raw.read_bytes()))
        self.large = self.files / "large"
        self.large.write_bytes(os.urandom(8 * MIB))

    def empty(self) -> None:
        for entry in self.path.iterdir():
            (shutil.rmtree if entry.is_dir() else Path.unlink)(entry)

    def image(self) -> None:
        self.empty()
        shutil.copyfile(self.raw, self.path / NAME)

    def snapshots(self) -> None:
        self.image()
        (directory := self.path / f"{NAME}.snap").mkdir()
        for number in ("0", "1"):
            shutil.copyfile(self.raw, directory / number)


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *arguments: object) -> None:
        pass


@contextlib.contextmanager
def serve(directory: Path) -> Iterator[str]:
    """Serve the files in *directory* by HTTP, and yield the URL."""
    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(_Quiet, directory=str(directory))
    ) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def list_actions(store: Store, url: str) -> dict[str, tuple[str, str, Callable[[], None], Mapping[str, object]]]:
    """Return the actions by their names in the table: action, driver, preparation, and the elements of the image."""
    image = {"SOURCE": store.path / NAME, "FORMAT": "raw", "SIZE": 1}
    snapshot = {**image, "TARGET_SNAPSHOT": 0}
    return {
        "cp, raw": ("cp", "fs", store.empty, {"PATH": store.raw}),
        "cp, qcow2": ("cp", "fs", store.empty, {"PATH": store.qcow2}),
        "cp, gzip": ("cp", "fs", store.empty, {"PATH": store.gzip}),
        "cp, raw, 8 MiB": ("cp", "fs", store.empty, {"PATH": store.large}),
        "cp, raw, 8 MiB by HTTP": ("cp", "fs", store.empty, {"PATH": f"{url}/{store.large.name}"}),
        "mkfs, raw": ("mkfs", "fs", store.empty, {"FORMAT": "raw", "SIZE": 16}),
        "mkfs, ext4": ("mkfs", "fs", store.empty, {"FORMAT": "raw", "SIZE": 16, "FS": "ext4"}),
        "rm": ("rm", "fs", store.image, image),
        "stat": ("stat", "fs", store.empty, {"PATH": store.raw}),
        "clone": ("clone", "fs", store.image, {"PATH": store.path / NAME, "FORMAT": "raw"}),
        "monitor": ("monitor", "fs", store.empty, {}),
        "snap_delete": ("snap_delete", "fs", store.snapshots, snapshot),
        "snap_flatten": ("snap_flatten", "fs", store.snapshots, snapshot),
        "snap_revert": ("snap_revert", "fs", store.snapshots, snapshot),
        "export": ("export", "fs", store.image, image),
        "cp, virtiofs": ("cp", "virtiofs", store.empty, {"PATH": store.files, "TYPE": 7}),
        "stat, virtiofs": ("stat", "virtiofs", store.empty, {"PATH": store.files, "TYPE": 7}),
        "rm, virtiofs": ("rm", "virtiofs", store.empty, {"SOURCE": store.files}),
        f"mkfs, raw{BRIDGE}": ("mkfs", "fs", store.empty, {"FORMAT": "raw", "SIZE": 16}),
        f"rm{BRIDGE}": ("rm", "fs", store.image, image),
        f"monitor{BRIDGE}": ("monitor", "fs", store.empty, {}),
        "monitor, virtiofs": ("monitor", "virtiofs", store.empty, {}),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Measures the CPU time and the processes of the datastore actions.")
    parser.add_argument("--runs", type=int, default=11)
    parser.add_argument("--directory", default="/var/tmp")
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(make_directory(options.directory))
        front_end = FrontEnd(directory)
        store = Store(directory)
        (programs := directory / "programs").mkdir()
        (programs / "ssh").write_text(SSH)
        (programs / "ssh").chmod(0o755)
        os.environ["PATH"] = f"{programs}:{os.environ['PATH']}"
        url = stack.enter_context(serve(store.files))
        commands = {
            name: (
                before,
                front_end.script(action, driver),
                build_document(store.path, image, *([BRIDGED] if name.endswith(BRIDGE) else [])),
            )
            for name, (action, driver, before, image) in list_actions(store, url).items()
        }
        counts = {}
        for name, (before, argv, stdin) in commands.items():
            before()
            run(argv, stdin)  # a failed action would be quick
            before()
            counts[name] = count_processes(argv, stdin)

        def run_once(before: Callable[[], None], argv: list[object], stdin: bytes) -> float:
            before()
            return measure_cpu(argv, stdin)

        floor = [*PYTHON, "-c", "pass"]
        found = interleave(
            options.runs,
            {
                "floor": lambda: measure_cpu(floor),
                **{name: lambda call=call: run_once(*call) for name, call in commands.items()},
            },
        )
    rows = [
        Row(
            name,
            found[name],
            "python3 -c pass",
            found["floor"],
            "ms",
            TARGETS.get(name),
            LIMITS.get(name),
            {"processes": counts[name]},
        )
        for name in commands
    ]
    print(format_table(rows))


if __name__ == "__main__":
    main()
