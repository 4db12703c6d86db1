"""What goes to a GPU goes beside its work and is waited for there; on a CPU nothing goes anywhere."""

import contextlib
from collections.abc import Iterator

import pytest
import torch

from data.transfer import Transfer


def test_on_a_cpu_a_tensor_stays_where_it_is() -> None:
    tensor = torch.arange(3)
    assert Transfer(torch.device("cpu"))(tensor) is tensor


class Said(list):
    """A stand-in for a GPU, its streams and its tensors, that notes what it is told, in order."""

    def __init__(self, pinned: bool, is_cuda: bool = False):
        self.pinned, self.is_cuda = pinned, is_cuda

    def is_pinned(self) -> bool:
        return self.pinned

    def pin_memory(self) -> "Said":
        self.append("pin")
        return self

    def to(self, device: torch.device, non_blocking: bool) -> "Said":
        assert non_blocking
        self.append("copy")
        return self

    def wait_stream(self, stream: str) -> None:
        self.append(f"computing waits for {stream}")

    def record_stream(self, stream: object) -> None:
        self.append("memory is kept for computing")


@pytest.mark.parametrize("pinned", [True, False])
def test_copy_is_made_in_a_stream_of_its_own_and_waited_for_by_the_one_that_computes(
    pinned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = Said(pinned)

    @contextlib.contextmanager
    def stream(name: str) -> Iterator[None]:
        said.append(f"in {name}")
        yield
        said.append(f"out of {name}")

    monkeypatch.setattr(torch.cuda, "Stream", lambda device: "its own")
    monkeypatch.setattr(torch.cuda, "stream", stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: said)
    transfer = Transfer(torch.device("cuda", 0))
    assert transfer(said) is said
    begin = [] if pinned else ["pin"]
    order = ["in its own", "copy", "out of its own", "computing waits for its own", "memory is kept for computing"]
    assert list(said) == begin + order
    there = Said(pinned, is_cuda=True)
    assert list(transfer(there)) == ["copy"]  # to where it is: none
