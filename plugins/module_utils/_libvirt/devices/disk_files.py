# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The files of libvirt's domains: disks, kernels and initial RAM disks. Domains that this collection doesn't manage
are included.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence

from ..._core.command import run
from ..._core.errors import CommandFailed, LibvirtFailed, NotFound
from ..connection import DEFAULT_URI, Domain, Hypervisor
from ..domain_xml import parse

#: Sockets of libvirtd and of virtqemud. A host without both runs no domains.
SOCKETS = ("/run/libvirt/libvirt-sock", "/run/libvirt/virtqemud-sock")

#: Paths of the elements with names of files in a domain's XML (https://libvirt.org/formatdomain.html). They include
#: files that a disk is based on or is copied to.
_FILES = (".//disk//source", ".//os/kernel", ".//os/initrd")

#: Commands of virsh(1) that print the XML of a domain in another state, and options that list the domains with
#: that state.
_VIRSH_XML: Sequence[tuple[list[str], list[str]]] = (
    (["dumpxml", "--inactive"], ["--all"]),
    (["dumpxml"], []),
    (["managedsave-dumpxml"], ["--all", "--with-managed-save"]),
)


def files_of_local_domains(resolve: Callable[[str], str] = os.path.realpath) -> Mapping[str, Sequence[str]]:
    """Return :func:`files_of_domains` of this host's libvirt; an empty result without libvirt."""
    return files_of_domains(DEFAULT_URI, resolve) if any(map(os.path.exists, SOCKETS)) else {}


def files_of_domains(uri: str, resolve: Callable[[str], str] = os.path.realpath) -> Mapping[str, Sequence[str]]:
    """Return the names of the domains, running or defined, by the paths of their files.

    :arg resolve: returns the path without symbolic links. Where a file may be on a dead server, ``os.path.normpath``
        leaves the path as it is in the domain.

    Without the Python library of libvirt, virsh lists the domains, because a host that only runs domains may lack the
    library.

    :raises LibvirtFailed: libvirt is missing or can't be reached.
    """
    found: dict[str, list[str]] = defaultdict(list)
    read = _by_library if importlib.util.find_spec("libvirt") else _by_virsh
    for name, texts in read(uri):
        for path in sorted({resolve(path) for text in texts for path in disk_files(text)}):
            found[path].append(name)
    return found


def _by_library(uri: str) -> Iterator[tuple[str, Sequence[str]]]:
    """Yield the name of each domain and its XML in every state that it has."""
    for domain in Hypervisor(uri, read_only=True).domains():
        texts = []
        for read in (
            lambda domain: domain.persistent_xml(secrets=False) if domain.is_persistent else None,
            Domain.running_xml,
            Domain.saved_xml,
        ):
            # The domain may have just been removed, or its saved state may be damaged.
            with contextlib.suppress(LibvirtFailed, NotFound):
                texts.append(read(domain))
        yield domain.name, [text for text in texts if text]


def _by_virsh(uri: str) -> Iterator[tuple[str, Sequence[str]]]:
    """Yield the same as :func:`_by_library`, by virsh(1)."""
    virsh = ["virsh", "--quiet", "--readonly", "--connect", uri]
    found: dict[str, list[str]] = defaultdict(list)
    try:
        for command, selection in _VIRSH_XML:
            for uuid in run([*virsh, "list", "--uuid", *selection]).stdout.split():
                done = run([*virsh, *command, uuid], accept=None)
                if done.returncode == 0:  # else the domain was just removed or shut off
                    found[uuid].append(done.stdout)
    except CommandFailed as error:
        raise LibvirtFailed(f"libvirt could not list its domains: {error}") from error
    for uuid, texts in found.items():
        yield parse(texts[0]).findtext("name") or uuid, texts


def disk_files(text: str) -> list[str]:
    """Return the files in a domain's XML."""
    tree = parse(text)
    elements = [element for place in _FILES for element in tree.iterfind(place)]
    return [
        path
        for element in elements
        for path in (element.get("file"), element.get("dev"), element.text)
        if path and path.startswith("/")
    ]


__all__ = ["disk_files", "files_of_domains", "files_of_local_domains"]
