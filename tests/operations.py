"""A mode that counts and names the operations of torch, seen from below."""

from collections.abc import Callable

from torch.utils._python_dispatch import TorchDispatchMode


class Count(TorchDispatchMode):
    """Operations while it is on: all, and those that launch a kernel on a GPU, which views and allocations do not."""

    def __init__(self) -> None:
        super().__init__()
        self.all, self.launched, self.names = 0, 0, []

    def __torch_dispatch__(self, operation: Callable, types: object, args: tuple = (), kwargs: dict | None = None):
        self.names.append(operation.overloadpacket.__name__)
        allocates = self.names[-1].startswith(("empty", "new_empty"))
        self.all += not allocates
        self.launched += not (operation.is_view or allocates)
        return operation(*args, **(kwargs or {}))
