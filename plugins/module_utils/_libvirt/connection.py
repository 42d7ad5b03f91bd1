# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The connection to libvirt: its domains, their definitions, and devices of the running ones.

XML goes in and out as text.
"""

from __future__ import annotations

import contextlib
import importlib
import re
import sys
import time
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

from .._core.errors import DependencyNotFound, InvalidInput, LibvirtFailed, LibvirtMissing, LockTimeout, NotFound
from .._core.locks import retry_until

DEFAULT_URI = "qemu:///system"

#: Time between two requests to shut down, in seconds. A guest that is still booting ignores the first one.
REQUEST_INTERVAL = 15


def load_libvirt() -> ModuleType:
    """Return the Python library of libvirt.

    :raises LibvirtMissing: the library isn't installed for this interpreter.
    """
    if sys.flags.no_site:  # a session on another host starts quickly, without the directories of packages
        import site

        site.main()
    try:
        return importlib.import_module("libvirt")
    except ImportError as error:
        raise LibvirtMissing(
            f"The Python library of libvirt is not installed for {sys.executable}: install the package "
            "python3-libvirt on this host and let ansible_python_interpreter name the interpreter that the package "
            "belongs to (/usr/bin/python3)."
        ) from error


def check_local(uri: str) -> str:
    """Return ``uri``.

    :raises InvalidInput: ``uri`` names another host, whose directories and subordinate ids can't be read from here.
    """
    # A URI with '//' names any host, and a URI with '+' any transport.
    if re.fullmatch(r"[a-z]+:///[!-~]*", uri) is None:
        raise InvalidInput(
            "uri",
            uri,
            f"the URI of this host's libvirt is expected, such as {DEFAULT_URI!r}; run the module on the hypervisor "
            "itself",
        )
    return uri


class Hypervisor:
    """An open connection to the libvirt at ``uri``. It is closed with the process.

    ``connection`` is the object of libvirt's library. Other modules of this package call it in a block of
    :meth:`calls`.

    :arg read_only: opens a connection that changes nothing and reads no secrets. Most hosts allow that to every user.
    :raises LibvirtMissing: libvirt can't be reached.
    """

    def __init__(self, uri: str, *, read_only: bool = False) -> None:
        self.uri = uri
        self.libvirt = load_libvirt()
        # Otherwise libvirt prints every error to stderr as well.
        self.libvirt.registerErrorHandler(lambda *unused: None, None)
        try:
            self.connection = (self.libvirt.openReadOnly if read_only else self.libvirt.open)(uri)
        except self.libvirt.libvirtError as error:
            raise LibvirtMissing(
                f"libvirt can't be reached at {uri}: {error}. Is libvirtd (or virtqemud) running, and may this user "
                "use it?"
            ) from error

    @contextlib.contextmanager
    def calls(self, doing: str) -> Iterator[None]:
        """Convert libvirt's errors. ``doing`` names the attempt, such as ``define the domain 'a'``."""
        try:
            yield
        except self.libvirt.libvirtError as error:
            if error.get_error_code() == self.libvirt.VIR_ERR_NO_DOMAIN:
                raise NotFound(f"Could not {doing}: it doesn't exist (any more).") from error
            raise LibvirtFailed(f"libvirt could not {doing}: {self._message_of(error).rstrip('.')}.") from error

    def _message_of(self, error: Any) -> str:
        """Return libvirt's message in one line.

        Its further lines quote XML that libvirt can't read, with the secrets in that XML.
        """
        schema = error.get_error_code() == self.libvirt.VIR_ERR_XML_INVALID_SCHEMA
        return " ".join(str(error).splitlines() if schema else str(error).splitlines()[:1])

    @property
    def version(self) -> tuple[int, int, int]:
        """Return libvirt's version: major, minor, release."""
        with self.calls("return its version"):
            number = self.connection.getLibVersion()
        return number // 1000000, number // 1000 % 1000, number % 1000

    def capabilities_xml(self) -> str:
        """Return the XML of the host's capabilities (https://libvirt.org/formatcaps.html)."""
        with self.calls("return the capabilities of the host"):
            return str(self.connection.getCapabilities())

    def define(self, text: str) -> None:
        """Define a domain, or replace the definition of the domain with the same UUID."""
        with self.calls("define a domain"):
            self.connection.defineXMLFlags(text, 0)

    def find_domain(self, reference: str) -> Domain | None:
        """Return the domain with this name or, without a domain of this name, with this UUID."""
        for lookup in (self.connection.lookupByName, self.connection.lookupByUUIDString):
            try:
                return Domain(self, lookup(reference))
            except self.libvirt.libvirtError as error:
                # INVALID_ARG: the text isn't a UUID
                if error.get_error_code() not in (self.libvirt.VIR_ERR_NO_DOMAIN, self.libvirt.VIR_ERR_INVALID_ARG):
                    raise LibvirtFailed(f"libvirt could not look up the domain {reference!r}: {error}.") from error
        return None

    def domain(self, reference: str) -> Domain:
        """Return the domain with this name or UUID.

        :raises DependencyNotFound: there is no such domain.
        """
        found = self.find_domain(reference)
        if found is None:
            raise DependencyNotFound(f"domain: libvirt has no domain with the name or UUID {reference!r} on this host.")
        return found

    def domain_by_uuid(self, uuid: str) -> Domain:
        """Return the domain with this UUID. Another domain may have the UUID as its name.

        :raises NotFound: there is no such domain.
        """
        with self.calls(f"look up the domain {uuid}"):
            return Domain(self, self.connection.lookupByUUIDString(uuid))

    def domains(self) -> list[Domain]:
        """Return every domain, running or not, by name."""
        with self.calls("list its domains"):
            found = [Domain(self, one) for one in self.connection.listAllDomains()]
        return sorted(found, key=lambda one: one.name)


