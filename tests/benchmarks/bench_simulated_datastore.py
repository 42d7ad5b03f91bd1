# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""Measure the simulated datastore against the file system beneath and against the passthrough example of pyfuse3.

Figures are medians of interleaved runs in one session. All runs are on one processor, because sharing a processor
between client and daemon would matter more than their code. Policies and ledger are on, and no rule matches. The
example comes with pyfuse3's source distribution, which is downloaded. Without the download a message says so and the
column stays empty.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from simulated_datastore.testing import mount

MIB = 1 << 20


def drop_caches() -> None:
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3", encoding="ascii")


def measure_time(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


class Loads:
    """The loads. Each load returns seconds and removes its files."""

    def __init__(self, scale: float) -> None:
        self.size = max(4, int(1024 * scale)) * MIB
        self.files = max(100, int(10_000 * scale))
        self.reads = max(500, int(20_000 * scale))

    def all(self) -> dict[str, Callable[[Path], float]]:
        return {
            f"sequential write, {self.size // MIB} MiB": self.write,
            f"sequential read, {self.size // MIB} MiB": self.read,
            f"random read of 4 KiB, {self.reads}": self.random_read,
            f"create of {self.files} files": self.create,
            f"stat of {self.files} files": self.stat,
            f"unlink of {self.files} files": self.unlink,
            f"conversion of a sparse image, {self.size // MIB} MiB": self.convert,
        }

    def write(self, path: Path) -> float:
        file = path / "file"
        seconds = measure_time(lambda: self._fill(file))
        file.unlink()
        return seconds

    def _fill(self, file: Path) -> None:
        block = os.urandom(MIB)
        with open(file, "wb", buffering=0) as stream:
            for _unused in range(self.size // MIB):
                stream.write(block)

    def read(self, path: Path) -> float:
        file = path / "file"
        self._fill(file)
        drop_caches()

        def work() -> None:
            with open(file, "rb", buffering=0) as stream:
                while stream.read(MIB):
                    pass

        seconds = measure_time(work)
        file.unlink()
        return seconds

    def random_read(self, path: Path) -> float:
        file = path / "file"
        self._fill(file)
        order = random.Random(1)
        offsets = [order.randrange(self.size // 4096) * 4096 for _unused in range(self.reads)]
        drop_caches()
        fd = os.open(file, os.O_RDONLY)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)

        def work() -> None:
            for offset in offsets:
                os.pread(fd, 4096, offset)

        seconds = measure_time(work)
        os.close(fd)
        file.unlink()
        return seconds

    def _make(self, directory: Path) -> None:
        directory.mkdir()
        for number in range(self.files):
            os.close(os.open(directory / str(number), os.O_CREAT | os.O_WRONLY))

    def create(self, path: Path) -> float:
        seconds = measure_time(lambda: self._make(path / "d"))
        shutil.rmtree(path / "d")
        return seconds

    def stat(self, path: Path) -> float:
        self._make(path / "d")
        names = [path / "d" / str(number) for number in range(self.files)]

        def work() -> None:
            for name in names:
                os.stat(name)

        work()
        seconds = measure_time(work)
        shutil.rmtree(path / "d")
        return seconds

    def unlink(self, path: Path) -> float:
        self._make(path / "d")

        def work() -> None:
            for number in range(self.files):
                os.unlink(path / "d" / str(number))

        seconds = measure_time(work)
        os.rmdir(path / "d")
        return seconds

    def convert(self, path: Path) -> float:
        source = path / "sparse"
        with open(source, "wb") as stream:
            stream.truncate(self.size)
            for offset in range(0, self.size, 8 * MIB):
                stream.seek(offset)
                stream.write(os.urandom(MIB))
        drop_caches()
        seconds = measure_time(
            lambda: subprocess.run(["qemu-img", "convert", "-O", "qcow2", source, path / "image"], check=True)
        )
        source.unlink()
        (path / "image").unlink()
        return seconds


def fetch_example(root: Path) -> Path | None:
    """Download the passthrough example of the installed pyfuse3; None if the download fails."""
    number = version("pyfuse3")
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--no-binary",
            "pyfuse3",
            "--dest",
            root,
            f"pyfuse3=={number}",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        return None
    script = root / "passthroughfs.py"
    with tarfile.open(next(root.glob("pyfuse3-*.tar.gz"))) as archive:
        script.write_bytes(archive.extractfile(f"pyfuse3-{number}/examples/{script.name}").read())  # type: ignore[union-attr]
    return script


@contextmanager
def mount_example(root: Path) -> Iterator[Path | None]:
    """Mount the example."""
    script = fetch_example(root)
    if script is None:
        print("The example is left out: the source distribution of pyfuse3 can't be downloaded.", file=sys.stderr)
        yield None
        return
    backing, point = root / "example-backing", root / "example"
    backing.mkdir()
    point.mkdir()
    process = subprocess.Popen([sys.executable, script, backing, point], stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 30
        while not os.path.ismount(point):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("the example can't be mounted")
            time.sleep(0.05)
        yield point
    finally:
        subprocess.run(["umount", "--lazy", point], check=False)
        process.terminate()
        process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description="Measures the simulated datastore.")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--scale", type=float, default=1.0, help="1: 1 GiB and 10,000 files")
    parser.add_argument("--only", help="loads whose name contains this")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    root = Path(tempfile.mkdtemp(prefix="simulated-datastore-bench-"))
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8g,mode=755", "bench", root], check=True)
    try:
        (root / "beneath").mkdir()
        datastore = mount("bench", root / "simulated", size=6 << 30)
        try:
            with datastore.fault(["all"], path="nothing/*"), mount_example(root) as point:
                rows = measure(options, {"beneath": root / "beneath", "example": point, "simulated": datastore.path()})
        finally:
            datastore.end()
    finally:
        subprocess.run(["umount", "--lazy", root], check=False)
        root.rmdir()
    print(
        json.dumps(rows, indent=2)
        if options.json
        else f"{options.runs} runs on {describe_machine()}\n\n{format_table(rows)}"
    )


def measure(options: argparse.Namespace, places: dict[str, Path | None]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for name, load in Loads(options.scale).all().items():
        if options.only and options.only not in name:
            continue
        times: dict[str, list[float]] = {place: [] for place, path in places.items() if path is not None}
        for _unused in range(options.runs):
            for place in times:
                times[place].append(load(places[place]))  # type: ignore[arg-type]
        rows.append(
            {
                "load": name,
                **{place: statistics.median(found) for place, found in times.items()},
                "spread": {place: (min(found), max(found)) for place, found in times.items()},
            }
        )
        print(".", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return rows


def format_table(rows: list[dict[str, Any]]) -> str:
    """Return a table of medians, each with the shortest and the longest run, and of ratios."""

    def cell(row: dict[str, Any], place: str) -> str:
        return "{:.3f} ({:.3f} to {:.3f})".format(row[place], *row["spread"][place]) if place in row else "-"

    lines = [
        "| load | beneath, s | example, s | simulated, s | to beneath | to the example |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        ratio = f"{row['example'] / row['simulated']:.2f}x" if "example" in row else "-"
        cells = " | ".join(cell(row, place) for place in ("beneath", "example", "simulated"))
        lines.append(f"| {row['load']} | {cells} | {row['beneath'] / row['simulated']:.3f}x | {ratio} |")
    return "\n".join(lines)


def describe_machine() -> str:
    """Return processor, versions and load of this machine."""
    lines = Path("/proc/cpuinfo").read_text(encoding="ascii").splitlines()
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    load = ", ".join(f"{number:.1f}" for number in os.getloadavg())
    return (
        f"{os.cpu_count()} x {model or platform.machine()}, Linux {platform.release()}, Python "
        f"{platform.python_version()}, load average {load}"
    )


if __name__ == "__main__":
    main()
