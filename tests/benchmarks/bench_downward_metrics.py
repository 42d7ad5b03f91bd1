# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""Measure the CPU time of the service of the role downward_metrics.

Domains without a guest system run in a lab, paused, each with a disk and a port for metrics. The floor of an update is
``virsh domstats`` of all domains, which reads the same figures once.

Hostile guests are sockets of this process, and the server of the ports runs in a child process.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import resource
import socket
import statistics
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from lab import Lab, load_spec
from measuring import Row, format_table, make_directory, run

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / ".cache" / "collections"))
from ansible_collections.granary.vmstore.plugins.module_utils._host.metrics.port_server import PortServer  # noqa: E402
from ansible_collections.granary.vmstore.plugins.module_utils._model.metrics import RunningDomain, metrics_file  # noqa: E402

#: Upper bound of the CPU time of an update in milliseconds: 1 % of a processor, with an update every 5 seconds.
LIMIT = 50

SERVICE = "granary-downward-metrics"

#: {0}: number of the domain, {1}: its UUID, {2}: file of its disk.
DOMAIN = """<domain type='qemu'><name>measured-{0}</name><uuid>{1}</uuid><memory unit='MiB'>8</memory><vcpu>2</vcpu>
<os><type arch='x86_64' machine='pc'>hvm</type></os><devices><controller type='usb' model='none'/>
<video><model type='none'/></video><disk type='file' device='disk'><driver name='qemu' type='raw'/>
<source file='{2}'/><target dev='vda' bus='virtio'/><readonly/></disk><channel type='unix'><source mode='bind'/>
<target type='virtio' name='org.github.vhostmd.1'/></channel></devices></domain>"""


@contextlib.contextmanager
def running_lab() -> Iterator[Lab]:
    spec = load_spec({"name": f"bench-metrics-{os.getpid()}", "hosts": {"hv1": {"kind": "debian13"}}})
    lab = Lab(spec.name)
    lab.up(spec)
    try:
        yield lab
    finally:
        lab.down()


def start_service(lab: Lab, directory: Path) -> None:
    """Run the role."""
    play = [{"hosts": "hv1", "gather_subset": ["min"], "roles": ["granary.vmstore.downward_metrics"]}]
    (playbook := directory / "play.yml").write_text(json.dumps(play))
    run([Path(sys.executable).with_name("ansible-playbook"), "-i", lab.inventory, playbook])


def start_domains(lab: Lab, number: int) -> None:
    for one in range(number):
        name = str(uuid.UUID(int=one + 1, version=4))
        file = metrics_file(name)
        lab.ssh("hv1", f"mkdir -p {os.path.dirname(file)} && truncate --size=262144 {file}")
        lab.ssh("hv1", "virsh -q create --paused /dev/stdin", stdin=DOMAIN.format(one, name, file).encode())
        print(".", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)


def cpu_of(lab: Lab, process: str) -> float:
    """Return the CPU time of a process in milliseconds."""
    fields = lab.ssh("hv1", f"cat /proc/{process}/stat").rpartition(")")[2].split()
    return 1000 * (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure_updates(lab: Lab, updates: int) -> dict[str, float]:
    """Return the CPU time of an update in milliseconds, for the service and for libvirtd, and the service's memory."""
    processes = {
        "service": lab.ssh("hv1", f"systemctl show -P MainPID {SERVICE}").strip(),
        "libvirtd": lab.ssh("hv1", "pidof libvirtd").strip(),
    }
    before = {name: cpu_of(lab, process) for name, process in processes.items()}
    time.sleep(5 * updates)
    found = {name: (cpu_of(lab, process) - before[name]) / updates for name, process in processes.items()}
    status = lab.ssh("hv1", f"cat /proc/{processes['service']}/status")
    return {**found, "memory": int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024}


def measure_virsh(lab: Lab) -> float:
    """Return the CPU time of ``virsh domstats`` in milliseconds."""
    command = "bash -c 'times=$( { time virsh domstats --vcpu --balloon >/dev/null; } 2>&1 ); echo $times'"
    words = lab.ssh("hv1", f"TIMEFORMAT='%U %S' {command}").split()
    return 1000 * sum(map(float, words))


def measure_ports(directory: Path, number: int, seconds: float, act: Callable[[socket.socket], object]) -> float:
    """Return the CPU time of the server of the ports in milliseconds a second, while guests act all the time."""
    listeners = {RunningDomain(str(one), one): socket.socket(socket.AF_UNIX) for one in range(number)}
    paths = {domain: str(directory / f"{act.__name__}-{domain.id}") for domain in listeners}
    for domain, listener in listeners.items():
        listener.bind(paths[domain])
        listener.listen(1)
    reader, writer = os.pipe()
    if os.fork() == 0:
        server = PortServer(lambda line: None)
        server.publish(dict.fromkeys(paths, b"m" * 2000))
        server.set_ports(paths)
        threading.Timer(seconds, server.stop).start()
        server.run()
        usage = resource.getrusage(resource.RUSAGE_SELF)
        os.write(writer, str(1000 * (usage.ru_utime + usage.ru_stime) / seconds).encode())
        os._exit(0)
    guests = [listener.accept()[0] for listener in listeners.values()]
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for guest in guests:
            guest.setblocking(False)
            with contextlib.suppress(OSError):
                act(guest)
        time.sleep(0.01)
    os.wait()
    for one in (*guests, *listeners.values()):
        one.close()
    return float(os.read(reader, 100))


def be_silent(_guest: socket.socket) -> None:
    """Do nothing."""


def send_requests(guest: socket.socket) -> None:
    """Send requests all the time, and read the replies."""
    guest.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        guest.recv(1 << 16)
    guest.send(b"GET /metrics/XML\n\n" * 20)


def send_bytes(guest: socket.socket) -> None:
    """Send a line without an end, byte by byte, and never read."""
    guest.send(b"x")


def main() -> None:
    parser = argparse.ArgumentParser(description="Measures the service of downward metrics.")
    parser.add_argument("--domains", type=int, default=200)
    parser.add_argument("--updates", type=int, default=12)
    parser.add_argument("--directory", default="/var/tmp")
    options = parser.parse_args()
    number = options.domains
    with make_directory(options.directory) as directory:
        ports = {act: measure_ports(directory, number, 8, act) for act in (be_silent, send_requests, send_bytes)}
        with running_lab() as lab:
            start_service(lab, directory)
            start_domains(lab, number)
            found = measure_updates(lab, options.updates)
            virsh = statistics.median(measure_virsh(lab) for _unused in range(5))
    more = {"memory": f"{found['memory']:.0f} MiB"}
    rows = [
        Row(f"update of {number} VMs", found["service"], "virsh domstats", virsh, "ms", limit=LIMIT, more=more),
        Row(f"libvirtd, update of {number} VMs", found["libvirtd"], "virsh domstats", virsh, "ms"),
    ]
    silent = ports.pop(be_silent)
    rows += [
        Row(f"a second of {number} guests that {act.__name__.replace('_', ' ')}", cpu, "silent guests", silent, "ms")
        for act, cpu in ports.items()
    ]
    print(format_table(rows))


if __name__ == "__main__":
    main()
