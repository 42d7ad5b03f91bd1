# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""Root trees: the installation of each kind of host and guest by mmdebstrap."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path

from . import cache, machine_python
from .errors import LabError
from .run import run

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")

#: Paths that no test needs.
_EXCLUDE = ("/usr/share/man/*", "/usr/share/doc/*", "/usr/share/locale/*", "/usr/share/info/*")

_SSHD = (
    "HostKey /etc/ssh/ssh_host_ed25519_key\nUseDNS no\nAuthorizedKeysFile .ssh/authorized_keys "
    "/etc/ssh/lab_authorized_keys\n"
)

#: The default, post-quantum, key exchange takes an emulated guest a second.
_FAST_SSHD = "UsePAM no\nKexAlgorithms curve25519-sha256\n"

#: Units that in a privileged container would change the machine itself, or wait for hardware.
_MASKED_IN_HOSTS = (
    "systemd-udevd.service",
    "systemd-udev-trigger.service",
    "systemd-udevd-kernel.socket",
    "systemd-udevd-control.socket",
    "systemd-sysctl.service",
    "systemd-modules-load.service",
    "systemd-logind.service",
    "console-getty.service",
    "run-rpc_pipefs.mount",
    "proc-fs-nfsd.mount",
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "libvirt-guests.service",
    "sshd-keygen.service",
)

#: Units that are slow under emulation, and that nothing in a NoCloud seed depends on.
_MASKED_IN_CLOUD = (
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "fstrim.timer",
    "getty@tty1.service",
    "serial-getty@ttyS0.service",
    "systemd-networkd-wait-online.service",
    "systemd-pstore.service",
)

_HOST_PACKAGES = (
    "acl",
    "attr",
    "dbus",
    "dnsmasq-base",
    "iproute2",
    "iptables",
    "kmod",
    "libvirt-clients",
    "libvirt-daemon-system",
    "openssh-server",
    "procps",
    "psmisc",
    "python3",
    "python3-apt",
    "python3-libvirt",
    "qemu-system-x86",
    "qemu-utils",
    "systemd-sysv",
    "uidmap",
    "virtinst",
    "xorriso",
)

#: Packages of a host with a kernel of its own. With the last four, the collection's roles install nothing.
_UML_PACKAGES = (
    *_HOST_PACKAGES,
    "nfs-common",
    "nfs-kernel-server",
    "rpcbind",
    "sqlite3",
    "sudo",
    "e2fsprogs",
    "virtiofsd",
    "xfsprogs",
    "zstd",
)

#: Units and generators of units that take long, because User-Mode Linux starts a process slowly.
_MASKED_IN_UML = (
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "dev-hugepages.mount",
    "dev-mqueue.mount",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "fstrim.timer",
    "getty.target",
    "kmod-static-nodes.service",
    "libvirt-guests.service",
    "logrotate.timer",
    "nfs-blkmap.service",
    "proc-sys-fs-binfmt_misc.automount",
    "sshd-keygen.service",
    "sys-fs-fuse-connections.mount",
    "sys-kernel-config.mount",
    "sys-kernel-debug.mount",
    "sys-kernel-tracing.mount",
    "systemd-binfmt.service",
    "systemd-journal-flush.service",
    "systemd-logind.service",
    "systemd-pstore.service",
    "systemd-random-seed.service",
    "systemd-tmpfiles-clean.timer",
    "systemd-tmpfiles-setup-dev-early.service",
    "systemd-tmpfiles-setup-dev.service",
    "systemd-udev-trigger.service",
    "systemd-udevd.service",
    "systemd-udevd-control.socket",
    "systemd-udevd-kernel.socket",
    "xfs_scrub_all.timer",
)
_GENERATORS_MASKED_IN_UML = (
    "systemd-cryptsetup-generator",
    "systemd-debug-generator",
    "systemd-getty-generator",
    "systemd-gpt-auto-generator",
    "systemd-hibernate-resume-generator",
    "systemd-integritysetup-generator",
    "systemd-rc-local-generator",
    "systemd-run-generator",
    "systemd-ssh-generator",
    "systemd-system-update-generator",
    "systemd-sysv-generator",
    "systemd-tpm2-generator",
    "systemd-veritysetup-generator",
)

