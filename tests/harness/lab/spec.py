# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""The lab file, which declares hosts and guests."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from .errors import LabError

HOST_KINDS = ("debian12", "debian13", "uml")
#: The kind of host with a kernel, and memory, of its own.
UML = "uml"
#: Upper bound of the guests of a lab. Guests of one host share a /24 network: the host is .1, guests begin at .10.
MAX_GUESTS = 200
MAX_HOSTS = 200
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?")


@dataclass(frozen=True)
class HostSpec:
    """The options of a host. *memory*, in MiB, is None for a host that shares the machine's memory."""

    kind: str
    memory: int | None = None


@dataclass(frozen=True)
class GuestSpec:
    """The options of a guest: *memory* in MiB; *root_ports*, the number of PCIe ports that stay free for hot-plug; with
    *virt_install* the domain is the one that virt-install(1) creates.
    """

    host: str
    memory: int = 256
    running: bool = True
    shared_memory: bool = False
    root_ports: int = 4
    cloud_init: bool = False
    virt_install: bool = False


@dataclass(frozen=True)
class LabSpec:
    name: str
    hosts: dict[str, HostSpec] = field(default_factory=dict)
    guests: dict[str, GuestSpec] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "hosts": {name: dict(vars(host)) for name, host in self.hosts.items()},
            "guests": {name: dict(vars(guest)) for name, guest in self.guests.items()},
        }


def load_spec(source: Mapping[str, Any] | str | Path) -> LabSpec:
    """Read a lab file or its mapping.

    Raises :class:`LabError` for an unreadable file, an unknown key and a value out of range.
    """
    return parse_spec(source if isinstance(source, Mapping) else _read(Path(source)))


def parse_spec(data: Any) -> LabSpec:
    """Convert the mapping of a lab file to a :class:`LabSpec`. Raises :class:`LabError`."""
    top = _mapping(data, "the lab file", ("name", "hosts", "guests"))
    name = check_name(top.get("name"), "name")
    hosts = {check_name(key, "hosts"): _host(key, value) for key, value in _mapping(top.get("hosts"), "hosts").items()}
    if not hosts:
        raise LabError("hosts: there must be at least one host.")
    guests = {
        check_name(key, "guests"): _guest(key, value, hosts)
        for key, value in _mapping(top.get("guests") or {}, "guests").items()
    }
    if both := sorted(set(hosts) & set(guests)):
        raise LabError(f"guests.{both[0]}: a host has this name already; give every machine a name of its own.")
    for what, found, most in (("hosts", hosts, MAX_HOSTS), ("guests", guests, MAX_GUESTS)):
        if len(found) > most:
            raise LabError(f"{what}: {len(found)} are too many, at most {most} are accepted.")
    return LabSpec(name, hosts, guests)


def check_name(value: Any, option: str) -> str:
    """Return *value* if it is a valid name of a lab, a host or a guest. Raises :class:`LabError`."""
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise LabError(
            f"{option}: {value!r} is not a name, accepted are 1 to 32 of a-z, 0-9 and '-', without '-' at an end."
        )
    return value


def _read(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise LabError(f"The lab file {str(path)!r} can't be read: {error.strerror}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise LabError(f"The lab file {str(path)!r} is not YAML: {' '.join(str(error).split())}.") from error


def _mapping(value: Any, option: str, known: Iterable[str] = ()) -> Mapping[str, Any]:
    """Return *value* if it is a mapping with only *known* keys (any, without *known*). Raises :class:`LabError`."""
    if not isinstance(value, Mapping):
        raise LabError(f"{option}: {value!r} is not a mapping.")
    known = list(known)
    for key in value if known else ():
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1, cutoff=0.0)[0]
            raise LabError(f"{option}: unknown key {key!r}, the nearest known one is {near!r}.")
    return value


def _host(name: str, value: Any) -> HostSpec:
    options = dict(_mapping(value, f"hosts.{name}", _keys(HostSpec)))
    kind = options.get("kind")
    if kind not in HOST_KINDS:
        raise LabError(f"hosts.{name}.kind: {kind!r} is not a kind of host, accepted are {', '.join(HOST_KINDS)}.")
    if kind == UML:
        _check_number(options.setdefault("memory", 256), f"hosts.{name}.memory", 128, 65536)
    elif options.get("memory") is not None:
        raise LabError(f"hosts.{name}.memory: {options['memory']!r} is refused, only a host of kind {UML} has memory.")
    return HostSpec(**options)


def _guest(name: str, value: Any, hosts: Mapping[str, HostSpec]) -> GuestSpec:
    options = dict(_mapping(value, f"guests.{name}", _keys(GuestSpec)))
    if options.get("host") not in hosts:
        raise LabError(
            f"guests.{name}.host: {options.get('host')!r} is not a host of this lab, accepted are "
            f"{', '.join(hosts) or 'none'}."
        )
    if hosts[options["host"]].kind == UML:
        raise LabError(f"guests.{name}.host: {options['host']!r} is a host of kind {UML}, which can't have guests.")
    for key in ("running", "shared_memory", "cloud_init", "virt_install"):
        if not isinstance(options.get(key, False), bool):
            raise LabError(f"guests.{name}.{key}: {options[key]!r} is neither true nor false.")
    for key, least, most in (("memory", 128, 65536), ("root_ports", 0, 16)):
        _check_number(options.get(key, least), f"guests.{name}.{key}", least, most)
    if options.get("cloud_init"):
        # systemd and cloud-init need more memory than a minimal guest.
        options.setdefault("memory", 512)
    return GuestSpec(**options)


def _check_number(value: Any, option: str, least: int, most: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise LabError(f"{option}: {value!r} is not a whole number from {least} to {most}.")


def _keys(kind: Any) -> list[str]:
    return [each.name for each in fields(kind)]


__all__ = ["HOST_KINDS", "UML", "GuestSpec", "HostSpec", "LabSpec", "check_name", "load_spec", "parse_spec"]
