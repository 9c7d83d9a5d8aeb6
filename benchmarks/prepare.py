"""Write what all contestants of a suite share, in the environment of PEFT; called by `prepared`.

python -m benchmarks.prepare model SUITE MODEL FOLDER          `float32/` and `bfloat16/`: the model in two precisions
python -m benchmarks.prepare rows SUITE DATA FOLDER MODEL      `rows.json` beside them
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel
from transformers.utils import logging

from benchmarks import rows, workload
from benchmarks.suites import SUITES, Suite

SEED = 20


def write_models(model: PreTrainedModel, folder: Path) -> None:
    """Write `float32/` and `bfloat16/` with exactly equal weights."""
    for precision in (torch.bfloat16, torch.float32):
        # Rounded once before both are written, so that precisions differ in arithmetic only.
        model.to(precision).save_pretrained(folder / str(precision).removeprefix("torch."))


def read_model(source: Path, suite: Suite) -> PreTrainedModel:
    """The model of a folder or a GGUF file, with a new head where rows are to be classified."""
    torch.manual_seed(SEED)
    if suite.work.task == "classification":
        # Dropout off: with it, losses of equal trainings differ.
        return AutoModelForSequenceClassification.from_pretrained(
            source, dtype=torch.float32, num_labels=len(rows.LABELS), hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
        )
    read = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.float32)
    delattr(read.config, "quantization_config")
    # A model that came from a quantised file refuses to be saved, even though its weights are plain floats by now.
    model = AutoModelForCausalLM.from_config(read.config)
    model.load_state_dict(read.state_dict())
    return model


def main() -> None:
    """Write the folder named on the command line."""
    logging.set_verbosity_error()
    what, name, source, folder, *rest = sys.argv[1:]
    suite, place = SUITES[name], Path(folder)
    if what == "model":
        write_models(read_model(Path(source), suite), place)
        return
    (model,) = map(Path, rest)
    where = {"gguf_file": model.name} if model.is_file() else {}
    tokenizer = AutoTokenizer.from_pretrained(model.parent if where else model, **where)
    workload.write(rows.tokenised(tokenizer, Path(source), suite.work), place / "rows.json")


if __name__ == "__main__":
    main()
