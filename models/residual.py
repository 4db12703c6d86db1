"""Residual blocks: the convolutions of a branch, and the orders in which norms and activations stand around them.

He et al., arXiv 1512.03385; pre-activation, arXiv 1603.05027; relu-first is the PWSConv ancestor's.
"""

from collections import OrderedDict
from dataclasses import dataclass, replace

from torch import Tensor, nn

from models.layers import Layers


@dataclass(frozen=True)
class Conv:
    """One convolution of a residual branch."""

    c_in: int
    c_out: int
    kernel_size: int
    stride: int = 1
    groups: int = 1
    inner: bool = False  # the 3x3 of a bottleneck, where an attention may stand with its norm and activation
    deep: bool = False  # the same in a stage after the first, where it may be deformable

    def layer(self, layers: Layers, *, gain_from_data: bool) -> nn.Conv2d:
        options = {"stride": layers.stride(self.stride), "groups": self.groups, "may_deform": self.deep}
        return layers.conv(self.c_in, self.c_out, self.kernel_size, gain_from_data=gain_from_data, **options)

    def attention(self, layers: Layers) -> nn.Module | None:
        """What stands for this convolution, its norm and its activation."""
        if not self.inner:
            return None
        return layers.conv3x3_norm_act(self.c_in, self.c_out, stride=layers.stride(self.stride), groups=self.groups)


@dataclass(frozen=True)
class Order:
    """Where a block has its norms and activations.

    `norm_first`: norm-act-conv instead of conv-norm-act. `act_last`: an activation after the addition; if there is
    none, the block opens with one, which the shortcut's projection sees too unless `raw_shortcut`.
    """

    norm_first: bool
    act_last: bool
    raw_shortcut: bool = False


ORDERS = {
    "post": Order(norm_first=False, act_last=True),
    "pre": Order(norm_first=True, act_last=False),
    "pre-raw": Order(norm_first=True, act_last=False, raw_shortcut=True),  # CIFAR's, arXiv 1603.05027
    "relu-first": Order(norm_first=False, act_last=False),
}


@dataclass(frozen=True)
class Drops:
    """What drops values in a block.

    `block`: what --drop-block is multiplied by, behind each convolution with its norm and activation and on the
    shortcut (arXiv 1810.12890, section 4.1). `inner`: --conv-dropout has its place before each convolution but the
    first, behind norm and activation.
    """

    block: float = 0.0
    inner: bool = False


NOTHING = Drops()


