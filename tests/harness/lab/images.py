# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""Guest images: a kernel, an initramfs with its few modules, and a root disk that is built without a mount."""

from __future__ import annotations

import lzma
from collections.abc import Iterable
from importlib import resources
from pathlib import Path

from . import cache, trees
from .initramfs import Entry, build_archive
from .run import run
from .spec import UML

#: Modules that each kind of guest needs for its disks. ext4, fuse, virtiofs and virtio-pci are built into Debian's
#: cloud kernel. cloud-init searches the CD-ROMs for a seed before udev loads modules, and a cloud image's larger
#: initramfs would have them.
_MODULES = {"guest": ("virtio_blk", "virtio_net"), "cloud": ("virtio_blk", "virtio_net", "ahci", "sr_mod", "isofs")}


#: Size of the root disk of hosts of kind uml.
_UML_DISK = "8G"


def build_guest_image(name: str) -> Path:
    """Return the directory of the image of the tree *name*; build a missing image. Raises :class:`LabError`.

    The directory holds ``vmlinuz``, ``initrd``, ``probe`` (an initramfs that only prints a line) and ``root.img`` (raw
    ext4).
    """
    tree = trees.build_tree(name)
    recipe = {
        "tree": tree.name,
        "init": _init("init-ramfs.sh"),
        "probe": _init("init-probe.sh"),
        "modules": _MODULES[name],
    }
    return cache.build_once(f"image-{name}", recipe, lambda directory: _build(tree, _MODULES[name], directory))


def build_uml_image() -> Path:
    """Return the directory with the root disk of hosts of kind uml, ``root.img``; build a missing one.

    Raises :class:`LabError`.
    """
    tree = trees.build_tree(UML)
    return cache.build_once(
        "image-uml", [tree.name, _UML_DISK], lambda directory: _build_disk(tree, directory, _UML_DISK)
    )


def _init(name: str) -> str:
    return "#!/bin/busybox sh\n" + resources.files(__package__).joinpath("guest", name).read_text(encoding="utf-8")


def _build(tree: Path, wanted: Iterable[str], directory: Path) -> None:
    (kernel,) = (tree / "boot").glob("vmlinuz-*")
    (directory / "vmlinuz").write_bytes(kernel.read_bytes())
    busybox = Entry("bin/busybox", (tree / "usr/bin/busybox").read_bytes(), 0o755)
    (drivers,) = (tree / "usr/lib/modules").iterdir()
    order = order_modules((drivers / "modules.dep").read_text(encoding="ascii"), wanted)
    modules = [
        Entry(f"modules/{number:02}.ko", lzma.decompress((drivers / name).read_bytes()))
        for number, name in enumerate(order)
    ]
    (directory / "initrd").write_bytes(
        build_archive([Entry("init", _init("init-ramfs.sh").encode(), 0o755), busybox, *modules])
    )
    (directory / "probe").write_bytes(build_archive([Entry("init", _init("init-probe.sh").encode(), 0o755), busybox]))
    _build_disk(tree, directory, "2G")
    for path in directory.iterdir():
        path.chmod(0o644)
    directory.chmod(0o755)


def _build_disk(tree: Path, directory: Path, size: str) -> None:
    """Write the *tree* to the sparse ext4 image ``root.img`` in *directory*."""
    options = ["-E", "lazy_itable_init=0,lazy_journal_init=1", "-d", str(tree)]
    run(["mke2fs", "-q", "-t", "ext4", *options, str(directory / "root.img"), size], deadline=300)


def order_modules(modules_dep: str, wanted: Iterable[str]) -> list[str]:
    """Return the files to load for the *wanted* modules, dependencies first; *modules_dep* is a modules.dep(5)."""
    needs = {file: rest.split() for file, _colon, rest in (line.partition(":") for line in modules_dep.splitlines())}
    by_name = {file.rpartition("/")[2].partition(".")[0]: file for file in needs}
    order: list[str] = []
    for name in wanted:
        # modules.dep lists the first dependency to load last.
        order += [file for file in (*reversed(needs[by_name[name]]), by_name[name]) if file not in order]
    return order


__all__ = ["build_guest_image", "build_uml_image", "order_modules"]
