"""Write what all contestants share: the model in two precisions, one initial adapter, and the token rows.

Runs in the environment of the peer: `python -m benchmarks.prepare GGUF_FILE INSTRUCTIONS.jsonl FOLDER`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import cast

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from benchmarks import workload

SEED = 20
RANK, ALPHA = 16, 32


def write_models(gguf: Path, folder: Path) -> PreTrainedModel:
    """Write `float32/` and `bfloat16/` with exactly equal weights, and give the model in float32."""
    read = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    delattr(read.config, "quantization_config")
    # A model that came from a quantised file refuses to be saved, even though its weights are plain floats by now.
    model = AutoModelForCausalLM.from_config(read.config)
    model.load_state_dict(read.state_dict())
    for precision in (torch.bfloat16, torch.float32):
        # Rounded once before both are written, so that precisions differ in arithmetic only.
        model.to(precision).save_pretrained(folder / str(precision).removeprefix("torch."))
    return model


def write_adapter(model: PreTrainedModel, folder: Path) -> None:
    """Write a new LoRA adapter of all linear layers, its numbers exact in bfloat16, as `adapter/` in PEFT's format."""
    torch.manual_seed(SEED)
    config = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules="all-linear", task_type="CAUSAL_LM")
    adapted = get_peft_model(model, config)
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.copy_(parameter.bfloat16().float())
    adapted.save_pretrained(str(folder / "adapter"), save_embedding_layers=False)


def tokenised(tokenizer: PreTrainedTokenizerBase, instructions: Path) -> workload.Workload:
    """The rows of the instruction data with the model's own chat template."""

    def render(prompt: str, answer: str | None) -> str:
        turns = [{"role": "user", "content": prompt}]
        if answer is not None:
            turns.append({"role": "assistant", "content": answer})
        return cast(str, tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=answer is None))

    def encode(text: str) -> list[int]:
        return cast(list[int], tokenizer(text, add_special_tokens=False)["input_ids"])

    records = json.loads(instructions.read_text(encoding="utf-8"))
    rows = [workload.tokenise(record, render, encode) for record in records[: 4 * workload.NUM_TIMED]]
    return workload.choose(rows, cast(int, tokenizer.pad_token_id))


def main() -> None:
    """Write the folder named on the command line."""
    logging.set_verbosity_error()
    gguf, instructions, folder = (Path(argument) for argument in sys.argv[1:])
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    workload.write(tokenised(tokenizer, instructions), folder / "rows.json")
    write_adapter(write_models(gguf, folder), folder)


if __name__ == "__main__":
    main()
