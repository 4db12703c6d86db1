"""The vocabulary that networks are written in."""

from torch import nn

from models.layers.activation import ACTIVATIONS, IN_PLACE
from models.layers.attending import ATTENTIONS
from models.layers.convolution import PWSConv2d
from models.layers.deformable import deformable
from models.layers.dropping import DropBlock, DropPath, set_drop_paths
from models.layers.fused import fuse_norm
from models.layers.fused_convolution import fuse_convolution
from models.layers.normalization import NORMALIZATIONS
from models.layers.pooling import DOWNSAMPLINGS
from utils.config.model import ModelConfig
from utils.errors import UsageError
from utils.registry import choose

# What may be made one with what follows it. auto is plain as long as no GPU has measured the others.
FUSIONS = {"auto": (), "plain": (), "triton": (fuse_norm, fuse_convolution)}


class Layers:
    """The layers that the configuration chose. Blocks ask for what they need and never which kind they got."""

    def __init__(self, config: ModelConfig) -> None:
        self.config = config
        self.row = choose(NORMALIZATIONS, config.norm, "--norm")
        self.attending = choose(ATTENTIONS, config.attention, "--attention")
        self.downsampling = DOWNSAMPLINGS[config.downsampling]
        self.averages_down = False  # of itself
        self.zero_gammas = 0
        self.drop_paths: list[DropPath] = []
        self.blocks = 0  # that have been counted for --drop-path
        # Fields of ModelConfig that the network had a place for; plain kernels are everywhere.
        self.used: set[str] = {"kernels"} if config.kernels == "plain" else set()

    def conv(
        self,
        c_in: int,
        c_out: int,
        kernel_size: int,
        *,
        gain_from_data: bool = False,
        may_deform: bool = False,
        **options: int,
    ) -> nn.Conv2d:
        """A convolution padded to keep its size.

        `gain_from_data` where a PWS gain may start so, `may_deform` where --deformable has its place.
        options: stride, groups, dilation; bias for one that is there whatever the norm.
        """
        self.used.add("norm")
        if min(c_in, c_out) < 1:
            found = f"--width {self.config.width} leaves a layer of {self.config.model} no channels"
            raise UsageError(f"{found}; use a larger one")
        layer = self.row.conv(self.config) if self.row.conv else nn.Conv2d
        if may_deform:
            self.used.add("deformable")
            layer = deformable(layer) if self.config.deformable else layer
        padding = (kernel_size - 1) // 2 * options.get("dilation", 1)
        conv = layer(c_in, c_out, kernel_size, **{"padding": padding, "bias": self.row.conv_bias, **options})
        if isinstance(conv, PWSConv2d):
            conv.gain_from_data = gain_from_data and self.config.pws_gain == "data"
        return conv

    def norm(self, channels: int, *, last: bool = False) -> nn.Module:
        """The norm after a convolution; `last` in its residual branch, where --zero-gamma zeroes the gain."""
        self.used.add("norm")
        if self.row.norm is None:
            return nn.Identity()
        norm = self.row.norm(self.config)(channels)
        if last and self.config.zero_gamma and norm.weight is not None:
            nn.init.zeros_(norm.weight)
            self.zero_gammas += 1
        return norm

    def act(self, own: str = "relu", *, in_place: bool = False) -> nn.Module:
        """The activation: the user's, or else the network's `own`; `in_place` where nothing else needs its input."""
        self.used.add("act")
        act = choose(ACTIVATIONS, own if self.config.act == "auto" else self.config.act, "--act")()
        if isinstance(act, IN_PLACE):
            act.inplace = in_place
        return act

    def norm_act(self, channels: int, act: str = "relu", conv: nn.Conv2d | None = None) -> tuple[nn.Module, nn.Module]:
        """A norm and the activation after it, as two modules, so that the norm keeps its name in the weights.

        `conv` is the convolution right before, which may activate where there is no norm.
        """
        if self.row.fused:
            return self.row.fused(self.config)(channels), nn.Identity()
        norm = self.norm(channels)
        act = self.act(act, in_place=conv is not None or not isinstance(norm, nn.Identity))
        return norm, nn.Identity() if self.add_act(conv, norm, act) else act

    def add_act(self, conv: nn.Module | None, norm: nn.Module, act: nn.Module) -> nn.Module | None:
        """The one of a convolution and its norm that was made to do what follows too, if there is such: called with a
        shortcut it adds it, and it applies `act`, which is nothing or an activation."""
        last = conv if isinstance(norm, nn.Identity) else norm
        fusions = () if self.config.ghost_batch else FUSIONS[self.config.kernels]
        if not any(fuse(last, act) for fuse in fusions):
            return None
        self.used.add("kernels")
        return last

    def conv_norm_act(
        self, c_in: int, c_out: int, kernel_size: int, act: str | None = "relu", *, last: bool = False, **options: int
    ) -> nn.Sequential:
        """A convolution, its norm and, unless `act` is None, its activation; names are torchvision's, `0` and `1`.

        `last` is that of `norm`; options are those of `conv`.
        """
        conv = self.conv(c_in, c_out, kernel_size, **options)
        if act is None:
            return nn.Sequential(conv, self.norm(c_out, last=last))
        return nn.Sequential(conv, *self.norm_act(c_out, act, conv))

    def gate_norm(self, channels: int, **options: bool) -> nn.Module:
        """The norm inside an attention, where channels may be few and there may be one position; options: affine."""
        return self.row.gate(channels, **options) if self.row.gate else nn.Identity()

    def take_own(self, attention: str, avg_down: bool) -> None:
        """What a network has of itself: an attention, where the user chose none, and the pooling of --avg-down."""
        if self.config.attention == "auto":
            self.attending = ATTENTIONS[attention]
        self.averages_down = avg_down

    def attention(self, channels: int) -> nn.Module:
        """The attention at the end of a residual branch, before the addition."""
        return self.branch_attention(channels) or nn.Identity()

    def branch_attention(self, channels: int) -> nn.Module | None:
        """The attention for a place inside a residual branch where the network may have one of its own."""
        return self._attending("branch", channels)

    def stage_attention(self, channels: int) -> nn.Module | None:
        """The attention after a stage, if there is one."""
        return self._attending("stage", channels)

    def conv3x3_norm_act(self, c_in: int, c_out: int, **options: int) -> nn.Module | None:
        """The attention that stands for a 3x3 convolution with its norm and activation; None if there is none."""
        return self._attending("conv3x3", c_in, c_out, **options)

    def _attending(self, place: str, *channels: int, **options: int) -> nn.Module | None:
        if self.attending.place != place:
            return None
        self.used.update(("attention", *self.attending.settings))
        return self.attending.build(self, *channels, **options)

    def dropout(self, own: float = 0.0) -> nn.Dropout:
        """The dropout before the head, or where `own` is not 0, the one that the network was published with there."""
        self.used.add("dropout")
        return nn.Dropout(own if self.config.dropout is None else self.config.dropout)

    def conv_dropout(self) -> nn.Module | None:
        """The dropout between or after convolutions, if there is one, in networks that were published with it."""
        self.used.add("conv_dropout")
        return nn.Dropout(self.config.conv_dropout) if self.config.conv_dropout else None

    def drop_path(self, *, has_place: bool = True, first: int = 1) -> nn.Module | None:
        """Stochastic depth, if it is wished for, at the end of the next block's residual branch.

        To be asked for in each block, also in those that have no such branch and so no place; `first` is the number of
        the first block.
        """
        number, self.blocks = self.blocks + first, self.blocks + 1
        if not has_place:
            return None
        self.used.add("drop_path")
        if not self.config.drop_path:
            return None
        self.drop_paths.append(DropPath(number))
        return self.drop_paths[-1]

    def set_drop_paths(self) -> None:
        """Give branches their rates, which take the number of all blocks: to be called when the network is built."""
        set_drop_paths(self.drop_paths, self.config.drop_path, self.blocks)

    def drop_block(self, share: float) -> DropBlock | None:
        """What drops blocks of values, if it is wished for, with a probability of `share` times the user's."""
        if not share:
            return None
        self.used.add("drop_block")
        if not self.config.drop_block:
            return None
        self.used.add("drop_block_size")
        return DropBlock(share * self.config.drop_block, self.config.drop_block_size)

    def end_norm_act(self, channels: int, act: str = "relu") -> tuple[nn.Module, nn.Module] | None:
        """The norm and activation that the row wants after the stem and before the head; None if it has no such."""
        if not self.row.ends:
            return None
        norm, act = self.row.ends(channels), self.act(act, in_place=True)
        return norm, nn.Identity() if self.add_act(None, norm, act) else act

    def block_order(self, own: str) -> str:
        """The order inside residual blocks: the user's, or else the norm's, or else the network's `own`."""
        chosen = self.config.block_order
        return (self.row.block_order or own) if chosen == "auto" else chosen

    def stride_first(self) -> bool:
        """Whether the stride of a bottleneck is on its first convolution, as caffe's ResNets have it."""
        self.used.add("caffe_stride")
        return self.config.caffe_stride

    def stride(self, own: int) -> int:
        """The stride of a convolution: 1 where `pool` stands behind it."""
        return 1 if self.downsampling.pool else own

    def pool(self, channels: int, stride: int) -> nn.Module | None:
        """What does a convolution's stride behind its activation; None if it does its stride itself."""
        if stride == 1 or not self.downsampling.pool:
            return None
        return self.downsampling.pool(channels)

    def shortcut_pool(self, channels: int, stride: int) -> nn.Module | None:
        """What halves the resolution before the projection of a shortcut; None if the projection does."""
        if stride == 1:
            return None
        self.used.update(("downsampling",) if self.averages_down else ("downsampling", "avg_down"))
        if self.averages_down or self.config.avg_down:
            return nn.AvgPool2d(stride, ceil_mode=True, count_include_pad=False)
        return self.pool(channels, stride)

    def max_pool(self, channels: int) -> nn.Module:
        """The stem's pooling of maxima, 3x3 with stride 2."""
        self.used.add("downsampling")
        return self.downsampling.max_pool(channels)

    def stem(self, own: str, *, may_be_deep: bool = False) -> str:
        """The first layers: the user's choice, or else the network's `own`."""
        if self.config.stem == "deep" and not may_be_deep:
            raise UsageError(f"--stem deep has no place in {self.config.model}; leave it out, or choose a ResNet")
        return own if self.config.stem == "auto" else self.config.stem

    def width(self) -> float:
        """The width multiplier: what the channels of a network that has one are multiplied by."""
        self.used.add("width")
        return self.config.width