class Domain:
    """A domain of a :class:`Hypervisor`. Every method raises :class:`NotFound` once the domain is gone.

    ``handle`` is the object of libvirt's library. Other modules of this package call it in a block of :meth:`calls`.
    """

    def __init__(self, hypervisor: Hypervisor, handle: Any) -> None:
        self.hypervisor = hypervisor
        self.libvirt = hypervisor.libvirt
        self.handle = handle
        self.name: str = handle.name()
        self.uuid: str = handle.UUIDString()

    def calls(self, doing: str) -> contextlib.AbstractContextManager[None]:
        """Convert libvirt's errors. ``doing`` names the attempt up to the domain, such as ``define``."""
        return self.hypervisor.calls(f"{doing} the domain {self.name!r}")

    @property
    def is_persistent(self) -> bool:
        with self.calls("look at"):
            return bool(self.handle.isPersistent())

    @property
    def is_running(self) -> bool:
        """Return whether the domain has a QEMU process. A paused domain has one, too."""
        with self.calls("look at"):
            return bool(self.handle.isActive())

    @property
    def is_halted(self) -> bool:
        """Return whether the processors are stopped, so that the guest handles no request."""
        with self.calls("look at"):
            state, _reason = self.handle.state()
        return state in (
            self.libvirt.VIR_DOMAIN_PAUSED,
            self.libvirt.VIR_DOMAIN_PMSUSPENDED,
            self.libvirt.VIR_DOMAIN_CRASHED,
        )

    def persistent_xml(self, *, secrets: bool = True) -> str:
        """Return the definition with its secrets. A definition without them would delete the secrets."""
        flags = self.libvirt.VIR_DOMAIN_XML_INACTIVE | (self.libvirt.VIR_DOMAIN_XML_SECURE if secrets else 0)
        with self.calls("read"):
            return str(self.handle.XMLDesc(flags))

    def running_xml(self) -> str | None:
        """Return the XML of the running domain; ``None`` while the domain is shut off."""
        with self.calls("read"):
            text = str(self.handle.XMLDesc(0))
        return text if self.is_running else None

    def saved_xml(self) -> str | None:
        """Return the XML that the next start resumes where ``virsh managedsave`` wrote a state; ``None`` without one.

        The state has the devices of that time, whatever the definition has now.
        """
        with self.calls("read the saved state of"):
            return self.handle.managedSaveGetXMLDesc(0) if self.handle.hasManagedSaveImage(0) else None

    def define(self, text: str, *, validate: bool = True) -> None:
        """Replace the definition.

        :arg validate: checks ``text`` against libvirt's schema first, because libvirt drops unknown elements silently.
        """
        flags = self.libvirt.VIR_DOMAIN_DEFINE_VALIDATE if validate else 0
        with self.calls("define"):
            self.handle.connect().defineXMLFlags(text, flags)

    def restore(self, text: str) -> None:
        """Put back a definition that :meth:`persistent_xml` returned, unless the domain was undefined meanwhile."""
        if self.is_persistent:
            self.define(text, validate=False)

    def undefine(self) -> None:
        """Remove the definition. A running domain runs on without one."""
        with self.calls("undefine"):
            self.handle.undefine()

    def start(self) -> None:
        """Start the domain."""
        with self.calls("start"):
            self.handle.create()

    def destroy(self) -> None:
        """Turn the power of the running domain off."""
        with self.calls("destroy"):
            self.handle.destroy()

    def shut_down(self, deadline: float) -> bool:
        """Request the guest of the running domain to shut down and wait until the domain is off.

        :arg deadline: seconds.
        :return: whether the domain is off.
        """
        end = time.monotonic() + deadline
        while self.is_running and time.monotonic() < end:
            with contextlib.suppress(LibvirtFailed), self.calls("shut down"):  # the domain may have shut down just now
                self.handle.shutdown()
            with contextlib.suppress(LockTimeout):
                retry_until(
                    lambda: not self.is_running,
                    deadline=min(REQUEST_INTERVAL, end - time.monotonic()),
                    what="of the domain",
                )
        return not self.is_running

    def attach(self, device: str) -> None:
        """Plug a device into the running domain."""
        with self.calls("plug the device into"):
            self.handle.attachDeviceFlags(device, self.libvirt.VIR_DOMAIN_AFFECT_LIVE)

    def write_metadata(self, text: str, prefix: str, namespace: str) -> None:
        """Replace the element of a namespace in the metadata of the running domain."""
        kind, live = self.libvirt.VIR_DOMAIN_METADATA_ELEMENT, self.libvirt.VIR_DOMAIN_AFFECT_LIVE
        with self.calls("change the metadata of"):
            self.handle.setMetadata(kind, text, prefix, namespace, live)

    def update(self, device: str) -> None:
        """Change a device of the running domain, such as the medium of a drive."""
        with self.calls("change a device of"):
            self.handle.updateDeviceFlags(device, self.libvirt.VIR_DOMAIN_AFFECT_LIVE)

    def detach(self, device: str, is_gone: Callable[[str], bool], deadline: float) -> bool:
        """Request the guest of the running domain to release a device and wait for the release.

        :arg device: its XML as the running domain shows it.
        :arg is_gone: returns whether the device is missing in the XML of the running domain.
        :arg deadline: seconds.
        :return: whether the guest released the device.
        """
        start = time.monotonic()
        with self.calls("unplug the device from"):
            self.handle.detachDeviceFlags(device, self.libvirt.VIR_DOMAIN_AFFECT_LIVE)

        def attempt() -> bool:
            text = self.running_xml()
            return text is None or is_gone(text)

        try:
            retry_until(attempt, deadline=max(0, deadline - (time.monotonic() - start)), what="of the device")
        except LockTimeout:
            return False
        return True


__all__ = ["DEFAULT_URI", "Domain", "Hypervisor", "check_local", "load_libvirt"]
