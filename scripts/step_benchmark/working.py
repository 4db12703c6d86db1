"""One contender in a process of its own.

    python -m scripts.step_benchmark.working SETUP FOLDER      # SETUP: the fields of a Setup, as a JSON list

It answers with lines of JSON on what was its standard output: `ready` with facts once its first steps are done, then
`turn` for each number of steps that it reads; `failed` if it cannot. FOLDER is for what it writes.
"""

import importlib
import json
import os
import sys
from pathlib import Path

import torch

from scripts.step_benchmark.contenders import ALL, Setup
from scripts.step_benchmark.pacing import Pace


def main(fields: str, folder: str) -> int:
    """Run until the input ends; 1 if that is not possible, and the reply says why."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # loops tell of their progress
    setup = Setup(*json.loads(fields))
    try:
        module = importlib.import_module(f"scripts.step_benchmark.{ALL[setup.contender].module}")
        torch.set_num_threads(setup.threads)
        module.loop(setup, Pace(setup, replies), Path(folder))
    except Exception as error:
        print(json.dumps({"failed": " ".join(f"{type(error).__name__}: {error}".split())}), file=replies, flush=True)
        raise
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
