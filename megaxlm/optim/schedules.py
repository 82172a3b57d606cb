"""Learning rates as pure functions of the step: nothing to save, nothing to restore.

`step` counts optimizer updates from 0. Warmup is linear and reaches the peak on its last update
(`warmup_steps - 1`), so that no update is spent at a rate of zero; the decays start from the peak
at `warmup_steps` and would reach their floor at `max_steps`, one past the last update.
"""

from __future__ import annotations

import math

from megaxlm.config.pretrain import ScheduleConfig
from megaxlm.errors import UserError


def learning_rate(step: int, peak_lr: float, schedule: ScheduleConfig, max_steps: int) -> float:
    """Returns the rate of one optimizer update.

    Args:
        step: Updates done before this one.
        peak_lr: The rate at the end of warmup.
        schedule: Which decay, its warmup and its floor (`min_lr_ratio` of the peak).
        max_steps: Length of the run in updates.
    """
    return peak_lr * _factor(step, schedule, max_steps)


def check_schedule(schedule: ScheduleConfig, max_steps: int) -> None:
    """Refuses a schedule that does not fit into the run.

    Raises:
        UserError: Warmup, or warmup and WSD's decay, exceed `max_steps`.
    """
    if schedule.warmup_steps > max_steps:
        raise UserError(
            f"schedule.warmup_steps {schedule.warmup_steps} exceeds training.max_steps "
            f"{max_steps}; lower the one or raise the other"
        )
    decay_steps = resolved_decay_steps(schedule, max_steps)
    if schedule.name == "wsd" and schedule.warmup_steps + decay_steps > max_steps:
        raise UserError(
            f"schedule.warmup_steps {schedule.warmup_steps} + schedule.decay_steps {decay_steps} "
            f"exceed training.max_steps {max_steps}; shorten one of them"
        )


def resolved_decay_steps(schedule: ScheduleConfig, max_steps: int) -> int:
    """Returns the length of WSD's decay: `decay_steps`, or a tenth of the run."""
    return max(1, max_steps // 10) if schedule.decay_steps is None else schedule.decay_steps


def _factor(step: int, schedule: ScheduleConfig, max_steps: int) -> float:
    warmup, floor = schedule.warmup_steps, schedule.min_lr_ratio
    if step < warmup:
        return (step + 1) / warmup
    done = min(1.0, (step - warmup) / max(1, max_steps - warmup))  # share of the run after warmup
    match schedule.name:
        case "constant":
            return 1.0
        case "linear":
            return floor + (1 - floor) * (1 - done)
        case "cosine":
            return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * done))
        case "inverse_sqrt":
            # Vaswani et al. 2017, section 5.3, scaled so that warmup ends at the peak.
            return max(floor, math.sqrt(max(1, warmup) / (step + 1)))
        case "wsd":
            # Hägele et al. 2024 (arXiv:2405.18392), section 3: the 1-sqrt cooldown.
            decay_steps = resolved_decay_steps(schedule, max_steps)
            cooled = min(1.0, max(0.0, (step - (max_steps - decay_steps)) / decay_steps))
            return floor + (1 - floor) * (1 - math.sqrt(cooled))
