"""The whole job from Python: fit, look at the numbers, ask the tuned model, write it as an ordinary model.

python examples/fit_reviews.py DATA MODEL OUT        for instance starter:movie-reviews starter:minilm runs/reviews
"""

import logging
import sys

import tunesmith as ts


def main(data: str, model: str, out: str) -> ts.Run:
    """Tune a classifier and show what came of it; gives the run."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")  # shows what is found and decided on the way
    run = ts.fit(data, model=model, method=ts.LoRA(rank=16), out=out, max_time="10m")

    for name, value in run.metrics.items():
        print(f"{name}: {value:.3f}")
    texts = ["a warm and clever film", "two hours that felt like six"]
    for text, label in zip(texts, run.predict(texts), strict=True):
        print(f"{text!r} is {label}")
    print(f"Report: {run.report}")
    print(f"An ordinary transformers model: {run.merge(f'{out}-merged')}")
    return ts.load(run.folder)  # the same run, at any later time


if __name__ == "__main__":
    main(*sys.argv[1:4])
