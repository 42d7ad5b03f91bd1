# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""A lab from up to down."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import re
import shutil
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from . import access, cache, images, kvm, trees
from .errors import LabError
from .guests import IMAGES, NETWORK, Guest
from .hosts import LAB_DIRECTORY, ContainerHost, Host, Place
from .podman import Podman
from .processes import end_processes
from .run import run
from .spec import UML, LabSpec, check_name, parse_spec
from .tools import check_tools
from .uml import UmlHost

#: The parent of one directory per lab: the path of its state, its instance, and its ssh sockets, which need short
#: paths.
RUNTIME = Path("/run/granary-lab")

_STATE = re.compile(r"[A-Za-z0-9/._+ -]+")
_T = TypeVar("_T")
Say = Callable[[str], None]


def say_on_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


@dataclass(frozen=True)
class _Record:
    """The record of a running lab in its state directory. A later process needs nothing else to find the lab."""

    spec: LabSpec
    addresses: dict[str, str]
    network: str
    kvm: bool = False
    complete: bool = False


#: Upper bound of the number of root's inotify instances, which all containers share.
_INOTIFY = Path("/proc/sys/fs/inotify/max_user_instances")


def _raise_inotify_limit() -> None:
    """Raise the default of 128 to 1024. The systemd of a host has ten, and units fail without one."""
    if int(_INOTIFY.read_text(encoding="ascii")) < 1024:
        _INOTIFY.write_text("1024", encoding="ascii")


