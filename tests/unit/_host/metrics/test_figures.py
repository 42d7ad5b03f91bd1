# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""The figures of a host, compared with other readers of the kernel's files."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import FileAccessFailed
from ansible_collections.granary.vmstore.plugins.module_utils._host.metrics.figures import HostReader
from ansible_collections.granary.vmstore.plugins.module_utils._model.metrics import HostFigures
from refusal import refused

MEMORY = {
    "MemTotal": 1000,
    "MemFree": 300,
    "Buffers": 20,
    "Cached": 80,
    "SwapCached": 5,
    "SwapTotal": 50,
    "SwapFree": 40,
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Create the files of a host with four processors, of which one is offline, in two packages."""
    proc, cpu = tmp_path / "proc", tmp_path / "sys" / "devices" / "system" / "cpu"
    proc.mkdir()
    (proc / "meminfo").write_text("".join(f"{name}: {number:10} kB\n" for name, number in MEMORY.items()))
    (proc / "vmstat").write_text("nr_free_pages 1\npswpin 10\npswpout 30\n")
    (proc / "stat").write_text("cpu  1000 20 300 4000 5 6 7 8 9 10\ncpu0 1 2 3 4\n")
    cpu.mkdir(parents=True)
    (cpu / "online").write_text("0-2\n")
    for number in range(4):
        (cpu / f"cpu{number}" / "topology").mkdir(parents=True)
        (cpu / f"cpu{number}" / "topology" / "physical_package_id").write_text(f"{number // 2}\n")
    (cpu / "cpu3" / "topology" / "physical_package_id").unlink()
    (cpu / "cpufreq").mkdir()
    return tmp_path


def test_figures_of_files(root: Path) -> None:
    figures = HostReader(str(root)).read()
    page = os.sysconf("SC_PAGE_SIZE") // 1024
    assert figures == HostFigures(
        processors=2,
        cpu_seconds=1320 / os.sysconf("SC_CLK_TCK"),
        free_memory=300,
        free_virtual_memory=340,
        used_memory=600,
        used_virtual_memory=645,
        paged_in=10 * page,
        paged_out=30 * page,
        time=figures.time,
    )


def test_processors_are_counted_anew_when_others_are_online(root: Path) -> None:
    cpu = root / "sys" / "devices" / "system" / "cpu"
    reader = HostReader(str(root))
    assert reader.read().processors == 2
    (cpu / "cpu2" / "topology" / "physical_package_id").unlink()
    assert reader.read().processors == 2
    (cpu / "online").write_text("0-1\n")
    assert reader.read().processors == 1


def test_a_kernel_without_swap(root: Path) -> None:
    (root / "proc" / "vmstat").write_text("nr_free_pages 1\n")
    lines = (root / "proc" / "meminfo").read_text().splitlines(keepends=True)
    (root / "proc" / "meminfo").write_text("".join(line for line in lines if not line.startswith("Swap")))
    figures = HostReader(str(root)).read()
    assert (figures.paged_in, figures.paged_out) == (0, 0)
    assert (figures.free_virtual_memory, figures.used_virtual_memory) == (300, 600)


@pytest.mark.parametrize("name", ["meminfo", "vmstat", "stat"])
@pytest.mark.parametrize("text", [None, "\0", "pswpin\ncpu a b c\nMemFree: many\n"])
def test_a_missing_figure_is_an_error(root: Path, name: str, text: str | None) -> None:
    if text is None:
        (root / "proc" / name).unlink()
    elif (name, text) == ("vmstat", "\0"):
        (root / "proc" / name).write_bytes(b"\xff")
    else:
        (root / "proc" / name).write_text(text)
    with refused(FileAccessFailed):
        HostReader(str(root)).read()


def test_figures_of_this_machine() -> None:
    """lscpu(1), date(1) and free(1) have the same figures."""

    def run(*argv: str) -> str:
        return subprocess.run(argv, stdout=subprocess.PIPE, text=True, check=True).stdout

    before = int(run("date", "+%s"))
    figures = HostReader().read()
    sockets = {line for line in run("lscpu", "--parse=SOCKET").splitlines() if not line.startswith("#")}
    assert figures.processors == len(sockets)
    assert before <= figures.time <= int(run("date", "+%s"))
    total = int(run("free", "--kibi").splitlines()[1].split()[1])
    assert 0 < figures.free_memory <= total
    assert 0 < figures.used_memory <= total
    assert figures.cpu_seconds > 0
