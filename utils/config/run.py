"""What a run writes, where it goes on from, and what it tells."""

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass
from tyro.conf import arg

from utils.config.strict import STRICT


@dataclass(frozen=True, config=STRICT)
class RunConfig:
    """What a run writes, where it goes on from, and what it tells."""

    output_dir: Annotated[str | None, arg(aliases=["--save-dir"])] = None
    """folder of the run; runs/MODEL-NORM if not given"""
    resume: str | None = None
    """auto: the newest good checkpoint of --output-dir, or a fresh start; or the path of one"""
    resume_allow: tuple[str, ...] = ()
    """settings that may differ from the checkpoint's although they change the result, such as epochs lr data"""
    init_from: str | None = None
    """start a fresh run from the weights in this file: of this trainer, torchvision, timm, an ancestor; safetensors"""
    pretrained: bool = False
    """start from torchvision's weights, out of torch.hub's cache or the network, in the place of --init-from"""
    init_head: Literal["file", "fresh"] = "file"
    """--init-from, --pretrained: the classifier is the file's, or fresh, where it has none or one of other classes"""
    save_every: Annotated[int, Field(ge=0)] = 0
    """steps between checkpoints inside an epoch; 0 saves at the end of epochs only"""
    keep_epochs: Annotated[int, Field(ge=0)] = 0
    """keep the checkpoint of every so many epochs for good; 0 keeps the two newest and the best"""
    evaluate: Annotated[bool, arg(aliases=["-e", "--test-only"])] = False
    """only measure the checkpoint given by --resume on the validation images"""
    class_accuracy: bool = False
    """write the accuracy of each class after the last validation"""
    val_batch_size: Annotated[int | None, Field(ge=1)] = None
    """images validated at once; --batch-size if not given"""
    val_interval: Annotated[int, Field(ge=1)] = 1
    """epochs between validations; the last epoch is always validated"""
    log_interval: Annotated[int, Field(ge=1), arg(aliases=["--print-freq"])] = 50
    """steps between lines of progress"""
    weight_stats: bool = False
    """tell the mean, standard deviation and norm of each weight to TensorBoard at every validation"""
    log_indices: bool = False
    """write which images each step used, one file a rank"""
    profile: Annotated[int | None, Field(ge=1)] = None
    """write a trace and a table of the costs of so many steps, after five others, of the first rank"""
    model_info: bool = False
    """only print the layers of the network with output shapes, parameters and multiply-adds for --img-size"""
    debug: bool = False
    """show tracebacks of errors that are otherwise told in one line"""

    @property
    def has_start(self) -> bool:
        """Whether a fresh run, or an evaluation, starts from weights in a file."""
        return self.init_from is not None or self.pretrained
