"""ResNets in the ancestors' files (seeds.md 7): attentions, EvoNorm, and the networks for small images."""

# PytorchInsight's attentions stand in the block under their own names; BAM's stand beside the stages.
_BAM = {
    "channel_att.gate_c.gate_c": {"fc_0": "channel.0", "bn_1": "channel.1", "fc_final": "channel.3"},
    "spatial_att.gate_s.gate_s": {"conv_reduce0": "spatial.0", "bn_reduce0": "spatial.1", "conv_final": "spatial.9"}
    | {f"{kind}_di_{i}": f"spatial.{at + 3 * i}" for kind, at in (("conv", 3), ("bn", 4)) for i in range(2)},
}

_CARDINAL = {"conv_reduce": "conv1", "bn_reduce": "bn1", "conv_conv": "conv2", "bn": "bn2"}
_CARDINAL |= {"conv_expand": "conv3", "bn_expand": "bn3"}

RESNET = (
    (r"(?<![^.])(?:se|sge|cbam|gc)\.", "attention."),
    (r"^bam(\d)\.", r"layer\1.attention."),
    (r"(?<=attention\.)fc\.0\.", "fc1."),
    (r"(?<=attention\.)fc\.2\.", "fc2."),
    (r"(?<=attention\.)ChannelGate\.mlp\.1\.", "channel.fc1."),
    (r"(?<=attention\.)ChannelGate\.mlp\.3\.", "channel.fc2."),
    (r"(?<=attention\.)SpatialGate\.spatial\.", "spatial."),
    *(
        (rf"(?<=attention\.){part}_{theirs}\.", f"{ours}.")
        for part, layers in _BAM.items()
        for theirs, ours in layers.items()
    ),
    (r"(?<=attention\.)conv_mask\.", "mask."),
    (r"(?<=attention\.)channel_(add|mul)_conv\.0\.", r"\1.fc1."),
    (r"(?<=attention\.)channel_(add|mul)_conv\.1\.", r"\1.norm."),
    (r"(?<=attention\.)channel_(add|mul)_conv\.3\.", r"\1.fc2."),
    # ModelZoo.pytorch's EvoNorm networks, whose norms may also be batch norm with its activation.
    (r"^evonorm2\.(?:block\.0\.)?", "bn_last."),
    (r"(?<![^.])evonorm(\d)\.(?:block\.0\.)?", r"bn\1."),
    # The WS ancestor's networks for CIFAR: pre-activation, ResNeXt.
    (r"^bn\.", "bn_last."),
    (r"^conv_1_3x3\.", "conv1."),
    (r"^bn_1\.", "bn1."),
    (r"^stage_(\d)\.stage_\d_bottleneck_(\d+)\.", r"layer\1.\2."),
    (r"(?<=\.)shortcut\.shortcut_conv\.", "downsample.0."),
    (r"(?<=\.)shortcut\.shortcut_bn\.", "downsample.1."),
    *((rf"^(layer\d\.\d+)\.{theirs}\.", rf"\1.{ours}.") for theirs, ours in _CARDINAL.items()),
    (r"^classifier\.", "fc."),
    # What gives the offsets of deformable convolutions, in mmdetection's files of two ages.
    (r"\.conv2(?:_|\.conv_)offset\.", ".conv2.sampling."),
)

# A file of selective kernels, and one of wide ResNets: told by such a name, and meaning other things by common names.
SELECTIVE = (
    (r"\.(conv|bn)2\.", r".conv2.\g<1>1."),
    (r"\.(conv|bn)2g\.", r".conv2.\g<1>2."),
    (r"\.conv_fc(\d)\.", r".conv2.fc\1."),
    (r"\.bn_fc1\.", ".conv2.bn_fc."),
)
WIDE = (
    (r"^bn1\.", "bn_last."),
    (r"^block(\d)\.layer\.", r"layer\1."),
    (r"\.convShortcut\.", ".downsample.0."),
)


def counted_pools(first_stage: int) -> tuple[tuple[str, str], ...]:
    """Rows for files that count the pooling of --avg-down: timm's in all stages, PWSConv's from the second on."""
    projections = rf"^(layer[{first_stage}-9]\.\d+\.downsample)"
    return tuple((rf"{projections}\.{i}\.", rf"\1.{i - 1}.") for i in (1, 2))
