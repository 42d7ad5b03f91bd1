# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A running domain whose guest doesn't write for a moment, so that a copy of its disks is consistent."""

from __future__ import annotations

import contextlib
import functools
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator

from .._core.errors import LibvirtFailed, NotFound, UnsupportedAction
from .._core.guard import guarded
from .connection import Domain, Hypervisor
from .domain_xml import devices, parse

#: The ways to keep a guest from writing.
METHODS = ("auto", "agent", "suspend")

#: Upper bound of the time in which the guest agent freezes the guest, in seconds. It writes what is in memory first.
FREEZE_DEADLINE = 60

#: Upper bound of the time in which the guest agent thaws the guest, in seconds. A failed try is repeated.
THAW_DEADLINE = 10

#: Upper bound of the time in which a guest is let go again, in seconds.
PATIENCE = 60

#: The name of the guest agent's channel (https://libvirt.org/formatdomain.html#channel).
_AGENT = "org.qemu.guest_agent.0"


def has_agent(root: ET.Element) -> bool:
    """Return whether the guest agent of a running domain has opened its channel."""
    return any(
        (target.get("name"), target.get("state")) == (_AGENT, "connected")
        for target in devices(root).findall("channel/target")
    )


@contextlib.contextmanager
def quiesced(domain: Domain, *, method: str = "auto", deadline: float = 120) -> Iterator[str]:
    """Keep the guest of a running domain from writing for a block, and yield the way.

    A halted guest doesn't write. It stays halted, and the way is ``halted``. After the block, at the deadline, or when
    this process dies, the guest can write again.

    :arg method: ``agent`` lets the guest agent freeze the file systems, which are then clean in a copy. ``suspend``
        stops the processors, so a copy is as after a power failure. ``auto`` suspends a guest without an agent that
        responds.
    :arg deadline: time of the block in seconds.
    :raises UnsupportedAction: ``method`` is ``agent``, and the guest has no agent.
    :raises LibvirtFailed: the guest doesn't stop writing.
    :raises TimedOut: the block ran longer than ``deadline``, so the guest wrote meanwhile.
    :raises NotFound: the domain isn't running.
    """
    with contextlib.ExitStack() as stack:
        yield _begin(stack, domain, method, deadline)


def _begin(stack: contextlib.ExitStack, domain: Domain, method: str, deadline: float) -> str:
    text = domain.running_xml()
    if text is None:
        raise NotFound(f"The domain {domain.name!r} does not run, so it has no guest that writes.")
    if domain.is_halted:
        return "halted"
    is_connected = has_agent(parse(text))
    if method == "agent" and not is_connected:
        raise UnsupportedAction(
            f"The guest of the domain {domain.name!r} can't be frozen, because its guest agent isn't connected: "
            "install qemu-guest-agent in the guest, or suspend the domain instead."
        )
    if method != "suspend" and is_connected:
        try:
            freeze = functools.partial(_freeze, domain, min(deadline / 2, FREEZE_DEADLINE))
            stack.enter_context(_state(domain, freeze, _thaw, deadline))
            return "agent"
        except LibvirtFailed:
            if method == "agent":
                raise
    stack.enter_context(_state(domain, functools.partial(_suspend, domain), _resume, deadline))
    return "suspend"


def _state(
    domain: Domain, begin: Callable[[], None], end: Callable[[Domain], None], deadline: float
) -> contextlib.AbstractContextManager[None]:
    uri, uuid = domain.hypervisor.uri, domain.uuid

    def prepare() -> Callable[[], None]:
        return functools.partial(_end, Hypervisor(uri).domain_by_uuid(uuid), end)

    doing = f"The time without writes of the domain {domain.name!r}"
    return guarded(doing, begin, prepare, deadline=deadline, patience=PATIENCE)


def _end(domain: Domain, end: Callable[[Domain], None]) -> None:
    """End the state of a domain that may be off by now."""
    with contextlib.suppress(NotFound):
        if domain.is_running:
            end(domain)


def _freeze(domain: Domain, deadline: float) -> None:
    """Let the guest agent freeze all file systems. A hostile agent may never respond, and by default libvirt waits for
    it for ever.
    """
    with domain.calls("freeze the guest of"), _response_within(domain, deadline):
        count = domain.handle.fsFreeze(None, 0)
    if count < 1:
        raise LibvirtFailed(f"The guest agent of the domain {domain.name!r} froze no file system.")


def _thaw(domain: Domain) -> None:
    with domain.calls("thaw the guest of"), _response_within(domain, THAW_DEADLINE):
        domain.handle.fsThaw(None, 0)


@contextlib.contextmanager
def _response_within(domain: Domain, seconds: float) -> Iterator[None]:
    """Bound the time in which the guest agent must respond, for a block."""
    domain.handle.agentSetResponseTimeout(max(1, int(seconds)), 0)
    try:
        yield
    finally:
        domain.handle.agentSetResponseTimeout(domain.libvirt.VIR_DOMAIN_AGENT_RESPONSE_TIMEOUT_BLOCK, 0)


def _suspend(domain: Domain) -> None:
    with domain.calls("suspend"):
        domain.handle.suspend()


def _resume(domain: Domain) -> None:
    with domain.calls("resume"):
        # Another pause, such as the one after an I/O error, stays.
        if domain.handle.state() == [domain.libvirt.VIR_DOMAIN_PAUSED, domain.libvirt.VIR_DOMAIN_PAUSED_USER]:
            domain.handle.resume()


__all__ = ["METHODS", "has_agent", "quiesced"]
