"""Run folders as training writes them, without training; as a program, a stand-in for train_dist.py that is quick."""

import json
import os
import sys
import time
from pathlib import Path

from utils.config import Config
from utils.config.parsing import read_config, settings_of

EPOCHS, STEPS = 2, 20  # of an epoch
INTERVAL = 10
# Percent that a setting adds to top-1, and how much slower it is: what the tables are to find again.
GAINS = {"label_smoothing": (0.5, 1.0), "mixup": (1.0, 1.25)}


def write_run(folder: Path, config: Config, epochs: int = EPOCHS, top1: float | None = None) -> Path:
    """A run of so many of EPOCHS epochs. Its last top-1 is 60 + seed + what its settings add."""
    folder.mkdir(parents=True, exist_ok=True)
    facts = {"shards": 1, "steps": STEPS * config.schedule.epochs, "processes": 1, "environment": {"torch": "2.0"}}
    (folder / "config.json").write_text(json.dumps(settings_of(config) | facts))
    gain, slower = 0.0, 1.0
    for name, (points, factor) in GAINS.items():
        if getattr(config.loss, name):
            gain, slower = gain + points, slower * factor
    rate = 100 * config.training.batch_size / slower  # 10 ms a step
    lines = []
    for step in range(INTERVAL, epochs * STEPS + 1, INTERVAL):
        cost = {"perf/img_per_s": rate, "perf/data_wait": 0.1, "mem/peak_gib": 1.5 * slower}
        lines.append(
            {"step": step, "time": 1.0 * step, "train/loss": 1 / step, "train/top1": 50.0, "optim/lr": 0.1, **cost}
        )
        if step % STEPS == 0:
            reached = 60.0 + config.training.seed + gain if top1 is None else top1
            reached -= epochs - step // STEPS
            lines.append({"step": step, "time": 1.0 * step, "val/top1": reached, "val/top5": 90.0, "val/loss": 1.0})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    done = epochs == config.schedule.epochs
    status = {"state": "done" if done else "running", "exit_code": 0 if done else None, "step": epochs * STEPS}
    (folder / "status.json").write_text(json.dumps(status))
    return folder


def main() -> None:
    """Half a run, and the other half once no file HOLD is there. It fails with the norm FAIL."""
    config, _ = read_config(sys.argv[1:])
    if config.model.norm == os.environ.get("FAIL"):
        print("error: no such norm today", flush=True)
        sys.exit(2)
    folder = Path(config.run.output_dir)
    went_on = (folder / "status.json").exists()
    write_run(folder, config, epochs=1)
    with (folder / "starts.txt").open("a") as file:
        file.write("resumed\n" if went_on else "fresh\n")
    while (hold := os.environ.get("HOLD")) and Path(hold).exists():
        time.sleep(0.02)
    write_run(folder, config)


if __name__ == "__main__":
    main()
