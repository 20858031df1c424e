"""Schedules as pure functions of the step, counted from 0.

The values are those of MaSSL's official trainer, which takes its schedules from DINO's (arXiv 2104.14294).
"""

from __future__ import annotations

import math


def cosine(step: int, *, start: float, end: float, num_steps: int, warmup_steps: int = 0) -> float:
    """Half a cosine from `start` towards `end`, after a linear warm-up from 0.

    Learning rate (with warm-up), weight decay and EMA momentum follow it. The warm-up's last step has the value `start`
    and so has the first step after it; `end` would be reached at step `num_steps`, one after the last.

    Args:
        step: In [0, num_steps).
        start: Value after the warm-up.
        end: Value that the cosine tends to.
        num_steps: Steps of the whole training.
        warmup_steps: Steps of the warm-up among them, at most `num_steps`.

    Raises:
        ValueError: A step outside the training, or a warm-up longer than it.
    """
    if not 0 <= step < num_steps:
        raise ValueError(f"step: {step}; allowed: 0 to {num_steps - 1}, as num_steps is {num_steps}")
    if not 0 <= warmup_steps <= num_steps:
        raise ValueError(f"warmup_steps: {warmup_steps}; allowed: 0 to num_steps = {num_steps}")
    if step < warmup_steps:
        return _linear(step, start=0.0, end=start, num_steps=warmup_steps)
    progress = (step - warmup_steps) / (num_steps - warmup_steps)
    return end + 0.5 * (start - end) * (1 + math.cos(math.pi * progress))


def linear_then_constant(step: int, *, start: float, end: float, warmup_steps: int) -> float:
    """A line from `start` at step 0 to `end` at the last step of the warm-up, then `end`: the teacher's temperature.

    Args:
        step: At least 0.
        start: Value at step 0 of a warm-up.
        end: Value from step `warmup_steps - 1` on.
        warmup_steps: Steps of the warm-up; 0 for `end` throughout.

    Raises:
        ValueError: A negative step or warm-up.
    """
    if step < 0 or warmup_steps < 0:
        raise ValueError(f"step: {step}, warmup_steps: {warmup_steps}; allowed: both at least 0")
    return _linear(step, start=start, end=end, num_steps=warmup_steps) if step < warmup_steps else end


def _linear(step: int, *, start: float, end: float, num_steps: int) -> float:
    """Return element `step` of `num_steps` evenly spaced values from `start` to `end`, both included."""
    return start + (end - start) * (step / (num_steps - 1)) if num_steps > 1 else start
