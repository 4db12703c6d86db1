"""Each trick's flag by itself, in a short run in this process: it changes the training, and no step asks the device.

That a trick not asked for changes nothing is a test of settings: a flag that is given its default makes the same ones.
"""

import dataclasses
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from asking import NeverAsked

from scripts.assembly import assemble_run
from scripts.inspect_checkpoint import content_sum
from train_dist import finish_epoch, train_step
from utils import distributed
from utils.checkpoint import load_checkpoint
from utils.config import Config
from utils.config.comparing import MAY_CHANGE
from utils.config.parsing import read_config
from utils.ending import Ending

EPOCHS, STEPS = 2, 4
RUN = f"--model resnet20 --width 0.25 --img-size 16 -b 40 -j 0 --loader torch --device cpu --epochs {EPOCHS} "
RUN += "--val-batch-size 200 --keep-epochs 0 --resume auto"
TEACHER = " --teacher resnet20 --teacher-weights {teacher}"
SGD = "--warmup-epochs 0.5 --lr 0.1"
GROWING = f"{SGD} --train-crop random-resized --img-size-start 8 --img-size-ramp 0 1"

# What a flag needs beside it, and the flag, changed. Not alone: without the first it is refused.
FLAGS = {
    "zero_gamma": (SGD, "--zero-gamma"),
    "dropout": (SGD, "--dropout 0.3"),
    "drop_path": (SGD, "--drop-path 0.3"),
    "drop_block": (SGD, "--drop-block 0.5 --drop-block-size 3"),
    "drop_block_size": (f"{SGD} --drop-block 0.5 --drop-block-size 3", "--drop-block-size 2"),
    "bn_momentum": (SGD, "--bn-momentum 0.3"),
    "bn_eps": (SGD, "--bn-eps 0.01"),
    "ghost_batch": (SGD, "--ghost-batch 8"),
    "color_jitter": (SGD, "--color-jitter 0.4"),
    "color_jitter_prob": (f"{SGD} --color-jitter 0.4", "--color-jitter-prob 0.5"),
    "grayscale": (SGD, "--grayscale 0.5"),
    "gaussian_blur": (SGD, "--gaussian-blur 0.5"),
    "blur_sigma": (f"{SGD} --gaussian-blur 0.5", "--blur-sigma 1 2"),
    "solarize": (SGD, "--solarize 0.5"),
    "solarize_threshold": (f"{SGD} --solarize 0.5", "--solarize-threshold 60"),
    "lighting": (SGD, "--lighting 0.5"),
    "rotation": (SGD, "--rotation 20"),
    "auto_augment": (SGD, "--auto-augment ta"),
    "aa_policy": (f"{SGD} --auto-augment aa", "--aa-policy svhn"),
    "ra_magnitude": (f"{SGD} --auto-augment ra", "--ra-magnitude 20"),
    "ra_ops": (f"{SGD} --auto-augment ra", "--ra-ops 3"),
    "augmix_severity": (f"{SGD} --auto-augment augmix", "--augmix-severity 9"),
    "aa_fill": (f"{SGD} --auto-augment ra", "--aa-fill 128"),
    "three_augment": (SGD, "--three-augment"),
    "cutout": (SGD, "--cutout square"),
    "cutout_size": (f"{SGD} --cutout square", "--cutout-size 4"),
    "cutout_prob": (f"{SGD} --cutout square", "--cutout-prob 0.5"),
    "random_erasing": (SGD, "--random-erasing 0.5"),
    "erasing_mode": (f"{SGD} --random-erasing 0.5", "--erasing-mode pixel"),
    "erasing_count": (f"{SGD} --random-erasing 0.5", "--erasing-count 2"),
    "erasing_area": (f"{SGD} --random-erasing 0.5", "--erasing-area 0.3 0.4"),
    "erasing_ratio": (f"{SGD} --random-erasing 0.5", "--erasing-ratio 1 1"),
    "repeated_aug": (SGD, "--repeated-aug 2"),
    "img_size_start": (f"{SGD} --train-crop random-resized", "--img-size-start 8 --img-size-ramp 0 1"),
    "img_size_ramp": (GROWING, "--img-size-ramp 0 3"),
    "loss_scale": (f"{SGD} --norm none --precision fp16", "--loss-scale 3"),
    "model_ema": (SGD, "--model-ema"),
    "model_ema_decay": (f"{SGD} --model-ema", "--model-ema-decay 0.5"),
    "model_ema_warmup": (f"{SGD} --model-ema", "--model-ema-warmup power"),
    "model_ema_buffers": (f"{SGD} --model-ema", "--model-ema-buffers reestimate"),
    "precise_bn": (SGD, "--precise-bn 2"),
    "opt": (SGD, "--opt lars"),
    "momentum": (SGD, "--momentum 0.5"),
    "nesterov": (SGD, "--nesterov"),
    "betas": (f"{SGD} --opt lion", "--betas 0.5 0.9"),
    "eps": (f"{SGD} --opt adamw", "--eps 0.01"),
    "rmsprop_alpha": (f"{SGD} --opt rmsprop", "--rmsprop-alpha 0.5"),
    "trust_coefficient": (f"{SGD} --opt lars", "--trust-coefficient 0.1"),
    "lookahead": (SGD, "--lookahead 2 0.5"),
    "sam": (SGD, "--sam 0.05"),
    "no_wd_bias": (SGD, "--no-wd-bias"),
    "wd_skip": (SGD, "--wd-skip fc"),
    "alpha_wd": (f"{SGD} --norm pws", "--alpha-wd 0.1"),
    "el2": (SGD, "--el2"),
    "el2_eps": (f"{SGD} --el2", "--el2-eps 0.1"),
    "el2_lambda": (f"{SGD} --el2", "--el2-lambda 0.1"),
    "gradient_centralization": (SGD, "--gradient-centralization conv"),
    "clip_grad": (SGD, "--clip-grad 0.01"),
    "clip_mode": (f"{SGD} --clip-grad 0.01", "--clip-mode agc"),
    "sched": (SGD, "--sched polynomial"),
    "warmup_lr": (SGD, "--warmup-lr 0.05"),
    "warmup_method": (f"{SGD} --warmup-lr 0.05", "--warmup-method constant"),
    "min_lr": (SGD, "--min-lr 0.01"),
    "milestones": (f"{SGD} --sched step --milestones 1", "--milestones 1 1"),
    "decay_epochs": (f"{SGD} --sched exponential", "--decay-epochs 2"),
    "gamma": (f"{SGD} --sched exponential", "--gamma 0.5"),
    "poly_power": (f"{SGD} --sched polynomial", "--poly-power 3"),
    "cycles": (SGD, "--cycles 2"),
    "cycle_mul": (f"{SGD} --cycles 2", "--cycle-mul 0.5"),
    "cycle_decay": (f"{SGD} --cycles 2", "--cycle-decay 0.5"),
    "div_factor": (f"{SGD} --sched onecycle", "--div-factor 2"),
    "final_div_factor": (f"{SGD} --sched triangle", "--final-div-factor 2"),
    "cooldown_epochs": (SGD, "--cooldown-epochs 0.5"),
    "sched_per_epoch": ("--warmup-epochs 1 --lr 0.1", "--sched-per-epoch"),
    "decay_from": (SGD, "--decay-from start"),
    "swa": (SGD, "--swa 1"),
    "swa_lr": (f"{SGD} --swa 1", "--swa-lr 0.2"),
    "label_smoothing": (SGD, "--label-smoothing 0.1"),
    "bce": (SGD, "--bce"),
    "bce_sum": (f"{SGD} --bce", "--bce-sum"),
    "bce_threshold": (f"{SGD} --bce --mixup 1", "--bce-threshold 0.3"),
    "mixup": (SGD, "--mixup 0.2"),
    "cutmix": (SGD, "--cutmix 1"),
    "mix_switch_prob": (f"{SGD} --mixup 1 --cutmix 1", "--mix-switch-prob 0.1"),
    "mix_prob": (f"{SGD} --mixup 1", "--mix-prob 0.3"),
    "mix_per": (f"{SGD} --mixup 1", "--mix-per image"),
    "mixup_off_epoch": (f"{SGD} --mixup 1", "--mixup-off-epoch 1"),
    "teacher": (SGD, TEACHER),
    "distill_alpha": (SGD + TEACHER, "--distill-alpha 0.9"),
    "distill_temperature": (SGD + TEACHER, "--distill-temperature 1"),
}

