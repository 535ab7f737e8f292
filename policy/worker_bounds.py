"""Bounds of the number of workers of a role, which rollout and rewards both have."""

from __future__ import annotations


def check_bounds(workers: int, least: int, most: int | None, autoscale: bool) -> None:
    """Raise ``ValueError`` when the role does not begin between its bounds.

    Raises it also when it is to scale by itself without an upper bound.
    """
    if workers < least:
        raise ValueError(f"workers is {workers}, below min_workers, {least}")
    if most is not None and workers > most:
        raise ValueError(f"workers is {workers}, above max_workers, {most}")
    if autoscale and most is None:
        raise ValueError("autoscale needs max_workers")