#: Command that unpacks the kernel, and puts its modules where kmod(8) looks for them. Debian 13 has the version 6.12,
#: which runs each process with ptrace(2). Since 6.16, seccomp(2) takes half the time for that.
_UML_KERNEL = (
    'chroot "$1" sh -euc \''
    # A mirror can be older than the week for which the list of a testing release is valid.
    'echo "deb [check-valid-until=no] http://deb.debian.org/debian forky main" > /etc/apt/sources.list.d/forky.list; '
    "cd /var/tmp; apt-get -q update; apt-get -q download user-mode-linux/forky; dpkg-deb -x user-mode-linux_*.deb /; "
    "rm user-mode-linux_*.deb /etc/apt/sources.list.d/forky.list'; "
    'version=$(ls "$1"/usr/lib/uml/modules); mkdir -p "$1"/usr/lib/modules; '
    'ln -s "../uml/modules/$version" "$1/usr/lib/modules/$version"; chroot "$1" depmod "$version"'
)
#: Command that disables services that only some hosts of a lab need.
_UML_SERVICES = (
    'cd "$1"/etc/systemd/system/multi-user.target.wants && rm libvirtd.service nfs-server.service virtlogd.service'
)

#: The default time of 90 seconds would delay the first lock after each start of the NFS server.
_NFS_SERVER = "[nfsd]\ngrace-time=10\nlease-time=10\n"
_LOCKD = "options lockd nlm_grace_period=10\n"

#: Command that unpacks the kernel's package without its dependencies, because a guest builds no initramfs.
_KERNEL = (
    'chroot "$1" sh -euc \''
    "cd /var/tmp; "
    'apt-get -q download "$(apt-cache depends --important linux-image-cloud-amd64 | sed -n "s/.*Depends: //p" | grep '
    '"^linux-image-")"; '
    'dpkg-deb -x linux-image-*.deb /; rm linux-image-*.deb; depmod "$(ls /usr/lib/modules)"\''
)


@dataclass(frozen=True)
class Recipe:
    """The content of a tree. Its hash names the tree in the cache.

    *files* maps paths in the tree to their text (a text that begins with ``#!`` is executable), *links* maps paths to
    link targets.
    """

    suite: str
    packages: tuple[str, ...]
    files: tuple[tuple[str, str], ...] = ()
    links: tuple[tuple[str, str], ...] = ()
    hooks: tuple[str, ...] = ()


def _text(kind: str, name: str) -> str:
    return resources.files(__package__).joinpath(kind, name).read_text(encoding="utf-8")


def _mask(units: Iterable[str], kind: str = "system") -> tuple[tuple[str, str], ...]:
    return tuple((f"/etc/systemd/{kind}/{unit}", "/dev/null") for unit in units)


def _host(suite: str, *packages: str) -> Recipe:
    return Recipe(
        suite,
        (*_HOST_PACKAGES, *packages),
        files=(("/etc/ssh/sshd_config.d/lab.conf", _SSHD),),
        links=_mask(_MASKED_IN_HOSTS),
    )


def _uml() -> Recipe:
    return Recipe(
        "trixie",
        _UML_PACKAGES,
        files=(
            ("/etc/ssh/sshd_config.d/lab.conf", _SSHD + _FAST_SSHD),
            ("/etc/nfs.conf.d/lab.conf", _NFS_SERVER),
            ("/etc/modprobe.d/lab.conf", _LOCKD),
            ("/usr/local/sbin/lab-host", _text("uml_host", "lab-host")),
            ("/usr/local/sbin/lab-boot", _text("uml_host", "lab-boot")),
            # As systemd-update-done.service(8) leaves them: nothing is to be done after an update.
            ("/etc/.updated", ""),
            ("/var/.updated", ""),
            *((path, file.read_text(encoding="utf-8")) for file, path in machine_python.list_files().items()),
        ),
        links=(*_mask(_MASKED_IN_UML), *_mask(_GENERATORS_MASKED_IN_UML, "system-generators")),
        hooks=(_UML_KERNEL, _UML_SERVICES),
    )


