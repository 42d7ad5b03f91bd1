# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The live migration of a running domain to another host. This process directs the migration, so the hosts need no
access to each other but that of the user of this process.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from types import ModuleType

from .._core.errors import LibvirtFailed, NotFound, TimedOut, VmstoreError
from .._core.records import dataclass
from .connection import Domain, Hypervisor
from .domain_xml import devices, parse, require_child, to_text
from .migration_check import disks_of
from .running_disk import wait_for_job

#: Upper bound of the time in which libvirt stops a migration, in seconds.
ABORT_DEADLINE = 60.0

#: Interval between two requests to stop a migration, in seconds. A request before libvirt's job begins has no effect.
ABORT_INTERVAL = 0.5

#: Interval between two requests to the target for a sign of life, in seconds, and the number of requests without an
#: answer after which libvirt closes the connection.
KEEPALIVE = (5, 5)

#: Interval between two log lines about the progress, in seconds.
LOG_INTERVAL = 5.0


@dataclass(frozen=True)
class Migration:
    """A live migration.

    :arg host: name of the target, as ssh(1) and QEMU reach the host.
    :arg directory: directory of the VM, which is the same on both hosts.
    :arg copied: targets of the disks whose data libvirt copies, such as ``vda``.
    :arg timeout: upper bound of the time in seconds.
    :arg bandwidth: upper bound in MiB/s. 0 sets no bound.
    :arg auto_converge: whether libvirt slows the guest down until its memory can be copied.
    """

    host: str
    directory: str
    copied: tuple[str, ...]
    timeout: int
    bandwidth: int = 0
    auto_converge: bool = False


def target_uri(host: str) -> str:
    """Return the URI of libvirt on another host. ssh never prompts."""
    return f"qemu+ssh://{_address(host)}/system?no_tty=1"


