"""A mode in which nothing may ask the device: what would make the host wait for it, on a CPU too.

A number out of a tensor, a shape that depends on values, or a copy between devices that is not asked to run beside the
host, each seen from below, as an operation, or from above, as a method that reads a tensor's memory without one.
"""

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
NUMBERS = {aten._local_scalar_dense, aten.is_nonzero, aten.equal, aten.allclose}
SHAPES = {aten.nonzero, aten.masked_select, aten._unique2, aten.unique_dim, aten.unique_consecutive, aten.bincount}
READ = ("item", "tolist", "numpy", "cpu", "__bool__", "__int__", "__float__", "__index__", "__array__", "nonzero")
READ_BY = {getattr(torch.Tensor, name) for name in READ}


class NeverAsked(TorchDispatchMode):
    """Refuses what would wait for a device."""

    def __init__(self):
        super().__init__()
        self.above = FromAbove()

    def __enter__(self):
        self.above.__enter__()
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        self.above.__exit__(*error)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        packet = function.overloadpacket
        assert packet not in NUMBERS | SHAPES, f"{packet} asks the device"
        if packet in (aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_):
            asked = [i for i in args[1] if i is not None and i.dtype in (torch.bool, torch.uint8)]
            assert not asked, f"{packet} by a mask has a shape that depends on values"
        result = function(*args, **(kwargs or {}))
        if packet in (aten._to_copy, aten.copy_):
            source, target = (args[0], result) if packet is aten._to_copy else (args[1], args[0])
            beside = (kwargs or {}).get("non_blocking", False) or (packet is aten.copy_ and True in args[2:])
            assert source.device == target.device or beside, f"{packet} from {source.device} to {target.device} waits"
        return result


class FromAbove(TorchFunctionMode):
    """Refuses methods that read memory."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        assert function not in READ_BY, f"{function.__name__} asks the device"
        return function(*args, **(kwargs or {}))
