# SPDX-License-Identifier: Apache-2.0
"""What a measurement yields: samples with a name, a unit and a target."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from statistics import median

from bench.targets import TARGETS


class Verdict(Enum):
    """How a figure stands to its target."""

    PASS = "pass"
    MISS = "miss"
    NONE = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One thing measured several times; ``key`` is ``section.subject.case``. Smaller is better.

    A target is an upper bound of the median.
    """

    key: str
    label: str
    unit: str
    samples: tuple[float, ...]

    def __post_init__(self) -> None:
        """Refuse a figure without samples: a median of nothing is no figure."""
        if not self.samples:
            raise ValueError(f"{self.key} was not measured")

    @property
    def section(self) -> str:
        """First part of the key."""
        return self.key.partition(".")[0]

    @property
    def median(self) -> float:
        """Middle of the samples."""
        return float(median(self.samples))

    @property
    def low(self) -> float:
        """Smallest sample."""
        return min(self.samples)

    @property
    def high(self) -> float:
        """Largest sample."""
        return max(self.samples)

    @property
    def target(self) -> float | None:
        """Upper bound that is asked for, if any."""
        return TARGETS.get(self.key)

    @property
    def verdict(self) -> Verdict:
        """Compare the median with the target."""
        if self.target is None:
            return Verdict.NONE
        return Verdict.PASS if self.median <= self.target else Verdict.MISS


def ratios(ours: Sequence[float], base: Sequence[float]) -> tuple[float, ...]:
    """Divide round by round: what disturbs both of a round falls out. Raises ValueError for unequal rounds."""
    return tuple(one / other for one, other in zip(ours, base, strict=True))


def by_key(figures: Sequence[Figure]) -> Mapping[str, Figure]:
    """Index figures by key; raises ValueError when one is there twice."""
    found = {figure.key: figure for figure in figures}
    if len(found) != len(figures):
        raise ValueError("two figures have one key")
    return found


def missing_targets(figures: Sequence[Figure], sections: Sequence[str]) -> tuple[str, ...]:
    """Return the targets of the measured sections that have no figure."""
    measured = {figure.key for figure in figures}
    return tuple(key for key in TARGETS if key.partition(".")[0] in sections and key not in measured)
