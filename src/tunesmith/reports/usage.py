"""How to go on with a finished run: where its weights are, commands to copy, code to load it elsewhere."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from tunesmith.reports.escape import shell_word
from tunesmith.reports.result import RunResult

ADAPTER, MODEL = "adapter", "model"
REPORT = "report.html"
PEFT_CONFIG = "adapter_config.json"
"""What PEFT looks for in an adapter; one in tunesmith's own format has no such file."""
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
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


def resume_command(result: RunResult, folder: Path) -> NextCommand | None:
    """How to go on with a run that stopped on its way; None if that is not to be done."""
    if result.status in ("running", "finished") or result.has_diverged:
        return None
    purpose = "go on from the last checkpoint" if result.was_started else "start training"
    return NextCommand(f"tunesmith resume {shell_word(str(folder))}", purpose)


def next_commands(result: RunResult, folder: Path) -> list[NextCommand]:
    """What to do next with a run, the most likely first."""
    run = shell_word(str(folder))
    if result.status != "finished":
        resume = resume_command(result, folder)
        return [*([resume] if resume else []), NextCommand(f"tunesmith show {run}", "see how far it came")]
    commands = [NextCommand(f"tunesmith evaluate {run} DATA", "measure it on other data")]
    if result.task != "classification":
        commands.insert(0, NextCommand(f"tunesmith chat {run}", "talk to it"))
    if trained_folder(folder) == folder / ADAPTER and result.mergeable:
        commands.append(NextCommand(f"tunesmith merge {run} --out DIR", "write it as an ordinary transformers model"))
    return [*commands, NextCommand(f"tunesmith show {run}", "see this again")]


def tunesmith_code(result: RunResult, folder: Path) -> str:
    """Python lines that load the run with tunesmith and use it once."""
    asked = '("a text", "another")' if result.data.has_pairs else '"a text of your own"'
    return f"import tunesmith as ts\n\nrun = ts.load({str(folder)!a})\nprint(run.predict([{asked}]))"


def library(folder: Path) -> str:
    """The library whose format the trained weights are in: 'transformers', 'peft', or 'tunesmith' where PEFT has none."""
    if trained_folder(folder) != folder / ADAPTER:
        return "transformers"
    return "peft" if (folder / ADAPTER / PEFT_CONFIG).is_file() else "tunesmith"


def other_code(result: RunResult, folder: Path, shown: Path) -> tuple[str, str] | None:
    """The libraries that load the trained weights without tunesmith, and Python lines for it; None where none can.

    Args:
        result: The run.
        folder: Its folder.
        shown: The folder as the lines name it.
    """
    kind = library(folder)
    if kind == "tunesmith":
        return None
    auto_class = _AUTO_CLASSES.get(result.task, "AutoModelForCausalLM")
    if kind == "transformers":
        return "transformers", _model_code(auto_class, shown / MODEL)
    return "peft and transformers", _adapter_code(result, auto_class, shown / ADAPTER)


def is_hub_id(name: str) -> bool:
    """Whether a model's name can be one of the hub, owner/name."""
    return _HUB_ID.fullmatch(name) is not None


def _model_code(auto_class: str, model: Path) -> str:
    path = ascii(str(model))
    imports = f"from transformers import AutoTokenizer, {auto_class}"
    return f"{imports}\n\nmodel = {auto_class}.from_pretrained({path})\ntokenizer = AutoTokenizer.from_pretrained({path})"


def _adapter_code(result: RunResult, auto_class: str, adapter: Path) -> str:
    classes = f", num_labels={len(result.data.labels)}" if result.data.labels else ""
    name, bits = _QUANTISED.get(result.settings.get("training", {}).get("base_bits"), ("", ""))
    caveat = [] if is_hub_id(result.model.name) else ["# The base model: a hub id, or a folder that transformers can read."]
    return "\n".join(
        [
            "from peft import PeftModel",
            f"from transformers import {auto_class}{name}",
            "",
            *caveat,
            f"base = {auto_class}.from_pretrained({result.model.name!a}{classes}{bits})",
            f"model = PeftModel.from_pretrained(base, {str(adapter)!a})",
        ]
    )
