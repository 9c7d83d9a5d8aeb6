import pytest

from benchmarks import peer_environment


def test_torch_is_asked_for_by_exactly_its_version():
    assert peer_environment.exact("torch", "# torch==1\nnumpy==2\ntorch==2.13.0\n") == "torch==2.13.0"
    assert peer_environment.exact("torch", peer_environment.REQUIREMENTS.read_text()) == "torch==2.13.0"


def test_an_unpinned_torch_is_refused():
    with pytest.raises(ValueError, match="not pinned"):
        peer_environment.exact("torch", "torch>=2\ntorchvision==1\n")


def test_every_requirement_is_pinned():
    lines = peer_environment.REQUIREMENTS.read_text().splitlines()
    assert all("==" in line for line in lines if line and not line.startswith("#"))
