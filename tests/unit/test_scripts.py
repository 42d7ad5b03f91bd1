# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""Errors and counters of the scripts that a person runs."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "script"


def run(*argv: str | Path) -> tuple[int, str]:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=300, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("name", ["test", "lint", "demo", "fresh", "bench"])
def test_without_root_one_sentence_says_so(name: str) -> None:
    # In a user namespace without a mapping no user is root, and root's files stay readable.
    status, output = run("unshare", "--user", SCRIPT / name)
    assert status == 2
    assert output.count("\n") == 1
    assert "this needs root" in output


@pytest.mark.parametrize("name", ["test", "lint", "demo", "fresh", "bench"])
def test_on_another_system_one_sentence_says_which_are_supported(name: str, tmp_path: Path) -> None:
    release = tmp_path / "os-release"
    release.write_text('ID=fedora\nVERSION_ID="44"\n')
    status, output = run(
        "unshare", "--mount", "sh", "-c", 'mount --bind "$1" /etc/os-release && exec "$2"', "sh", release, SCRIPT / name
    )
    assert status == 2
    assert output.endswith(
        'this system is "fedora 44", and only Debian 12, Debian 13 and, untested, Ubuntu 24.04 are accepted.\n'
    )
    assert output.count("\n") == 1


def test_ubuntu_is_let_through_with_a_line_that_says_nobody_has_tried_it(tmp_path: Path) -> None:
    release = tmp_path / "os-release"
    release.write_text('ID=ubuntu\nVERSION_ID="24.04"\n')
    # An ordinary user, so that the script ends after its checks of the machine.
    script = 'mount --bind "$1" /etc/os-release && exec unshare --user "$2"'
    status, output = run("unshare", "--mount", "sh", "-c", script, "sh", release, SCRIPT / "demo")
    assert status == 2
    first, second = output.splitlines()
    assert first == "==> nobody has run this on Ubuntu 24.04 yet: please tell us how it went"
    assert "this needs root" in second


def test_an_unknown_suite_is_refused_with_the_known_ones() -> None:
    status, output = run(SCRIPT / "test", "unit", "molecul")
    assert status == 2
    assert '"molecul"' in output
    assert "lint docs sanity unit integration molecule fresh, or quick" in output


def test_a_new_machine_runs_every_suite_but_the_one_that_makes_it() -> None:
    listed = re.search(r"^SUITES=\((.*)\)$", (SCRIPT / "test").read_text(), re.MULTILINE)
    there = re.search(r"^SUITES = (\(.*\))$", (SCRIPT / "fresh.py").read_text(), re.MULTILINE)
    assert listed and there
    assert [*ast.literal_eval(there[1]), "fresh"] == listed[1].split()


def test_an_unknown_benchmark_is_refused_with_the_known_ones() -> None:
    status, output = run(SCRIPT / "bench", "monito")
    assert status == 2
    names = (
        "actions cp domain-volumes downward-metrics images migration monitor monitoring simulated-datastore transfers "
        "volumes"
    )
    assert output == (f'script/bench: there is no benchmark "monito": give one of {names}, or none to run all.\n')


def test_counts_are_those_of_the_report(tmp_path: Path) -> None:
    (tmp_path / "test_sample.py").write_text(
        "import pytest\n"
        "def test_passes(): pass\n"
        "def test_passes_too(): pass\n"
        "def test_fails(): raise ValueError\n"
        "def test_skipped(): pytest.skip('not here')\n"
        "@pytest.fixture\n"
        "def broken(): raise OSError\n"
        "def test_errs(broken): pass\n"
    )
    report = tmp_path / "report.xml"
    alone = [
        "env",
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD=1",
        sys.executable,
        "-m",
        "pytest",
        "-c",
        "/dev/null",
        "-p",
        "no:cacheprovider",
    ]
    run(*alone, f"--junit-xml={report}", tmp_path)
    assert run(sys.executable, SCRIPT / "junit.py", report) == (0, "2 2\n")


def test_the_slowest_tests_are_listed_first(tmp_path: Path) -> None:
    for name, seconds in (("one", (0.1, 30.0)), ("two", (2.0,))):
        cases = "".join(f'<testcase classname="t" name="{name}{time:g}" time="{time}"/>' for time in seconds)
        (tmp_path / f"{name}.xml").write_text(f"<testsuites><testsuite>{cases}</testsuite></testsuites>")
    status, output = run(sys.executable, SCRIPT / "junit.py", "--slowest", "2", *tmp_path.glob("*.xml"))
    assert status == 0
    assert output == "\n seconds  the slowest tests\n    30.0  t::one30\n     2.0  t::two2\n"


