# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""What guests boot: a kernel, an initramfs with the few modules it needs, and a root disk made without mounting it."""
from __future__ import annotations

import lzma
from importlib import resources
from pathlib import Path

from . import cache, trees
from .initramfs import Entry, archive
from .run import run

#: In the order they are loaded in; ext4, fuse, virtiofs and virtio-pci are built into Debian's cloud kernel.
_MODULES = ("drivers/block/virtio_blk", "net/core/failover", "drivers/net/net_failover", "drivers/net/virtio_net")


def guest_image(name: str) -> Path:
    """The directory of the image made of the tree called *name*, built if it isn't cached; raises :class:`LabError`.

    It holds ``vmlinuz``, ``initrd``, ``probe`` (an initramfs that only says a word) and ``root.img`` (raw ext4).
    """
    tree = trees.tree(name)
    recipe = {"tree": tree.name, "init": _init("init-ramfs"), "probe": _init("init-probe"), "size": "2G"}
    return cache.made_once(f"image-{name}", recipe, lambda directory: _build(tree, directory))


def _init(name: str) -> str:
    return resources.files(__package__).joinpath("guest", name).read_text(encoding="utf-8")


def _build(tree: Path, directory: Path) -> None:
    kernel, = (tree / "boot").glob("vmlinuz-*")
    (directory / "vmlinuz").write_bytes(kernel.read_bytes())
    busybox = Entry("bin/busybox", (tree / "usr/bin/busybox").read_bytes(), 0o755)
    modules = [Entry(f"modules/{number}.ko", _module(tree, name)) for number, name in enumerate(_MODULES)]
    (directory / "initrd").write_bytes(archive([Entry("init", _init("init-ramfs").encode(), 0o755), busybox, *modules]))
    (directory / "probe").write_bytes(archive([Entry("init", _init("init-probe").encode(), 0o755), busybox]))
    disk = directory / "root.img"
    run(["mke2fs", "-q", "-t", "ext4", "-E", "lazy_itable_init=0,lazy_journal_init=1", "-d", str(tree), str(disk), "2G"], deadline=300)
    for path in directory.iterdir():
        path.chmod(0o644)
    directory.chmod(0o755)


def _module(tree: Path, name: str) -> bytes:
    path, = (tree / "usr/lib/modules").glob(f"*/kernel/{name}.ko.xz")
    return lzma.decompress(path.read_bytes())


__all__ = ["guest_image"]
