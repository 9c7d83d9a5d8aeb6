"""How near a training comes to what this machine can do: its matrix products alone, in the model's own shapes.

    python -m benchmarks.limit MODEL_FOLDER --precision bfloat16 --threads 2

One single-threaded process per core, as tunesmith computes; each linear layer of the model forward, `X W^T`, and backward,
`dY W`, on as many tokens as a pass of tunesmith holds. The rate is the operations of one token over the time that its products
took, so a shape counts by its share. A token costs 2 operations a weight forward and 2 for the gradient of its input (and 2
more where the weight itself learns); the head is used at labelled tokens only.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TOKENS_PER_PASS = 1024
SECONDS_PER_PRODUCT = 0.25
FROZEN, LEARNS = 4, 6
"""Operations for each token and weight: forward and the gradient of the input, and the gradient of the weight."""


@dataclass(frozen=True, kw_only=True)
class Rates:
    """What matrix products reach on this machine."""

    precision: str
    num_processes: int
    tokens_per_pass: int
    body_weights: int
    """Of the linear layers that every token passes."""
    head_weights: int
    """Of the layer that only labelled tokens need."""
    body_flop_per_second: float
    head_flop_per_second: float
    products: dict[str, float]
    """FLOP/s of each, by `orientation in x out`, all processes together."""


def flop(rates: Rates, num_tokens: int, num_labelled: int, flop_per_weight: int = FROZEN) -> tuple[float, float]:
    """Operations of the body and of the head for so many tokens."""
    return flop_per_weight * rates.body_weights * num_tokens, flop_per_weight * rates.head_weights * num_labelled


def least_seconds(rates: Rates, num_tokens: int, num_labelled: int, flop_per_weight: int = FROZEN) -> float:
    """The time that the matrix products of so many tokens take at the measured rates."""
    body, head = flop(rates, num_tokens, num_labelled, flop_per_weight)
    return body / rates.body_flop_per_second + (head / rates.head_flop_per_second if head else 0.0)


def share(rates: Rates, summary: dict[str, Any], flop_per_weight: int = FROZEN) -> float:
    """How much of the limit a contestant reached, by its summary in a result file."""
    tokens, labelled = summary["num_real_tokens"], summary["num_labelled_tokens"]
    return least_seconds(rates, tokens, labelled, flop_per_weight) * summary["tokens_per_second"] / tokens


def measured(folder: Path, precision: str, num_processes: int) -> Rates:
    """The rates for the model in a folder, from a fresh process.

    Raises:
        ChildProcessError: It failed; the message ends with what it said last.
    """
    words = [sys.executable, "-m", "benchmarks.limit", str(folder), "--precision", precision, "--threads", str(num_processes)]
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=variables)
    if done.returncode != 0:
        raise ChildProcessError(f"the limit could not be measured: exit code {done.returncode}\n{done.stderr[-4000:]}")
    return Rates(**json.loads(done.stdout.splitlines()[-1]))


def layers(folder: Path) -> tuple[Counter[tuple[int, int]], tuple[int, int] | None]:
    """(in, out) of the linear layers of the body with their number, and of the language model's head if there is one."""
    import torch
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(folder)
    is_causal = any("CausalLM" in name for name in config.architectures or ())
    with torch.device("meta"):
        model = (AutoModelForCausalLM if is_causal else AutoModel).from_config(config)
    head = model.get_output_embeddings() if is_causal else None
    body = [module for module in model.modules() if isinstance(module, torch.nn.Linear) and module is not head]
    counted = Counter((layer.in_features, layer.out_features) for layer in body)
    return counted, (head.in_features, head.out_features) if head is not None else None


def _rates(folder: Path, precision: str, num_processes: int) -> Rates:
    body, head = layers(folder)
    products: dict[str, float] = {}

    def rate(counts: dict[tuple[int, int], int]) -> float:
        """Operations a second over all shapes, each as often as it occurs."""
        weights = seconds = 0.0
        for (num_in, num_out), count in counts.items():
            for backward in (False, True):
                name = f"{'dY W' if backward else 'X W^T'} {num_in} x {num_out}"
                products[name] = _flop_per_second(num_in, num_out, backward, precision, num_processes)
                weights += count * num_in * num_out
                seconds += count * num_in * num_out / products[name]
        return weights / seconds

    return Rates(
        precision=precision,
        num_processes=num_processes,
        tokens_per_pass=TOKENS_PER_PASS,
        body_weights=sum(num_in * num_out * count for (num_in, num_out), count in body.items()),
        head_weights=head[0] * head[1] if head else 0,
        body_flop_per_second=rate(body),
        head_flop_per_second=rate({head: 1}) if head else 0.0,
        products=products,
    )


def _flop_per_second(num_in: int, num_out: int, backward: bool, precision: str, num_processes: int) -> float:
    """The rate of one product, all processes at it at the same time."""
    start_seconds = time.monotonic() + 0.05
    children: list[int] = []
    read, write = os.pipe()
    for _ in range(num_processes):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                os.write(write, f"{_alone(num_in, num_out, backward, precision, start_seconds)}\n".encode())
                code = 0
            finally:
                os._exit(code)
        children.append(child)
    os.close(write)
    with os.fdopen(read) as answers:
        rates = [float(line) for line in answers]
    failed = [child for child in children if os.waitpid(child, 0)[1]]
    if failed or len(rates) != num_processes:
        raise ChildProcessError(f"{len(failed)} of {num_processes} processes failed at {num_in} x {num_out}.")
    return sum(rates)


def _alone(num_in: int, num_out: int, backward: bool, precision: str, start_seconds: float) -> float:
    import torch

    torch.set_num_threads(1)
    dtype = getattr(torch, precision)
    weight = torch.randn(num_out, num_in).to(dtype)
    given = torch.randn(TOKENS_PER_PASS, num_out if backward else num_in).to(dtype)
    factor = weight if backward else weight.T
    result = given @ factor
    time.sleep(max(0.0, start_seconds - time.monotonic()))
    begin, fastest = time.perf_counter(), float("inf")
    while time.perf_counter() - begin < SECONDS_PER_PRODUCT:
        before = time.perf_counter()
        torch.matmul(given, factor, out=result)
        fastest = min(fastest, time.perf_counter() - before)
    return 2 * TOKENS_PER_PASS * num_in * num_out / fastest


def main() -> int:
    """Measure and print the rates as JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.limit", description="what matrix products reach here.")
    parser.add_argument("folder", type=Path, help="of a model in transformers' form")
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="bfloat16")
    parser.add_argument("--threads", type=int, default=2, help="processes of one thread (default 2)")
    asked = parser.parse_args()
    print(json.dumps(dataclasses.asdict(_rates(asked.folder, asked.precision, asked.threads))))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
