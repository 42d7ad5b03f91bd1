# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""Guests: libvirt domains inside a host."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

from . import machine_python
from .access import WAIT_FOR_SSH
from .errors import LabError
from .hosts import LAB_DIRECTORY, Host
from .initramfs import Entry, build_archive
from .run import shorten_output
from .spec import GuestSpec

GATEWAY = "192.168.150.1"
IMAGES = {False: "guest", True: "cloud"}
#: Upper bound of a guest's boot time in seconds, emulated on a loaded machine; by ``cloud_init``.
BOOT_DEADLINE = {False: 120, True: 600}

#: Without no_timer_check, a kernel that is emulated on a busy machine may miss interrupts of its timer and panic
#: ("IO-APIC + timer doesn't work!").
KERNEL_ARGUMENTS = "console=ttyS0 quiet no_timer_check mitigations=off nokaslr random.trust_cpu=1 net.ifnames=0"

NETWORK = f"""<network>
  <name>lab</name>
  <forward mode='open'/>
  <bridge name='lab0' stp='off'/>
  <dns enable='no'/>
  <ip address='{GATEWAY}' netmask='255.255.255.0'/>
</network>
"""

#: Program for the host: return when the word is in the console's log, behind the offset.
_WAIT_FOR_WORD = """
import sys, time
path, offset, word, seconds = sys.argv[1], int(sys.argv[2]), sys.argv[3].encode(), float(sys.argv[4])
end = time.monotonic() + seconds
while time.monotonic() < end:
    with open(path, "rb") as file:
        file.seek(offset)
        if word in file.read():
            sys.exit()
    time.sleep(0.2)
sys.exit("the word is missing")
"""

_STOP = """
virsh -q shutdown "$0" || exit
tries=300
while [ "$(virsh -q domstate "$0")" != "shut off" ]; do
    tries=$((tries - 1))
    [ $tries -gt 0 ] || exec virsh -q destroy "$0"
    sleep 0.2
done
"""