class Lab:
    """The lab called *name*. The object holds no state: two processes with the same lab see the same state."""

    def __init__(self, name: str, say: Say = say_on_stderr) -> None:
        self.name = check_name(name, "name")
        self.runtime = RUNTIME / self.name
        self._say = say
        self._podman = Podman(self.name)

    # Queries

    @property
    def state(self) -> Path:
        """The directory with ssh_config and inventory.yml. Raises :class:`LabError` when the lab isn't up."""
        try:
            return Path((self.runtime / "state").read_text(encoding="utf-8"))
        except OSError as error:
            raise LabError(f"There is no lab {self.name!r}: 'lab up FILE' creates one.") from error

    @property
    def ssh_config(self) -> Path:
        return self.state / "ssh_config"

    @property
    def inventory(self) -> Path:
        return self.state / "inventory.yml"

    def hosts(self) -> dict[str, Host]:
        return self._hosts(self._record())

    def guests(self) -> dict[str, Guest]:
        record = self._record()
        return self._guests(record, self._hosts(record))

    def host(self, name: str) -> Host:
        return self._find(name, self.hosts(), "host")

    def guest(self, name: str) -> Guest:
        return self._find(name, self.guests(), "guest")

    def status(self) -> dict[str, Any]:
        """Return the lab as plain data: name, state directory, completion of ``up``, hosts and guests."""
        record = self._record()
        hosts = self._hosts(record)
        states = {name: host.state() for name, host in hosts.items()}
        return {
            "name": self.name,
            "state": str(self.state),
            "complete": record.complete,
            "accelerator": "kvm" if record.kvm else "tcg",
            "hosts": {
                name: {"kind": host.kind, "address": host.address, "state": states[name]}
                for name, host in hosts.items()
            },
            "guests": {
                name: {
                    "host": guest.host.name,
                    "address": guest.address,
                    "running": states[guest.host.name] == "running" and guest.running(),
                    "console": guest.console,
                }
                for name, guest in self._guests(record, hosts).items()
            },
        }

    def ssh(self, name: str, *command: str, deadline: float = 60, stdin: bytes = b"", check: bool = True) -> str:
        """Run a command line (as ssh(1) takes it) on a machine and return its output. Raises :class:`LabError`."""
        return access.ssh(
            self.ssh_config, self.name, name, *command, deadline=deadline, stdin=stdin, check=check
        ).stdout

    # Up and down

    def up(self, spec: LabSpec, state: Path | None = None, instance: str = "") -> None:
        """Create the lab of *spec*, in *state* (default: the runtime directory).

        An older lab of this name, complete or not, is removed first. When a step fails, the new lab is removed.
        *instance* is a unique word, for :meth:`down`. Raises :class:`LabError`.
        """
        check_tools([host.kind for host in spec.hosts.values()])
        state = (state or self.runtime).absolute()
        if not _STATE.fullmatch(str(state)):
            # Other characters would have a meaning in ssh_config(5) and in the inventory.
            raise LabError(
                f"The state directory {str(state)!r} has a character that isn't accepted: letters, digits, blanks and "
                "/._+- are."
            )
        with self._hold_lock():
            self._sweep()
            if state.exists() and not (state.is_dir() and not any(state.iterdir())):
                raise LabError(f"The state directory {str(state)!r} isn't empty: name an empty or a new directory.")
            try:
                self._up(spec, state, instance or uuid.uuid4().hex)
            except BaseException:
                self._sweep()
                raise

    def down(self, instance: str = "") -> None:
        """Remove everything that carries the lab's name, also after the death of a lab's process.

        With *instance* a later lab of the same name stays.
        """
        with self._hold_lock():
            if not instance or self.instance() == instance:
                with self._step(f"lab {self.name} is gone"):
                    self._sweep()

    def instance(self) -> str:
        """Return the unique word of this lab, "" without a lab."""
        with contextlib.suppress(OSError):
            return (self.runtime / "instance").read_text(encoding="ascii")
        return ""

    def _up(self, spec: LabSpec, state: Path, instance: str) -> None:
        record = _Record(spec, {}, f"lab-{self.name}")
        self._make_directories(record, state, instance)
        kinds = sorted({host.kind for host in spec.hosts.values()})
        wanted = sorted({IMAGES[guest.cloud_init] for guest in spec.guests.values()})
        self._run_parallel(kinds, lambda kind: self._run_step(f"root tree {kind}", lambda: trees.build_tree(kind)))
        if UML in kinds:
            self._run_step("root disk uml", images.build_uml_image)
        pictures = dict(
            zip(
                wanted,
                self._run_parallel(
                    wanted, lambda name: self._run_step(f"guest image {name}", lambda: images.build_guest_image(name))
                ),
                strict=True,
            )
        )
        _raise_inotify_limit()
        with self._step("network"):
            addresses = ipaddress.ip_network(self._podman.create_network(record.network))
        record = replace(
            record,
            addresses={name: str(addresses[10 + number]) for number, name in enumerate(spec.hosts)},
            kvm=bool(wanted)
            and kvm.boots_kernel(
                self._podman,
                trees.build_tree(next(spec.hosts[guest.host].kind for guest in spec.guests.values())),
                pictures[wanted[0]],
                self._say,
            ),
        )
        self._write_record(record, state)
        hosts = self._hosts(record)
        guests = self._guests(record, hosts)
        self._make_access(hosts, guests, state)
        shared = {picture: f"{LAB_DIRECTORY}/{name}" for name, picture in pictures.items()}
        self._run_parallel(hosts.values(), lambda host: self._start_host(host, record, shared))
        for guest in guests.values():
            guest.prepare(pictures[guest.image], (state / "key.pub").read_bytes())
        self._run_parallel(
            sorted({guest.host.name for guest in guests.values()}),
            lambda name: self._define_guests(hosts[name], guests),
        )
        self._run_parallel([guest for guest in guests.values() if guest.spec.running], self._start_guest)
        self._write_record(replace(record, complete=True), state)

    def _make_directories(self, record: _Record, state: Path, instance: str) -> None:
        for directory in (RUNTIME, self.runtime, state):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        (self.runtime / "state").write_text(str(state), encoding="utf-8")
        (self.runtime / "instance").write_text(instance, encoding="ascii")
        for name in record.spec.hosts:
            (state / "hosts" / name).mkdir(parents=True)
        self._write_record(record, state)

    def _make_access(self, hosts: dict[str, Host], guests: dict[str, Guest], state: Path) -> None:
        with self._step("keys, ssh_config, inventory"):
            keys = {host.name: host.files / "ssh_host_ed25519_key" for host in hosts.values()}
            keys |= {guest.name: guest.host.files / f"{guest.name}_ed25519_key" for guest in guests.values()}
            for key in (state / "key", *keys.values()):
                access.make_key(key)
            for host in hosts.values():
                shutil.copy(state / "key.pub", host.files / "authorized_keys")
            machines = {host.name: access.Machine(host.name, host.kind, host.address) for host in hosts.values()}
            # A guest with cloud-init has no sshd.
            machines |= {
                guest.name: access.Machine(guest.name, guest.image, guest.address, guest.host.name)
                for guest in guests.values()
                if not guest.spec.cloud_init
            }
            known = "".join(
                access.format_known_host(name, key.with_name(key.name + ".pub").read_text(encoding="ascii"))
                for name, key in keys.items()
            )
            (state / "known_hosts").write_text(known, encoding="ascii")
            (state / "ssh_config").write_text(access.format_ssh_config(machines, state, self.runtime), encoding="utf-8")
            (state / "inventory.yml").write_text(
                access.format_inventory(machines, state / "ssh_config"), encoding="utf-8"
            )

    def _start_host(self, host: Host, record: _Record, shared: dict[Path, str]) -> None:
        with self._step(f"host {host.name} ({host.kind}, {host.address})"):
            host.create(record.addresses, shared)
            host.wait_ready()

    def _define_guests(self, host: Host, guests: dict[str, Guest]) -> None:
        own = [guest for guest in guests.values() if guest.host is host]
        with self._step(f"guests defined in {host.name}: {', '.join(guest.name for guest in own)}"):
            # libvirt writes to the directory, but creates it only for a network that needs dnsmasq.
            host.execute("mkdir", "-p", "/var/lib/libvirt/dnsmasq")
            host.execute("virsh", "net-define", "/dev/stdin", stdin=NETWORK.encode())
            host.execute("virsh", "net-autostart", "lab")
            host.execute("virsh", "net-start", "lab")
            for guest in own:
                guest.define()

    def _start_guest(self, guest: Guest) -> None:
        with self._step(f"guest {guest.name} is up"):
            guest.start()
            guest.wait_ready()

    # Removal

    def _sweep(self) -> None:
        """Remove everything that carries the lab's name, dependents first."""
        end_processes(self.name)
        for socket in self.runtime.glob("*") if self.runtime.is_dir() else ():
            if socket.is_socket():
                run(["ssh", "-F", "/dev/null", "-o", f"ControlPath={socket}", "-O", "exit", "lab"], check=False)
        if containers := self._podman.containers():
            self._podman("rm", "--force", "--time", "0", *containers, deadline=120)
        for network in self._podman.networks():
            bridge = network["network_interface"]
            # podman removes the bridge with the last container, unless podman is killed meanwhile.
            if Path("/sys/class/net", bridge).exists():
                run(["ip", "link", "delete", bridge], check=False)
            self._podman("network", "rm", "--force", network["name"])
        with contextlib.suppress(LabError):
            shutil.rmtree(self.state, ignore_errors=True)
        shutil.rmtree(self.runtime, ignore_errors=True)
        with contextlib.suppress(OSError):
            RUNTIME.rmdir()

    # Parts

    def _hold_lock(self) -> contextlib.AbstractContextManager[None]:
        return cache.hold_lock(f"lab-{self.name}", 60)

    def _hosts(self, record: _Record) -> dict[str, Host]:
        place = Place(self._podman, record.network, self.ssh_config, record.kvm)
        hosts: dict[str, Host] = {}
        for name, spec in record.spec.hosts.items():
            address, files = record.addresses.get(name, ""), self.state / "hosts" / name
            hosts[name] = (
                ContainerHost(name, spec.kind, address, files, place)
                if spec.memory is None
                else UmlHost(name, spec.kind, address, files, place, spec.memory)
            )
        return hosts

    @staticmethod
    def _guests(record: _Record, hosts: dict[str, Host]) -> dict[str, Guest]:
        return {
            name: Guest(name, spec, hosts[spec.host], number, record.kvm)
            for number, (name, spec) in enumerate(record.spec.guests.items())
        }

    def _find(self, name: str, machines: dict[str, _T], kind: str) -> _T:
        if name not in machines:
            accepted = ", ".join(machines) or "none"
            raise LabError(f"{name!r} is not a {kind} of lab {self.name!r}, accepted are {accepted}.")
        return machines[name]

    def _record(self) -> _Record:
        try:
            data = json.loads((self.state / "lab.json").read_text(encoding="utf-8"))
            return _Record(**{**data, "spec": parse_spec(data["spec"])})
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise LabError(
                f"The state of lab {self.name!r} can't be read ({error}): 'lab down' removes the rest of the lab."
            ) from error

    @staticmethod
    def _write_record(record: _Record, state: Path) -> None:
        temporary = state / ".lab.json"
        temporary.write_text(json.dumps({**vars(record), "spec": record.spec.to_dict()}), encoding="utf-8")
        temporary.rename(state / "lab.json")

    def _run_step(self, text: str, work: Callable[[], _T]) -> _T:
        with self._step(text):
            return work()

    @contextlib.contextmanager
    def _step(self, text: str) -> Iterator[None]:
        begin = time.monotonic()
        yield
        self._say(f"{time.monotonic() - begin:7.1f} s  {text}")

    @staticmethod
    def _run_parallel(things: Any, work: Callable[[Any], _T]) -> list[_T]:
        with ThreadPoolExecutor(max_workers=4) as pool:
            return list(pool.map(work, things))


def list_labs() -> list[str]:
    """Return the names of the labs, complete or not."""
    return sorted(path.name for path in RUNTIME.iterdir()) if RUNTIME.is_dir() else []


__all__ = ["Lab", "list_labs"]
