import pytest

from benchmarks import peer_environment

PEERS = sorted(peer_environment.ENVIRONMENTS.glob("*.txt"))
ALONE = sorted(peer_environment.ENVIRONMENTS.glob("alone/*.txt"))


@pytest.mark.parametrize("requirements", PEERS, ids=lambda path: path.stem)
def test_torch_is_asked_for_by_exactly_its_version(requirements):
    assert peer_environment.exact("torch", requirements) == "torch==2.13.0"


def test_the_version_is_found_among_others(tmp_path):
    path = tmp_path / "peer.txt"
    path.write_text("# torch==1\nnumpy==2\ntorch==2.13.0\n")
    assert peer_environment.exact("torch", path) == "torch==2.13.0"


def test_an_unpinned_torch_is_refused(tmp_path):
    path = tmp_path / "peer.txt"
    path.write_text("torch>=2\ntorchvision==1\n")
    with pytest.raises(ValueError, match="not pinned in peer.txt"):
        peer_environment.exact("torch", path)


@pytest.mark.parametrize("requirements", [*PEERS, *ALONE], ids=lambda path: path.stem)
def test_every_requirement_is_pinned(requirements):
    lines = requirements.read_text().splitlines()
    assert all("==" in line for line in lines if line and not line.startswith("#"))