def _address(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def migrate(domain: Domain, order: Migration, log: Callable[[str], object]) -> None:
    """Migrate a running domain. After an error, the guest runs on at the source.

    :arg log: is called with lines about the progress.
    :raises LibvirtMissing: libvirt on the target can't be reached.
    :raises LibvirtFailed: libvirt can't migrate the domain, or the connection to the target broke.
    :raises TimedOut: the migration took too long.
    """
    target = _watched(domain.libvirt, target_uri(order.host))
    resume(domain)
    with domain.calls("look at"):
        has_autostart = bool(domain.handle.autostart())
    call = _Call(domain, target, order)
    latest = 0.0

    def report(done: int, whole: int) -> None:
        nonlocal latest
        if whole and time.monotonic() - latest >= LOG_INTERVAL:
            latest = time.monotonic()
            log(f"The domain {domain.name!r} migrates: {done >> 20} of {whole >> 20} MiB are copied.")

    try:
        wait_for_job(f"The migration of the domain {domain.name!r}", call.look, order.timeout, report)
    except VmstoreError as error:
        call.stop_after(error)
    except BaseException:
        call.stop()
        raise
    call.require_success()
    if has_autostart:
        _enable_autostart(target, domain, log)


def _enable_autostart(target: Hypervisor, domain: Domain, log: Callable[[str], object]) -> None:
    """Let a domain that has migrated start with its new host. An error must not look like one of the migration."""
    try:
        with target.calls(f"enable the autostart of the domain {domain.name!r}"):
            target.connection.lookupByUUIDString(domain.uuid).setAutostart(1)
    except VmstoreError as error:
        log(str(error))


def _watched(libvirt: ModuleType, uri: str) -> Hypervisor:
    """Connect to the target. libvirt closes the connection when the target shows no sign of life.

    Without the sign of life, a cut network is found only when TCP gives up, a quarter of an hour later.
    """

    def run_events() -> None:
        while True:
            libvirt.virEventRunDefaultImpl()

    libvirt.virEventRegisterDefaultImpl()  # only connections that are opened afterwards have events
    found = Hypervisor(uri)
    threading.Thread(target=run_events, daemon=True).start()
    with found.calls("watch the connection"):
        found.connection.setKeepAlive(*KEEPALIVE)
    return found


class _Call:
    """The call of libvirt that migrates, in a thread. Meanwhile another thread can stop the migration."""

    def __init__(self, domain: Domain, target: Hypervisor, order: Migration) -> None:
        self._domain = domain
        self._target = target
        self._order = order
        self._xml = _target_xml(domain, order.directory)
        self._failure: VmstoreError | None = None
        self._ended = threading.Event()
        threading.Thread(target=self._run, daemon=True).start()

    def look(self) -> tuple[int, int] | None:
        """Return the progress; ``None`` after the end.

        :raises LibvirtFailed: the connection to the target broke.
        """
        if self._ended.is_set():
            return None
        if not self._target.connection.isAlive():
            raise LibvirtFailed(
                f"The connection to libvirt on {self._order.host} broke during the migration of the domain "
                f"{self._domain.name!r}."
            )
        return _progress(self._domain)

    def require_success(self) -> None:
        """Raise the error of a failed migration that has ended."""
        if self._failure is not None:
            raise self._failure

    def stop_after(self, error: VmstoreError) -> None:
        """Stop the migration, and raise the error, unless the migration has succeeded meanwhile."""
        try:
            self.stop()
        except TimedOut as trouble:
            raise error.with_message(f"{error} {trouble}") from error
        if self._failure is not None:
            raise error

    def _run(self) -> None:
        flags, parameters = self._arguments()
        try:
            with self._domain.hypervisor.calls(f"migrate the domain {self._domain.name!r} to {self._order.host}"):
                self._domain.handle.migrate3(self._target.connection, parameters, flags)
        except NotFound:  # the target's error, because the source has the definition
            self._failure = LibvirtFailed(
                f"libvirt could not migrate the domain {self._domain.name!r} to {self._order.host}: QEMU ended there."
            )
        except VmstoreError as error:
            self._failure = error
        except BaseException as error:  # the thread that waits raises the error
            self._failure = LibvirtFailed(f"The migration failed: {type(error).__name__}: {error}.")
        finally:
            self._ended.set()

    def _arguments(self) -> tuple[int, dict[str, object]]:
        order, libvirt = self._order, self._domain.libvirt
        flags = libvirt.VIR_MIGRATE_LIVE | libvirt.VIR_MIGRATE_PERSIST_DEST | libvirt.VIR_MIGRATE_UNDEFINE_SOURCE
        flags |= libvirt.VIR_MIGRATE_ABORT_ON_ERROR
        # Otherwise the target sends its own name, which the source may not resolve.
        parameters: dict[str, object] = {libvirt.VIR_MIGRATE_PARAM_URI: f"tcp://{_address(order.host)}"}
        parameters[libvirt.VIR_MIGRATE_PARAM_DEST_XML] = self._xml
        if order.copied:
            flags |= libvirt.VIR_MIGRATE_NON_SHARED_INC
            parameters[libvirt.VIR_MIGRATE_PARAM_MIGRATE_DISKS] = list(order.copied)
            keeps_holes = getattr(libvirt, "VIR_MIGRATE_PARAM_MIGRATE_DISKS_DETECT_ZEROES", None)  # libvirt 10.9
            if keeps_holes is not None:
                parameters[keeps_holes] = list(order.copied)
        if order.auto_converge:
            flags |= libvirt.VIR_MIGRATE_AUTO_CONVERGE
        if order.bandwidth:
            parameters[libvirt.VIR_MIGRATE_PARAM_BANDWIDTH] = order.bandwidth
        return flags, parameters

    def stop(self) -> None:
        """Stop the migration and wait for its end.

        :raises TimedOut: libvirt doesn't stop the migration.
        """
        end = time.monotonic() + ABORT_DEADLINE
        while not self._ended.wait(ABORT_INTERVAL):
            if time.monotonic() >= end:
                raise TimedOut(
                    f"libvirt did not stop the migration within {ABORT_DEADLINE:g} seconds, and goes on trying."
                )
            with contextlib.suppress(LibvirtFailed, NotFound), self._domain.calls("stop the migration of"):
                self._domain.handle.abortJob()


def _target_xml(domain: Domain, directory: str) -> str:
    """Return the XML of the running domain for the target, where each disk of the VM begins with its own path.

    A live snapshot gives a running disk a new file, and changes the disk's own path to a link to the new file. libvirt
    still has this path for the older file. On the target the same path would lead to the new file twice.
    """
    flags = domain.libvirt.VIR_DOMAIN_XML_SECURE | domain.libvirt.VIR_DOMAIN_XML_MIGRATABLE
    with domain.calls("read"):
        root = parse(domain.handle.XMLDesc(flags))
    for element, disk in zip(devices(root).findall("disk"), disks_of(root)):
        number = disk.number_in(directory)
        if number is not None:
            require_child(element, "source").set("file", f"{directory}/disk.{number}")
            for backing in element.findall("backingStore"):  # the target finds the backing files itself
                element.remove(backing)
    return to_text(root)


def _progress(domain: Domain) -> tuple[int, int]:
    """Return the copied bytes and all bytes. Both are 0 before the copy begins and after the domain has left."""
    with contextlib.suppress(LibvirtFailed, NotFound), domain.calls("look at"):
        _kind, _elapsed, _remaining, whole, done, *_rest = domain.handle.jobInfo()
        return done, whole
    return 0, 0


def was_left_paused(domain: Domain) -> bool:
    """Return whether a migration whose process was killed left the domain paused."""
    libvirt = domain.libvirt
    with domain.calls("look at"):
        job, state = domain.handle.jobInfo()[0], domain.handle.state()
    paused = [libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_MIGRATION]
    return bool(job == libvirt.VIR_DOMAIN_JOB_NONE and state == paused)


def resume(domain: Domain) -> None:
    """Resume a domain that :func:`was_left_paused`. The target must not have the domain."""
    if was_left_paused(domain):
        with domain.calls("resume"):
            domain.handle.resume()


def discard(domain: Domain) -> None:
    """Remove a domain that :func:`was_left_paused`, whose guest runs at the target.

    :raises LibvirtFailed: the domain isn't paused any more.
    """
    if not was_left_paused(domain):
        raise LibvirtFailed(f"The domain {domain.name!r} is not as its migration left it; run the module again.")
    if domain.is_persistent:
        domain.undefine()
    domain.destroy()


__all__ = ["Migration", "discard", "migrate", "resume", "target_uri", "was_left_paused"]
