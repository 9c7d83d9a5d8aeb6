"""How to go on with a finished run: where its weights are, commands to copy, code to load it elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tunesmith.reports.escape import shell_word
from tunesmith.reports.result import RunResult

ADAPTER, MODEL = "adapter", "model"
REPORT = "report.html"
_AUTO_CLASSES = {
    "classification": "AutoModelForSequenceClassification",
    "seq2seq": "AutoModelForSeq2SeqLM",
}
_FOUR_BITS = 'BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)'
_QUANTISED = {
    4: (", BitsAndBytesConfig", f", quantization_config={_FOUR_BITS}"),
    8: (", BitsAndBytesConfig", ", quantization_config=BitsAndBytesConfig(load_in_8bit=True)"),
}
"""How a base in few bits is imported and loaded elsewhere."""


@dataclass(frozen=True)
class NextCommand:
    """A line to copy, and what it does."""

    line: str
    purpose: str


def trained_folder(folder: Path) -> Path | None:
    """Where the trained weights of a run are: its adapter, its model, or None if there are none yet."""
    return next((folder / name for name in (ADAPTER, MODEL) if (folder / name).is_dir()), None)


def next_commands(result: RunResult, folder: Path) -> list[NextCommand]:
    """What to do next with a run, the most likely first."""
    run = shell_word(str(folder))
    if result.status != "finished":
        purpose = "go on from the last checkpoint" if result.was_started else "start training"
        resume = NextCommand(f"tunesmith resume {run}", purpose)
        return [resume, NextCommand(f"tunesmith show {run}", "see how far it came")]
    commands = [NextCommand(f"tunesmith evaluate {run} DATA", "measure it on other data")]
    if result.task != "classification":
        commands.insert(0, NextCommand(f"tunesmith chat {run}", "talk to it"))
    if trained_folder(folder) == folder / ADAPTER and result.mergeable:
        commands.append(NextCommand(f"tunesmith merge {run} --out DIR", "write it as an ordinary transformers model"))
    return [*commands, NextCommand(f"tunesmith show {run}", "see this again")]


def tunesmith_code(result: RunResult, folder: Path) -> str:
    """Python lines that load the run with tunesmith and use it once."""
    return f'import tunesmith as ts\n\nrun = ts.load({str(folder)!a})\nprint(run.predict(["a text of your own"]))'


def transformers_code(result: RunResult, folder: Path) -> str:
    """Python lines that load the trained weights without tunesmith, by transformers and, for an adapter, peft."""
    auto_class = _AUTO_CLASSES.get(result.task, "AutoModelForCausalLM")
    if trained_folder(folder) != folder / ADAPTER:
        path = ascii(str(folder / MODEL))
        imports = f"from transformers import AutoTokenizer, {auto_class}"
        return f"{imports}\n\nmodel = {auto_class}.from_pretrained({path})\ntokenizer = AutoTokenizer.from_pretrained({path})"
    classes = f", num_labels={len(result.data.labels)}" if result.data.labels else ""
    name, bits = _QUANTISED.get(result.settings.get("training", {}).get("base_bits"), ("", ""))
    return "\n".join(
        [
            "from peft import PeftModel",
            f"from transformers import {auto_class}{name}",
            "",
            f"base = {auto_class}.from_pretrained({result.model.name!a}{classes}{bits})",
            f"model = PeftModel.from_pretrained(base, {str(folder / ADAPTER)!a})",
        ]
    )