def test_failed_tests_are_named_with_the_end_of_their_reports(tmp_path: Path) -> None:
    report = "\n".join(f"line {number}" for number in range(100))
    cases = f"""<testcase classname="t" name="good"/>
        <testcase classname="t" name="bad"><failure>{report}</failure></testcase>
        <testcase classname="t" name="broken"><error/></testcase>"""
    (tmp_path / "one.xml").write_text(f"<testsuites><testsuite>{cases}</testsuite></testsuites>")
    status, output = run(sys.executable, SCRIPT / "junit.py", "--failed", tmp_path / "one.xml")
    assert status == 0
    lines = output.splitlines()
    assert [line for line in lines if "FAILED" in line] == ["FAILED: t::bad", "FAILED: t::broken"]
    assert "    line 99" in lines
    assert "    line 9" not in lines


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Create a checkout with replaced suites: unit fails, fresh never runs a test, docs ends the shell."""
    script = tmp_path / "script"
    script.mkdir()
    for name in ("junit.py", "lib.sh"):
        (script / name).symlink_to(SCRIPT / name)
    text = (SCRIPT / "test").read_text()
    suites = """
prepare() { :; }
suite_lint() { check "a sentence" true; }
suite_docs() { exit 7; }
suite_unit() { check "one" true; check "two" false; }
suite_fresh() { :; }
suite_integration() { check "a test" sh -c 'until [ -e .cache/results/unit.count ]; do :; done'; }
"""
    assert text.endswith('\nmain "$@"\n')
    (script / "test").write_text(text.removesuffix('main "$@"\n') + suites + 'main "$@"\n')
    (script / "test").chmod(0o755)
    return tmp_path


def test_suites_run_beside_each_other_and_are_counted(checkout: Path) -> None:
    # integration waits for the end of unit. Sequential suites would never end.
    status, output = run(checkout / "script" / "test", "integration", "fresh", "lint", "unit")
    assert status == 1
    assert [line.split()[:3] for line in output.splitlines()[-5:]] == [
        ["suite", "passed", "failed"],
        ["integration", "1", "0"],
        ["fresh", "0", "1"],
        ["lint", "1", "0"],
        ["unit", "1", "1"],
    ]
    assert "==> FAILED: two" in output
    assert run(checkout / "script" / "test", "integration", "lint", "unit")[0] == 1
    assert run(checkout / "script" / "test", "lint")[0] == 0


def test_a_suite_that_ends_the_run_has_failed(checkout: Path) -> None:
    status, output = run(checkout / "script" / "test", "fresh", "docs", "lint")
    assert status == 1
    assert [line.split()[:3] for line in output.splitlines()[-2:]] == [["docs", "0", "1"], ["lint", "0", "1"]]


def test_each_ansible_core_gets_a_real_interpreter_that_it_supports(tmp_path: Path) -> None:
    status, output = run(
        sys.executable, SCRIPT / "pythons.py", tmp_path / "links", SCRIPT.parent / "requirements" / "core.in"
    )
    assert status == 0
    lines = [line.split(" ") for line in output.splitlines()]
    assert lines
    assert len({core for _minor, _path, core in lines}) == len(lines)
    for minor, path, core in lines:
        assert f"ansible-core=={core};" in (SCRIPT.parent / "requirements" / "core.in").read_text()
        assert run(path, "-c", "import sys; print(sys.executable, '%d.%d' % sys.version_info[:2])") == (
            0,
            f"{path} {minor}\n",
        )
    oldest = run(
        sys.executable,
        SCRIPT / "pythons.py",
        "--oldest",
        tmp_path / "links",
        SCRIPT.parent / "requirements" / "core.in",
    )[1]
    first = (
        [f"3.9 {(tmp_path / 'links' / 'python3.9').readlink()}"] if (tmp_path / "links" / "python3.9").exists() else []
    )
    assert oldest.splitlines() == [*first, *output.splitlines()]
    for link in (tmp_path / "links").iterdir():
        # A shim is a script of pyenv, an interpreter is an ELF program.
        assert link.read_bytes()[:4] == b"\x7fELF"
