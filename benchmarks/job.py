"""What the runner asks of a contestant's process, and what that process answers; both travel as JSON files."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from benchmarks.workload import Order, Row, Task, Workload, arrange

Precision = Literal["float32", "bfloat16", "autocast"]
"""Of weights and activations; `autocast` keeps the weights in float32 and takes most products in bfloat16."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One process: `import` stops after the imports, `train` loads and trains."""

    mode: Literal["import", "train"]
    workload_folder: str
    """Holds `float32/` and `bfloat16/` (model folders), `adapter/` (what learns, as it begins) and `rows.json`."""
    task: Task = "causal"
    method: str = "lora"
    """What learns, by the name of tunesmith's method or preset."""
    sections: list[tuple[str, int, int]] = field(default_factory=list)
    """(section of the workload, its first so many rows, how often), in the order trained."""
    num_warmup_steps: int = 0
    """The first so many steps are trained but not timed."""
    rows_per_step: int = 8
    learning_rate: float = 2e-4
    precision: Precision = "float32"
    base_bits: int = 16
    """Bits of each frozen weight of the linear layers: 16 leaves them as they are, 4 is QLoRA's NF4, doubly quantised."""
    rows_per_pass: int = 8
    """Rows of one forward and backward pass; the rest of the step is accumulated (for contestants that pad)."""
    order: Order = "given"

    @property
    def folder(self) -> Path:
        """The folder of the workload."""
        return Path(self.workload_folder)

    @property
    def weights(self) -> Literal["float32", "bfloat16"]:
        """The number format that the weights are stored in, and the name of their folder."""
        return "bfloat16" if self.precision == "bfloat16" else "float32"

    @property
    def start_file(self) -> Path:
        """The tensors that learn, as they begin."""
        return self.folder / "adapter" / "adapter_model.safetensors"

    def rows(self, workload: Workload) -> list[Row]:
        """The rows to train on, in the order of training; warm-up stays first whatever the order."""
        chosen = [row for name, count, repeats in self.sections for row in workload.section(name)[:count] * repeats]
        num_warmup = self.num_warmup_steps * self.rows_per_step
        parts = chosen[:num_warmup], chosen[num_warmup:]
        return [row for part in parts for row in arrange(part, self.rows_per_step, self.order)]


@dataclass(kw_only=True)
class Measurement:
    """What one process measured. Times come from a monotonic clock; memory from the kernel."""

    versions: dict[str, str] = field(default_factory=dict)
    import_bytes: int = 0
    """Resident after the imports."""
    load_seconds: float = 0.0
    load_peak_bytes: int = 0
    """Highest resident size from the imports until the model with its adapter is there."""
    train_peak_bytes: int = 0
    """Highest resident size while training."""
    end_anonymous_bytes: int = 0
    end_file_bytes: int = 0
    """Of the size after training: pages of mapped files, such as weights and libraries."""
    step_seconds: list[float] = field(default_factory=list)
    """Duration of every optimizer step, warm-up included."""
    losses: list[float] = field(default_factory=list)
    """Mean loss per labelled token of every step."""
    gradient_norms: list[float] = field(default_factory=list)
    num_trainable: int = 0
    num_unmoved: int = 0
    """Adapter tensors that are bitwise the initial ones after training."""
    movement: float = 0.0
    """Norm of (final - initial adapter) relative to the norm of the initial one."""


def write(record: Job | Measurement, path: Path) -> None:
    """Write a job or a measurement as JSON."""
    path.write_text(json.dumps(dataclasses.asdict(record), indent=1))


def read_job(path: Path) -> Job:
    """The job that `write` wrote."""
    entries = json.loads(path.read_text())
    return Job(**{**entries, "sections": [tuple(section) for section in entries["sections"]]})


def read_measurement(path: Path) -> Measurement:
    """The measurement that `write` wrote."""
    return Measurement(**json.loads(path.read_text()))