class Block(nn.Module):
    """A residual block: opening, then the branch with the shortcut beside it, addition, closing.

    `opening`, `branch` and `closing` name its layers (`conv1`, `bn1`, `act1`, ...) in the order of execution.
    `drops` says what drops values in it.
    """

    def __init__(self, convs: list[Conv], order: Order, layers: Layers, drops: Drops = NOTHING) -> None:
        super().__init__()
        self.opening, self.branch, self.closing = [], [], []
        for i, conv in enumerate(convs, start=1):
            steps = _norm_first(i, conv, layers) if order.norm_first else _conv_first(i, conv, layers, i == len(convs))
            if i > 1 and (pool := layers.pool(conv.c_in, convs[i - 2].stride)):
                steps = _before_conv(i, steps, f"pool{i}", pool)
            if i > 1 and drops.inner and (dropout := layers.conv_dropout()):
                steps = _before_conv(i, steps, f"dropout{i}", dropout)
            if drop_block := layers.drop_block(drops.block):
                steps[f"drop_block{i}"] = drop_block
            for name, module in steps.items():
                self.add_module(name, module)
            self.branch += steps
        self.attention = layers.attention(convs[-1].c_out)
        self.branch.append("attention")
        if drop_path := layers.drop_path():
            self.drop_path = drop_path
            self.branch.append("drop_path")
        self.ending = None  # the name of what adds the shortcut too, and activates
        if order.act_last:
            self.act, self.closing = layers.act(in_place=True), ["act"]
            if self._fuse_ending(len(convs), self.act, layers):
                self.act = nn.Identity()
        elif order.norm_first:
            self.opening, self.branch = self.branch[:2], self.branch[2:]
        else:
            self.act, self.opening = layers.act(), ["act"]
            self._fuse_ending(len(convs), nn.Identity(), layers)
        self.downsample, self.raw_shortcut = _shortcut(convs, order, layers), order.raw_shortcut
        self.drop_shortcut = layers.drop_block(drops.block)

    def forward(self, x: Tensor) -> Tensor:
        opened = self._run(self.opening, x)
        identity = x if self.downsample is None else self.downsample(x if self.raw_shortcut else opened)
        if self.drop_shortcut is not None:
            identity = self.drop_shortcut(identity)
        if self.ending is not None:
            opened = self._run(self.branch, opened)
            return self._run(self.closing, getattr(self, self.ending)(opened, identity))
        return self._run(self.closing, added(self._run(self.branch, opened), identity))

    def _fuse_ending(self, last: int, act: nn.Module, layers: Layers) -> bool:
        """Let the last convolution or its norm add and apply `act`, if it can, and nothing stands between."""
        names = [f"conv{last}", f"bn{last}", "attention"]
        if self.branch[-3:] != names or not isinstance(self.attention, nn.Identity):
            return False
        fused = layers.add_act(getattr(self, names[0]), getattr(self, names[1]), act)
        if fused is not None:
            self.ending = next(name for name in names if getattr(self, name) is fused)
            self.branch = self.branch[: self.branch.index(self.ending)]
        return fused is not None

    def _run(self, names: list[str], x: Tensor) -> Tensor:
        for name in names:
            x = getattr(self, name)(x)
        return x


def added(branch: Tensor, identity: Tensor) -> Tensor:
    """Their sum, in the place of the branch, which nothing else needs, unless it has another type."""
    if type(branch) is Tensor and branch.dtype == identity.dtype:
        return branch.add_(identity)
    return branch + identity


def _conv_first(i: int, conv: Conv, layers: Layers, last: bool) -> dict[str, nn.Module]:
    if attention := conv.attention(layers):
        return {f"conv{i}": attention}
    layer = conv.layer(layers, gain_from_data=i == 1)
    steps = {f"conv{i}": layer}
    if last:
        return {**steps, f"bn{i}": layers.norm(conv.c_out, last=True)}
    norm, act = layers.norm_act(conv.c_out, conv=layer)
    return {**steps, f"bn{i}": norm, f"act{i}": act}


def _before_conv(i: int, steps: dict[str, nn.Module], name: str, module: nn.Module) -> dict[str, nn.Module]:
    """The steps with a module before their convolution: behind the convolution before, its norm and its activation."""
    names = list(steps)
    names.insert(names.index(f"conv{i}"), name)
    return {name: steps.get(name, module) for name in names}


def _norm_first(i: int, conv: Conv, layers: Layers) -> dict[str, nn.Module]:
    norm, act = layers.norm_act(conv.c_in)
    layer = conv.attention(layers) or conv.layer(layers, gain_from_data=i == 1)
    return {f"bn{i}": norm, f"act{i}": act, f"conv{i}": layer}


def _shortcut(convs: list[Conv], order: Order, layers: Layers) -> nn.Sequential | None:
    """What brings a block's input to the shape of its output: a projection where they differ, else nothing."""
    c_in, c_out, stride = convs[0].c_in, convs[-1].c_out, max(conv.stride for conv in convs)
    if c_in == c_out and stride == 1:
        return None
    pool = layers.shortcut_pool(c_in, stride)
    projected = replace(
        convs[0], c_out=c_out, kernel_size=1, stride=1 if pool else stride, groups=1, inner=False, deep=False
    )
    steps = OrderedDict({"pool": pool} if pool else {})
    steps["0"] = projected.layer(layers, gain_from_data=True)
    if not order.norm_first:
        steps["1"] = layers.norm(c_out)
    return nn.Sequential(steps)