@dataclass(frozen=True)
class Guest:
    """A domain called *name* in *host*. *number* is the guest's index in the lab; address and MAC follow from the
    index.
    """

    name: str
    spec: GuestSpec
    host: Host
    number: int
    kvm: bool

    @property
    def address(self) -> str:
        return f"192.168.150.{10 + self.number}"

    @property
    def mac(self) -> str:
        return f"52:54:00:6c:00:{10 + self.number:02x}"

    @property
    def image(self) -> str:
        return IMAGES[self.spec.cloud_init]

    @property
    def console(self) -> str:
        """The path, in the host, of the log of the guest's serial console."""
        return f"/var/log/libvirt/qemu/{self.name}-console.log"

    def prepare(self, image: Path, authorized_keys: bytes) -> None:
        """Write the guest's initramfs into the host's directory: the cached archive, and an archive of the guest's
        files.
        """
        key = self.host.files / f"{self.name}_ed25519_key"
        network = f"LAB_NAME={self.name}\nLAB_ADDRESS={self.address}/24\nLAB_GATEWAY={GATEWAY}\n"
        own = [
            Entry("lab/etc/lab-network", network.encode()),
            Entry("lab/etc/hostname", f"{self.name}\n".encode()),
            Entry("lab/etc/ssh/ssh_host_ed25519_key", key.read_bytes(), 0o600),
            Entry("lab/etc/ssh/lab_authorized_keys", authorized_keys),
            *(Entry(f"lab{path}", file.read_bytes()) for file, path in machine_python.list_files().items()),
        ]
        initrd = self.host.files / f"{self.name}.initrd"
        initrd.write_bytes((image / "initrd").read_bytes() + build_archive(own))
        initrd.chmod(0o644)

    def define(self) -> None:
        """Create the root disk and define the domain."""
        disk = f"/var/lib/libvirt/images/{self.name}.qcow2"
        self.host.execute(
            "qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", f"{LAB_DIRECTORY}/{self.image}/root.img", disk
        )
        xml = self.host.execute(*self.virt_install(disk)).stdout if self.spec.virt_install else self.xml(disk)
        self.host.execute("virsh", "define", "--validate", "/dev/stdin", stdin=xml.encode())

    def start(self) -> None:
        """Start a stopped domain, without waiting for the boot (:meth:`wait_ready`)."""
        if not self.running():
            self.host.execute("virsh", "start", self.name)

    def wait_ready(self, offset: int = 0) -> None:
        """Return when sshd accepts connections, or when cloud-init's report is on the console behind *offset*.

        Raises :class:`LabError`.
        """
        deadline = BOOT_DEADLINE[self.spec.cloud_init]
        script = (
            [_WAIT_FOR_WORD, self.console, str(offset), "lab: report ends"]
            if self.spec.cloud_init
            else [WAIT_FOR_SSH, self.address]
        )
        if self.host.execute("python3", "-c", *script, str(deadline), deadline=deadline + 30, check=False).returncode:
            raise LabError(
                f"Guest {self.name!r} wasn't up after {deadline} seconds, its console ends with: {self.console_tail()}"
            )

    def stop(self) -> None:
        """Stop the domain by its power button, and after a minute by force."""
        if self.running():
            self.host.execute("sh", "-c", _STOP, self.name, deadline=90)

    def running(self) -> bool:
        return self.host.execute("virsh", "domstate", self.name, check=False).stdout.strip() == "running"

    def console_size(self) -> int:
        """Return the size of the console's log in bytes."""
        return int(self.host.execute("sh", "-c", 'stat -c %s "$0" 2>/dev/null || echo 0', self.console).stdout)

    def console_tail(self) -> str:
        return shorten_output(self.host.execute("tail", "-n", "20", self.console, check=False).stdout, lines=8)

    def _boot_files(self) -> tuple[str, str]:
        """Return the paths of kernel and initramfs in the host."""
        return f"{LAB_DIRECTORY}/{self.image}/vmlinuz", f"{LAB_DIRECTORY}/host/{self.name}.initrd"

    def virt_install(self, disk: str) -> list[str]:
        """Return the command that prints an operator's domain: virt-install chooses all other options and devices."""
        kernel, initrd = self._boot_files()
        return [
            "virt-install",
            "--connect",
            "qemu:///system",
            "--import",
            "--print-xml",
            "--name",
            self.name,
            "--memory",
            str(self.spec.memory),
            # Two emulated processors are slower than one, and their kernel may panic in its boot on a busy machine.
            "--vcpus",
            "1",
            # The newest system that the virt-install of both kinds of hosts has.
            "--osinfo",
            "debian12",
            "--disk",
            f"path={disk}",
            "--network",
            f"network=lab,mac={self.mac}",
            "--boot",
            f"kernel={kernel},initrd={initrd},kernel_args={KERNEL_ARGUMENTS}",
            "--serial",
            f"pty,log.file={self.console},log.append=on",
            *(["--memorybacking", "source.type=memfd,access.mode=shared"] if self.spec.shared_memory else []),
            *([] if self.kvm else ["--virt-type", "qemu", "--cpu", "qemu64,+rdrand"]),
        ]

    def xml(self, disk: str) -> str:
        """Return the domain's XML: a q35 without devices that delay an emulated boot, with *root_ports* free PCIe
        ports.
        """
        memory = (
            "<memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>"
            if self.spec.shared_memory
            else ""
        )
        # Without rdrand the guest's sshd waits for entropy.
        cpu = (
            "<cpu mode='host-passthrough'/>"
            if self.kvm
            else "<cpu mode='custom' match='exact' check='none'><model fallback='forbid'>qemu64</model><feature "
            "policy='require' name='rdrand'/></cpu>"
        )
        ports = "".join(
            f"<controller type='pci' index='{index}' model='pcie-root-port'/>"
            for index in range(1, self.spec.root_ports + 1)
        )
        kernel, initrd = self._boot_files()
        return f"""<domain type='{"kvm" if self.kvm else "qemu"}'>
  <name>{escape(self.name)}</name>
  <memory unit='MiB'>{self.spec.memory}</memory>
  {memory}
  <vcpu>1</vcpu>
  <os>
    <type arch='x86_64' machine='q35'>hvm</type>
    <kernel>{escape(kernel)}</kernel>
    <initrd>{escape(initrd)}</initrd>
    <cmdline>{KERNEL_ARGUMENTS}</cmdline>
  </os>
  <features><acpi/></features>
  {cpu}
  <on_reboot>restart</on_reboot>
  <devices>
    <controller type='pci' index='0' model='pcie-root'/>
    {ports}
    <controller type='usb' model='none'/>
    <disk type='file' device='disk'>
      <driver name='qemu' type='qcow2' cache='unsafe'/>
      <source file={quoteattr(disk)}/>
      <target dev='vda' bus='virtio'/>
      <address type='pci' domain='0x0000' bus='0x00' slot='0x10' function='0x0'/>
    </disk>
    <interface type='network'>
      <mac address='{self.mac}'/>
      <source network='lab'/>
      <model type='virtio'/>
      <address type='pci' domain='0x0000' bus='0x00' slot='0x11' function='0x0'/>
    </interface>
    <serial type='pty'><log file={quoteattr(self.console)} append='on'/></serial>
    <memballoon model='none'/>
  </devices>
</domain>
"""


__all__ = ["GATEWAY", "Guest", "NETWORK"]
