# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""Measure the pull of a container disk of 1 GiB from Debian's registry on this machine.

The floor is ``skopeo copy`` to a directory, which verifies the layer and syncs it, and unpacks nothing. The pull also
decompresses the layer, finds the disk, and computes the disk's checksum.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sys
from pathlib import Path

from measuring import MIB, Row, format_table, interleave, make_directory, measure_time, run

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from container_images import Layout, RegistryServer, compress_gzip, make_tar, running_registry  # noqa: E402

#: The layers by tag: without compression, and with gzip as in an image of docker build.
LAYERS = ("plain", "gzip")

PULL = """
import sys
from ansible_collections.granary.vmstore.plugins.module_utils._image.container import cache
from ansible_collections.granary.vmstore.plugins.module_utils._image.container.reference import parse_reference
from ansible_collections.granary.vmstore.plugins.module_utils._image.container.store import DiskStore
store, image = DiskStore(sys.argv[1]), parse_reference(sys.argv[2])
cache.ContainerDiskCache(store).obtain(cache.DiskRequest(image))
"""


def write_disk(directory: Path, mebibytes: int) -> bytes:
    """Return a qcow2 image, of which half compresses well."""
    source = random.Random(1)
    with (directory / "raw").open("wb") as raw:
        for _number in range(mebibytes):
            raw.write(source.randbytes(MIB // 2) + source.randbytes(1024) * (MIB // 2048))
    run(["qemu-img", "convert", "-O", "qcow2", directory / "raw", directory / "disk.qcow2"])
    (directory / "raw").unlink()
    return (directory / "disk.qcow2").read_bytes()


def publish(directory: Path, server: RegistryServer, disk: bytes) -> None:
    """Push the images to a registry."""
    layout = Layout(directory / "layout")
    layer = make_tar(("disk/disk.qcow2", disk))
    for tag, compress in zip(LAYERS, (None, compress_gzip), strict=True):
        layout.add(tag, layer, compress=compress)
        server.push(layout, tag, f"disk:{tag}", "--preserve-digests")
    shutil.rmtree(layout.path)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measures the pull of a container disk.")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--size", type=int, default=1024, help="size of the disk in MiB")
    parser.add_argument("--directory", default="/var/tmp")
    options = parser.parse_args()
    os.environ["PYTHONPATH"] = os.environ["ANSIBLE_COLLECTIONS_PATH"]
    with make_directory(options.directory) as directory, running_registry(directory / "registry") as server:
        publish(directory, server, write_disk(directory, options.size))
        works = {}
        for tag in LAYERS:

            def pull(tag: str = tag) -> float:
                shutil.rmtree(directory / "cache", ignore_errors=True)
                command = [sys.executable, "-c", PULL, directory / "cache", f"{server.name}/disk:{tag}"]
                return measure_time(lambda: run(command))

            def copy(tag: str = tag) -> float:
                shutil.rmtree(directory / "copy", ignore_errors=True)
                source, target = f"docker://{server.name}/disk:{tag}", f"dir:{directory}/copy"
                command = ["skopeo", "copy", "--quiet", "--src-tls-verify=false", source, target]
                return measure_time(lambda: run(command))

            works.update({f"pull {tag}": pull, f"copy {tag}": copy})
        found = interleave(options.runs, works)
    rows = [
        Row(
            f"pull of a container disk of {options.size} MiB, {tag} layer",
            found[f"pull {tag}"],
            "skopeo copy to a directory",
            found[f"copy {tag}"],
            target=1,
        )
        for tag in LAYERS
    ]
    print(format_table(rows))


if __name__ == "__main__":
    main()