# Networks, data and what says how they are read have tests of their own; fused changes what runs, not what comes out.
ELSEWHERE = {"model", "norm", "act", "attention", "attention_reduction", "attention_groups", "norm_groups", "fused"}
ELSEWHERE |= {"block_order", "stem", "downsampling", "avg_down", "caffe_stride", "deformable", "frozen_stages", "width"}
ELSEWHERE |= {"freeze_norm", "octave_alpha", "num_classes", "pws_gamma", "pws_equiv", "pws_fan", "pws_gain", "loader"}
ELSEWHERE |= {"conv_dropout", "on_bad_image", "shuffle", "shuffle_block", "shuffle_window", "img_size", "train_crop"}
ELSEWHERE |= {"scale", "ratio", "pad", "hflip", "interpolation", "mean", "std", "synthetic_images", "synthetic_classes"}
ELSEWHERE |= {"batch_size", "precision", "exact", "seed", "lr", "lr_base", "weight_decay", "epochs", "warmup_epochs"}
# What only changes how fast a step is, too.
ELSEWHERE |= {"init_from", "pretrained", "init_head", "channels_last", "compile", "ddp_compress", "kernels"}


@pytest.fixture(scope="module")
def trained(image_lmdb: Path, teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    """A function from flags to the sum of all that a whole run leaves, each run made once."""

    @cache
    def train(flags: str) -> str:
        folder = tmp_path_factory.mktemp("run")
        words = f"{RUN} {flags} --data-dir {image_lmdb} --output-dir {folder / 'run'}"
        config, _ = read_config(words.format(teacher=teacher).split())
        ending = Ending()
        ending.world = distributed.start(config.training)
        run = assemble_run(config, ending)
        run.open()
        batches = run.batches()
        assert run.steps == EPOCHS * STEPS
        for epoch in range(EPOCHS):
            run.network.model.train()
            loaded = [next(batches) for _ in range(STEPS)]
            with NeverAsked():
                for number, batch in enumerate(loaded):
                    train_step(run, iter([batch]), epoch * STEPS + number)
            run.position.step += STEPS
            finish_epoch(run)
        saved = load_checkpoint(folder / "run" / "last.pth")
        return content_sum(saved) + str(saved["amp_scaler"])

    return train


@pytest.mark.parametrize("flag", FLAGS)
def test_a_trick_changes_the_training_and_never_waits_for_the_device(flag: str, trained) -> None:
    beside, changed = FLAGS[flag]
    assert trained(f"{beside} {changed}") != trained(beside)


def test_every_setting_that_matters_has_its_row() -> None:
    fields = {f.name for section in dataclasses.fields(Config) for f in dataclasses.fields(section.type)}
    assert fields - MAY_CHANGE - ELSEWHERE == set(FLAGS) - {"teacher"}


@pytest.mark.parametrize("flag", FLAGS)
def test_a_trick_that_is_off_is_one_not_given(flag: str) -> None:
    (usual,) = (
        getattr(getattr(Config(), section.name), flag)
        for section in dataclasses.fields(Config)
        if hasattr(getattr(Config(), section.name), flag)
    )
    if usual is None or isinstance(usual, bool):
        return  # such a flag can only be left out
    words = [f"{value}" for value in usual] if isinstance(usual, tuple) else [f"{usual}"]
    assert read_config([f"--{flag.replace('_', '-')}", *words])[0] == Config()
