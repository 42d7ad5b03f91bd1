# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""Measure the action cp of the driver fs against cp(1) and qemu-img(1) on the same file system.

The image is sparse, with 1 GiB of data in 4 GiB. The result of the action is durable. In the rows with ", sync" the
result of the other tools is durable, too: sync(1) of the file and of its directory follows. The rows without show the
price of durability. On a file system that can share data (xfs), the time must not depend on the amount of data.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from measuring import MIB, FrontEnd, Row, build_document, format_table, interleave, make_directory, measure_time, run

#: Distance of the beginnings of two stretches of data in MiB; a hole is between two stretches.
SPACING = 32


def write_image(path: Path, data: int, size: int = 4096) -> None:
    """Write an image of ``size`` MiB with ``data`` MiB of data."""
    stretch = data * SPACING // size
    block = os.urandom(stretch * MIB - 8)
    with path.open("wb") as file:
        file.truncate(size * MIB)
        for position in range(0, size, SPACING):
            file.seek(position * MIB)
            file.write(position.to_bytes(8, "big") + block)
        os.fsync(file.fileno())


class Copies:
    """Ways to copy ``image`` to the same place. Each way returns seconds and removes the copy."""

    def __init__(self, front_end: FrontEnd, directory: Path, image: Path) -> None:
        self.front_end = front_end
        self.image = image
        self.store = directory / "datastores" / "100"
        self.store.mkdir(parents=True, exist_ok=True)
        self.target = self.store / "target"

    def ours(self) -> float:
        answers: list[str] = []
        stdin = build_document(self.store, {"PATH": self.image})
        seconds = measure_time(lambda: answers.append(run(self.front_end.script("cp"), stdin)))
        os.unlink(answers[0].split()[0])
        return seconds

    def peer(self, *argv: str, durable: bool = True) -> float:
        def work() -> None:
            run([*argv, self.image, self.target])
            if durable:
                run(["sync", self.target, self.store])

        seconds = measure_time(work)
        self.target.unlink()
        return seconds


PEERS = {
    "cp --sparse=always": ("cp", "--sparse=always"),
    "qemu-img convert": ("qemu-img", "convert", "-f", "raw", "-O", "raw"),
}


def measure_copies(front_end: FrontEnd, directory: Path, runs: int) -> list[Row]:
    write_image(image := directory / "image", 1024)
    copies = Copies(front_end, directory, image)
    works: dict[str, Callable[[], float]] = {"ours": copies.ours}
    for name, argv in PEERS.items():
        works[f"{name}, sync"] = lambda argv=argv: copies.peer(*argv)
        works[name] = lambda argv=argv: copies.peer(*argv, durable=False)
    found = interleave(runs, works)
    image.unlink()
    fastest = min((f"{name}, sync" for name in PEERS), key=found.__getitem__)
    what = "cp, 1 GiB of data in 4 GiB"
    return [
        Row(what, found["ours"], name, found[name], target=1 if name == fastest else None)
        for name in works
        if name != "ours"
    ]


@contextmanager
def mount_xfs(directory: Path) -> Iterator[Path]:
    """Mount an xfs that can share data, on a loop device."""
    (backing := directory / "xfs.img").touch()
    os.truncate(backing, 12 << 30)
    (mounted := directory / "xfs").mkdir()
    run(["mkfs.xfs", "-q", "-m", "reflink=1", backing])
    run(["mount", "-o", "loop", backing, mounted])
    try:
        yield mounted
    finally:
        run(["umount", mounted])


def measure_shared_data(front_end: FrontEnd, directory: Path, runs: int) -> list[Row]:
    with mount_xfs(directory) as mounted:
        write_image(small := mounted / "small", 1024)
        write_image(large := mounted / "large", 4096)
        both = {"1 GiB": Copies(front_end, mounted, small), "4 GiB": Copies(front_end, mounted, large)}
        works = {name: copies.ours for name, copies in both.items()}
        works["peer"] = lambda: both["4 GiB"].peer("cp", "--reflink=always")
        found = interleave(runs, works)
    return [
        Row("cp, 4 GiB of data, xfs", found["4 GiB"], "the same with 1 GiB of data", found["1 GiB"], target=1.2),
        Row("cp, 4 GiB of data, xfs", found["4 GiB"], "cp --reflink=always, sync", found["peer"]),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description="Measures the action cp.")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--directory", default="/var/tmp", help="on the file system to measure on, with 10 GiB free")
    options = parser.parse_args()
    with make_directory(options.directory) as directory:
        front_end = FrontEnd(directory)
        print(
            format_table(
                measure_copies(front_end, directory, options.runs)
                + measure_shared_data(front_end, directory, options.runs)
            )
        )


if __name__ == "__main__":
    main()
