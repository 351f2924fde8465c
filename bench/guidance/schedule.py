"""Adaptive locality guidance (ALG, IEEE TNNLS, doi 10.1109/TNNLS.2024.3515076): it ends when its loss stops falling.

    δ_e = (L_e - mean(L_1 … L_{e-1})) / e   for 2 ≤ e ≤ window,   (L_e - L_{e-window}) / window   after that
    s_e = mean of δ_i over i = max(2, e - window + 1) … e

L_e is the mean unweighted guidance loss of the e-th epoch with guidance. Guidance ends for good after the first epoch
with s_e ≥ threshold (`paper`), or with s_e > threshold and e ≥ first_test (`researcher`, in later code). It can be set for
any method. As published: window 50, threshold -0.02, first test 20, and weight 2.5 of locality guidance. Source: the
folders methods/ALG of bapedragon/IBAM_KD_H200_V2 (core.py) and bapedragon/iBKD.

The decision is a function of the losses so far, and needs no other state. The threshold is absolute, so the epoch of the
stop depends on the scale of the teacher's features; the record also has s_e / L_e.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from bench.config.schema import Schedule, scaled_epochs


def stop(schedule: Schedule, epochs: int, losses: Sequence[float]) -> tuple[int, float, float] | None:
    """Where an adaptive schedule ends guidance: (number e of epochs with guidance, s_e, s_e / L_e), or None so far.

    Args:
        epochs: of the run. Window and first test are scaled from those of a published run.
        losses: the unweighted guidance loss of each epoch with guidance.
    """
    if schedule.adaptive == "none":
        return None
    window = scaled_epochs(schedule.window, epochs)
    first = scaled_epochs(schedule.first_test, epochs) if schedule.adaptive == "researcher" else 1
    changes: list[float] = []  # δ_2, δ_3, …
    for e in range(2, len(losses) + 1):
        early = e <= window
        changes.append((losses[e - 1] - (fmean(losses[: e - 1]) if early else losses[e - 1 - window])) / min(e, window))
        smoothed = fmean(changes[-window:])
        over = smoothed >= schedule.threshold if schedule.adaptive == "paper" else smoothed > schedule.threshold
        if over and e >= first:
            return e, smoothed, smoothed / losses[e - 1] if losses[e - 1] else 0.0  # a term may become zero
    return None
