"""--precise-bn in whole runs: what is validated is what the checkpoint holds; no norm to estimate, no run."""

from pathlib import Path

import launching
import torch

from utils.checkpoint import load_checkpoint
from utils.log import read_history

RUN = [
    "--model",
    "resnet20",
    "--img-size",
    "16",
    "-b",
    "16",
    "-j",
    "0",
    "--device",
    "cpu",
    "--epochs",
    "1",
    "--warmup-epochs",
    "0",
    "--lr",
    "0.1",
]


def test_statistics_do_not_depend_on_processes_and_are_what_evaluation_measures(
    image_lmdb: Path, tmp_path: Path
) -> None:
    data = ["--data-dir", str(image_lmdb)]
    precise = [*RUN, *data, "--shards", "2", "--exact", "--precise-bn", "2", "--output-dir"]
    assert launching.run(1, [*precise, str(tmp_path / "one")], tmp_path).codes == [0]
    assert launching.run(2, [*precise, str(tmp_path / "two")], tmp_path).codes == [0, 0]
    one, two = (load_checkpoint(tmp_path / name / "last.pth")["state_dict"] for name in ("one", "two"))
    assert all(torch.equal(value, two[name]) for name, value in one.items())
    measure = launching.run(1, ["--evaluate", "--resume", str(tmp_path / "one" / "last.pth"), *data], tmp_path)
    last = [line for line in read_history(tmp_path / "one") if "val/top1" in line][-1]
    assert f"top-1 {last['val/top1']:.3f} %" in measure.text
    plain = [*RUN, *data, "--shards", "2", "--exact", "--output-dir", str(tmp_path / "plain")]
    assert launching.run(1, plain, tmp_path).codes == [0]
    other = load_checkpoint(tmp_path / "plain" / "last.pth")["state_dict"]
    differing = {name.rpartition(".")[2] for name, value in one.items() if not torch.equal(value, other[name])}
    assert differing == {"running_mean", "running_var"}
    table = (tmp_path / "one" / "metrics.csv").read_text().splitlines()
    assert table[0].startswith("epoch,step,train/loss")
    assert len(table) == 2


def test_refused_where_no_norm_keeps_statistics_and_in_evaluation(image_lmdb: Path, tmp_path: Path) -> None:
    flags = [*RUN, "--data-dir", str(image_lmdb), "--precise-bn", "2", "--output-dir", str(tmp_path / "run")]
    run = launching.run(1, [*flags, "--norm", "pws"], tmp_path)
    assert (run.codes, len(run.lines)) == ([2], 1)
    assert "--precise-bn 2 has no effect" in run.text
    run = launching.run(1, [*flags, "--evaluate", "--pretrained"], tmp_path)
    assert run.codes == [2]
    assert "--evaluate takes the statistics of the file" in run.text
    run = launching.run(1, [*flags[:-4], "--ghost-batch", "6", *flags[-2:]], tmp_path)
    assert run.codes == [2]
    assert "--ghost-batch 6 does not divide the 16 images" in run.text
