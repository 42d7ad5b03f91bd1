# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""What guests boot: a kernel, an initramfs with the few modules it needs, and a root disk made without mounting it."""

from __future__ import annotations

import lzma
from collections.abc import Iterable
from importlib import resources
from pathlib import Path

from . import cache, trees
from .initramfs import Entry, archive
from .run import run

#: What each kind of guest needs to see its disks; ext4, fuse, virtiofs and virtio-pci are built into Debian's cloud
#: kernel. cloud-init looks for a seed on a CD-ROM before udev loads anything, as on a cloud image with its larger
#: initramfs.
_MODULES = {"guest": ("virtio_blk", "virtio_net"), "cloud": ("virtio_blk", "virtio_net", "ahci", "sr_mod", "isofs")}


def guest_image(name: str) -> Path:
    """The directory of the image made of the tree called *name*, built if it isn't cached; raises :class:`LabError`.

    It holds ``vmlinuz``, ``initrd``, ``probe`` (an initramfs that only says a word) and ``root.img`` (raw ext4).
    """
    tree = trees.tree(name)
    recipe = {
        "tree": tree.name,
        "init": _init("init-ramfs.sh"),
        "probe": _init("init-probe.sh"),
        "modules": _MODULES[name],
    }
    return cache.made_once(f"image-{name}", recipe, lambda directory: _build(tree, _MODULES[name], directory))


def _init(name: str) -> str:
    return "#!/bin/busybox sh\n" + resources.files(__package__).joinpath("guest", name).read_text(encoding="utf-8")


def _build(tree: Path, wanted: Iterable[str], directory: Path) -> None:
    (kernel,) = (tree / "boot").glob("vmlinuz-*")
    (directory / "vmlinuz").write_bytes(kernel.read_bytes())
    busybox = Entry("bin/busybox", (tree / "usr/bin/busybox").read_bytes(), 0o755)
    (drivers,) = (tree / "usr/lib/modules").iterdir()
    order = load_order((drivers / "modules.dep").read_text(encoding="ascii"), wanted)
    modules = [
        Entry(f"modules/{number:02}.ko", lzma.decompress((drivers / name).read_bytes()))
        for number, name in enumerate(order)
    ]
    (directory / "initrd").write_bytes(
        archive([Entry("init", _init("init-ramfs.sh").encode(), 0o755), busybox, *modules])
    )
    (directory / "probe").write_bytes(archive([Entry("init", _init("init-probe.sh").encode(), 0o755), busybox]))
    disk = directory / "root.img"
    run(
        [
            "mke2fs",
            "-q",
            "-t",
            "ext4",
            "-E",
            "lazy_itable_init=0,lazy_journal_init=1",
            "-d",
            str(tree),
            str(disk),
            "2G",
        ],
        deadline=300,
    )
    for path in directory.iterdir():
        path.chmod(0o644)
    directory.chmod(0o755)


def load_order(modules_dep: str, wanted: Iterable[str]) -> list[str]:
    """The files to load for the *wanted* modules, each after those it needs; *modules_dep* is the text of
    modules.dep(5).
    """
    needs = {file: rest.split() for file, _colon, rest in (line.partition(":") for line in modules_dep.splitlines())}
    by_name = {file.rpartition("/")[2].partition(".")[0]: file for file in needs}
    order: list[str] = []
    for name in wanted:
        # modules.dep names what must be loaded first last.
        order += [file for file in (*reversed(needs[by_name[name]]), by_name[name]) if file not in order]
    return order


__all__ = ["guest_image", "load_order"]
