"""Things that go wrong, by name: each changes the running process such that the fault happens in a run that follows."""

from __future__ import annotations

import errno
import importlib
import math
import os
import resource
import time
from pathlib import Path

import torch


def no_figures() -> None:
    """Reports have no figures: no fault, but drawing takes longer than a tiny run."""
    from tunesmith.reports import figures

    figures.draw = lambda *_: "<svg></svg>"


def nan_loss(step: str, count: str = "1") -> None:
    """The loss of `count` steps from `step` on is not a number."""
    _after_losses(int(step), int(count), lambda loss: loss * math.nan)


def infinite_gradient(step: str, count: str = "1") -> None:
    """The loss of `count` steps from `step` on is fine, but its gradient is infinite."""
    _after_losses(int(step), int(count), _Explode.apply)


class _Explode(torch.autograd.Function):
    @staticmethod
    def forward(ctx, loss):
        return loss.clone()

    @staticmethod
    def backward(ctx, *gradients):
        return gradients[0] * math.inf


def _after_losses(step: int, count: int, change) -> None:
    from tunesmith.training import loop

    real = loop.take_step
    done = 0

    def take_step(learner, *arguments):
        nonlocal done
        done += 1
        if not step <= done < step + count:
            return real(learner, *arguments)
        kind = type(learner.forward)
        honest = kind.loss
        kind.loss = lambda self, batch: change(honest(self, batch))
        try:
            return real(learner, *arguments)
        finally:
            kind.loss = honest

    loop.take_step = take_step


def full_disk(num_bytes: str) -> None:
    """Checkpoints can be written until `num_bytes` are out; then there is no space left on the device."""
    from tunesmith import tensor_file

    left = int(num_bytes)
    real = os.write

    class Full:
        def __getattr__(self, name):
            return getattr(os, name)

        def write(self, descriptor, data):
            nonlocal left
            if left <= 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            written = real(descriptor, bytes(data)[:left])
            left -= written
            return written

    tensor_file.os = Full()


def largest_file(num_bytes: str) -> None:
    """The system refuses to let any file grow beyond `num_bytes`."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(num_bytes), int(num_bytes)))


def slow_disk(seconds: str) -> None:
    """Every flush to the disk takes `seconds` longer, so that kills land while something is being written."""
    real = os.fsync

    def fsync(descriptor):
        time.sleep(float(seconds))
        real(descriptor)

    os.fsync = fsync


def wait_at_step(step: str, flag: str) -> None:
    """At `step` the file `flag` is made, and the run waits until it is gone."""
    from tunesmith.training import loop

    real = loop.take_step
    done = 0

    def take_step(*arguments):
        nonlocal done
        done += 1
        if done == int(step):
            wait(flag)
        return real(*arguments)

    loop.take_step = take_step


def wait_in(module: str, function: str, flag: str) -> None:
    """When `function` is called under its name in `module` the file `flag` is made, and the run waits until it is gone."""
    place = importlib.import_module(f"tunesmith.{module}")
    real = getattr(place, function)

    def waiting(*arguments, **more):
        wait(flag)
        return real(*arguments, **more)

    setattr(place, function, waiting)


def wait(flag: str) -> None:
    """Make a file, and go on when somebody has removed it."""
    Path(flag).touch()
    while Path(flag).exists():
        time.sleep(0.01)
