# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Changes of a domain's definition, and of the devices of a running domain, for any kind of device."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Callable

from .._core.errors import LibvirtFailed, StaleState
from .._core.records import dataclass
from .connection import Domain
from .difference import first_difference
from .domain_xml import attribute, devices, parse, pretty, to_text

#: Upper bound of the time in which a guest releases a device, in seconds.
UNPLUG_DEADLINE = 20

#: The reason for which a change of the definition of a domain with a saved state has no effect.
SAVED_STATE = (
    "the domain has a saved state, which its next start resumes with the old devices, unless 'virsh "
    "managedsave-remove' forgets it"
)

#: The kinds of devices that libvirt never adds to a definition itself.
_KINDS = ("disk", "filesystem", "interface")


class DefinitionEdit:
    """A change of the definition of ``domain``: the caller edits :attr:`root`, and :meth:`apply` defines the result."""

    def __init__(self, domain: Domain) -> None:
        self.domain = domain
        self._text = domain.persistent_xml()
        self._before = parse(self._text)
        #: The definition that :meth:`apply` writes.
        self.root = parse(self._text)
        self._extensible: set[ET.Element] = set()
        #: The definition that libvirt keeps since :meth:`apply`; ``None`` if another program has a part in it.
        self._defined: str | None = None

    def add_device(self, device: ET.Element) -> None:
        """Add a device. libvirt may add elements to the device, such as an address and an alias."""
        devices(self.root).append(device)
        self.allow_additions(device)

    def remove_device(self, device: ET.Element) -> None:
        """Remove a device of :attr:`root`."""
        devices(self.root).remove(device)

    def allow_additions(self, element: ET.Element) -> None:
        """Let libvirt add to a changed element of :attr:`root`."""
        self._extensible.add(element)

    @property
    def is_change(self) -> bool:
        return first_difference(self._before, self.root) is not None

    def differing_elements(self) -> tuple[str | None, str | None]:
        """Return the elements that differ, before and after the change, for a person; ``None`` for no element.

        All other elements are left out, because a definition can hold secrets.
        """
        before, after = _parts(self._before), _parts(self.root)
        return _subtract(after, before), _subtract(before, after)

    def apply(self) -> None:
        """Define the domain again and compare the definition that libvirt keeps with :attr:`root`.

        libvirt has no call that compares and defines. A change of another program between these two calls is lost. A
        disk, a filesystem or an interface that another program adds right afterwards stays.

        :raises StaleState: another program has changed the definition since it was read.
        :raises LibvirtFailed: libvirt refuses the definition or drops a part of it. The old definition is back then.
        """
        if self.domain.persistent_xml() != self._text:
            raise StaleState(
                f"The definition of the domain {self.domain.name!r} was changed by another program in the meantime; "
                "run the module again."
            )
        self.domain.define(to_text(self.root))
        text = self.domain.persistent_xml()
        found = parse(text)
        # An addition of another program is no change by libvirt, and an undo would lose it.
        self._defined = None if _drop_additions(found, self.root) else text
        difference = first_difference(self.root, found, self._extensible)
        if difference is not None:
            self.undo()
            raise LibvirtFailed(
                f"libvirt did not keep {difference} of the definition of {self.domain.name!r} as it was written; the "
                "old definition is back."
            )

    def undo(self) -> None:
        """Put the old definition back, unless the domain was undefined meanwhile.

        :raises StaleState: another program has changed the definition since :meth:`apply`.
        """
        if not self.domain.is_persistent:
            return
        if self.domain.persistent_xml() != self._defined:
            raise StaleState(
                f"The definition of the domain {self.domain.name!r} stays as another program has changed it in the "
                "meantime."
            )
        self.domain.restore(self._text)


def _drop_additions(found: ET.Element, expected: ET.Element) -> bool:
    """Remove the devices of :data:`_KINDS` that ``expected`` lacks, and return whether there were any."""
    known = {_identity(device) for device in devices(expected)}
    added = [one for one in devices(found) if one.tag in _KINDS and _identity(one) not in known]
    for device in added:
        devices(found).remove(device)
    return bool(added)


def _identity(device: ET.Element) -> tuple[str, ...]:
    places = (("target", "dev"), ("target", "dir"), ("mac", "address"))
    return (str(device.tag), *(attribute(device, *place) or "" for place in places))


def _parts(root: ET.Element) -> list[ET.Element]:
    """Return the elements by which a change is displayed: those of the domain, and each device by itself."""
    inner = devices(root)
    return [*(child for child in root if child is not inner), *inner]


def _subtract(others: list[ET.Element], elements: list[ET.Element]) -> str | None:
    """Return those of ``elements`` that are missing in ``others``, as text."""
    counterparts = set(map(to_text, others))
    return "".join(pretty(element) for element in elements if to_text(element) not in counterparts) or None


@dataclass(frozen=True)
class RunningDevice:
    """A device of a running domain, present or desired.

    :arg name: its name in messages.
    :arg find: returns its element in the XML of the running domain.
    """

    domain: Domain
    name: str
    find: Callable[[ET.Element], ET.Element | None]

    def element(self) -> ET.Element | None:
        """Return the element of the device; ``None`` where the running domain lacks it or the domain is off."""
        text = self.domain.running_xml()
        return None if text is None else self.find(parse(text))

    def plug(self, device: ET.Element, is_as_requested: Callable[[ET.Element], bool]) -> None:
        """Plug the device in and check it. A device with other properties than requested is unplugged again.

        :arg is_as_requested: checks the element that the running domain has.
        :raises LibvirtFailed: the running domain doesn't get the device as requested.
        """
        self.domain.attach(to_text(device))
        element = self.element()
        if element is None or not is_as_requested(element):
            self.unplug()
            raise LibvirtFailed(
                f"libvirt did not plug the device {self.name!r} into the running domain {self.domain.name!r} as "
                "requested."
            )

    def unplug(self) -> bool:
        """Request the guest to release the device, and return whether the device is gone within the deadline."""
        element = self.element()
        if element is None:
            return True
        return self.domain.detach(to_text(element), lambda text: self.find(parse(text)) is None, UNPLUG_DEADLINE)


__all__ = ["SAVED_STATE", "UNPLUG_DEADLINE", "DefinitionEdit", "RunningDevice"]
