"""Scaffold of a fine-tuning method: one file with slots for the equation, the shapes, the start and the paper.

python tools/new_method.py my-method
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1] / "src" / "tunesmith" / "methods"

TEMPLATE = '''"""TITLE: TODO one sentence that says what is learnt.

y = TODO the equation        TODO the shape of every symbol, and how each starts
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tunesmith.method import Method
from tunesmith.model import anatomy, surgery


class CLASSLinear(nn.Module):
    """A frozen linear layer plus TODO."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        _, d_out = anatomy.linear_sizes(base)
        self.base = base
        self.change = nn.Parameter(torch.zeros(d_out, device=next(base.parameters()).device))

    def forward(self, x: Tensor) -> Tensor:
        """Map `(..., d_in)` to `(..., d_out)`."""
        raise NotImplementedError("TODO: write the equation of NAME")

    @property
    def weight(self) -> Tensor:
        """The frozen weight, as stored; some models look at its data type."""
        return anatomy.stored_weight(self.base)


@dataclass(frozen=True, kw_only=True)
class CLASS(Method):
    """TODO what the method does, in one sentence."""

    name = "NAME"
    paper = "TODO"
    mergeable = False  # or write `merge`
    learning_rate = 2e-4
    learning_rate_small = 1e-3

    targets: tuple[str, ...] = (anatomy.ALL_LINEAR,)
    """Names of the layers to adapt (`q_proj v_proj`, patterns allowed), or `all-linear`."""

    def attach(self, model: nn.Module) -> None:
        surgery.freeze(model)
        for path in anatomy.linear_targets(model, self.targets):
            surgery.replace(model, path, CLASSLinear(model.get_submodule(path)))
        surgery.thaw(model, anatomy.new_head_parameters(model))
'''


def scaffold(name: str, folder: Path = FOLDER) -> Path:
    """Write the file of method `name` and return its path.

    Raises:
        ValueError: If the name is not lower-case words joined by `-`, or is taken.
    """
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name):
        raise ValueError(f"A method's name is lower-case words joined by '-', found {name!r}. Example: my-method.")
    path = folder / f"{name.replace('-', '_')}.py"
    if path.exists():
        raise ValueError(f"There is a method {name!r} already: {path.name}. Choose another name.")
    words = name.split("-")
    text = TEMPLATE.replace("CLASS", "".join(word.capitalize() for word in words))
    path.write_text(text.replace("TITLE", " ".join(words).capitalize()).replace("NAME", name), encoding="utf-8")
    return path


def main(arguments: list[str]) -> int:
    """Scaffold the method named on the command line."""
    if len(arguments) != 1:
        print("usage: python tools/new_method.py NAME", file=sys.stderr)
        return 2
    try:
        path = scaffold(arguments[0])
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"Wrote {path.relative_to(FOLDER.parents[2])}. Fill in the TODOs, then run its contract:")
    print(f"  .venv/bin/python -m pytest tests/contract -k {arguments[0]}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