def list_recipes() -> dict[str, Recipe]:
    """Return all recipes by the names of their trees."""
    return {
        "debian13": _host("trixie", "virtiofsd"),
        "debian12": _host("bookworm"),
        "uml": _uml(),
        "guest": Recipe(
            "trixie",
            ("acl", "attr", "busybox-static", "iproute2", "kmod", "openssh-server", "procps", "python3"),
            files=(
                ("/etc/ssh/sshd_config.d/lab.conf", _SSHD + _FAST_SSHD),
                ("/etc/inittab", _text("guest", "inittab")),
                ("/usr/local/sbin/lab-boot", _text("guest", "lab-boot")),
                ("/etc/acpi/PWRF/00000080", "#!/bin/sh\nexec poweroff\n"),
            ),
            links=tuple((f"/usr/sbin/{name}", "/usr/bin/busybox") for name in ("init", "halt", "poweroff", "reboot")),
            hooks=(_KERNEL,),
        ),
        "cloud": Recipe(
            "trixie",
            (
                "busybox-static",
                "cloud-init",
                "dbus",
                "e2fsprogs",
                "iproute2",
                "kmod",
                "procps",
                "systemd-sysv",
                "udev",
                "netplan.io",
            ),
            files=(
                ("/etc/systemd/system/lab-report.service", _text("guest", "lab-report.service")),
                ("/usr/local/sbin/lab-report", _text("guest", "lab-report")),
                ("/etc/cloud/cloud.cfg.d/99_lab.cfg", "# There is no sshd.\nssh_genkeytypes: []\n"),
            ),
            links=(
                ("/etc/systemd/system/multi-user.target.wants/lab-report.service", "../lab-report.service"),
                *_mask(_MASKED_IN_CLOUD),
            ),
            hooks=(_KERNEL,),
        ),
    }


def build_tree(name: str) -> Path:
    """Return the directory of the tree called *name*; build a missing tree. Raises :class:`LabError`."""
    recipe = list_recipes()[name]
    return cache.build_once(f"tree-{name}", asdict(recipe), lambda directory: _build(recipe, directory))


def build_minimal_tree(suite: str) -> Path:
    """Return the directory of a tree with the packages of every machine, and those that a checkout of the project
    needs.

    Raises :class:`LabError`.
    """
    packages = ("ca-certificates", "git")
    return cache.build_once(
        f"tree-minimal-{suite}", packages, lambda directory: _mmdebstrap(suite, packages, directory)
    )


def _build(recipe: Recipe, directory: Path) -> None:
    hooks = [
        *recipe.hooks,
        'rm -rf "$1"/etc/ssh/ssh_host_* "$1"/etc/hostname "$1"/var/lib/apt/lists/* "$1"/var/cache/apt/*.bin',
    ]
    _mmdebstrap(
        recipe.suite,
        recipe.packages,
        directory,
        '--aptopt=Apt::Install-Recommends "false"',
        *(f"--dpkgopt=path-exclude={path}" for path in _EXCLUDE),
        *(f"--customize-hook={hook}" for hook in hooks),
    )
    for name, text in recipe.files:
        path = directory / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        path.chmod(0o755 if text.startswith("#!") else 0o644)
    for name, target in recipe.links:
        path = directory / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.symlink_to(target)


def _mmdebstrap(suite: str, packages: tuple[str, ...], directory: Path, *options: str) -> None:
    if not KEYRING.exists():
        raise LabError(f"{KEYRING} is missing: install the package debian-archive-keyring.")
    temporary = cache.root() / "tmp"
    temporary.mkdir(exist_ok=True)
    # The build runs in PID and mount namespaces of its own, so that a killed build leaves no processes, mounts and
    # files.
    run(
        [
            "unshare",
            "--pid",
            "--mount",
            "--fork",
            "--kill-child=SIGKILL",
            "--",
            "sh",
            "-c",
            'mount -t tmpfs tmpfs "$0" && TMPDIR="$0" exec "$@"',
            str(temporary),
            "mmdebstrap",
            "--mode=root",
            "--variant=minbase",
            "--format=directory",
            f"--keyring={KEYRING}",
            "--architectures=amd64",
            f"--include={','.join(packages)}",
            *options,
            suite,
            str(directory),
        ],
        deadline=1800,
    )


__all__ = ["Recipe", "build_minimal_tree", "list_recipes", "build_tree"]
