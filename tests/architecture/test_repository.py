"""The repository says nothing about the machine it was written on, and carries what a stranger needs."""

import re

import pytest

import source_tree
from source_tree import ROOT

# Written in pieces, so that this file does not contain what it looks for.
MACHINE_PATHS = re.compile("/" + r"(?:work|farm|root)/[\w.-]|/" + r"tmp/(?:lab|bash_jobs)")
REGISTRY_HOSTS = re.compile(
    r"py" + r"pi\.org|python" + r"hosted|registry\.npm" + r"js|deb\.deb" + r"ian|download\.pytor" + r"ch\.org"
)
NEEDED = ("LICENSE", "README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", "constraints.txt", "Makefile", ".ci/run")
MAX_BYTES = 2_000_000


@pytest.mark.parametrize("pattern", [MACHINE_PATHS, REGISTRY_HOSTS], ids=["machine paths", "registry hosts"])
def test_no_file_names_a_machine_or_a_registry(pattern):
    found = []
    for path in source_tree.tracked_files():
        text = path.read_text(encoding="utf-8", errors="replace")
        found += [f"{path.relative_to(ROOT)}: {match.group()}" for match in pattern.finditer(text)]
    assert found == []


def test_the_patterns_find_what_they_look_for():
    assert MACHINE_PATHS.search("see /" + "work/main/src")
    assert REGISTRY_HOSTS.search("https://py" + "pi.org/simple")


@pytest.mark.parametrize("name", NEEDED)
def test_a_stranger_finds(name):
    assert (ROOT / name).stat().st_size > 0


def test_no_big_files():
    assert [p.name for p in source_tree.tracked_files() if p.stat().st_size > MAX_BYTES] == []


def test_the_constraints_are_exact_and_plain():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert [line for line in pins if not re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][0-9A-Za-z.]*", line)] == []
