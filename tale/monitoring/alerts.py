"""Says when a target begins to be missed, is about to be, and is met again; each once. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from tale.monitoring.targets import GIB, Standing, Target
from tale.storage.monitoring_store import TargetAlert, Violation

FAST_BURN: Final = 14.4  # within an hour 2 % of what 30 days allow ("The Site Reliability Workbook", 2018, chapter 5)
BURN_QUIET_S: Final = 3_600.0  # after an alert of that kind


@dataclass(frozen=True, slots=True)
class Changes:
    """What is to be kept: violations that began or are otherwise than they were, and what is said of them."""

    violations: tuple[Violation, ...] = ()
    alerts: tuple[TargetAlert, ...] = ()


def judged(
    standings: Sequence[Standing],
    hour: Sequence[Standing],
    *,
    open_violations: Sequence[Violation],
    told: Sequence[TargetAlert],
    profile: str,
    now: float,
    ids: Sequence[str],
) -> Changes:
    """What changes as the targets stand so, over their windows and over the last hour.

    `told` are the latest alerts. `ids` are fresh ones, two for each standing. A target of which too little was measured
    changes nothing, but that its violation ends, without a word, once its window holds no value beyond the limit.
    """
    violations: list[Violation] = []
    alerts: list[TargetAlert] = []
    opened = {violation.target: violation for violation in open_violations}
    for number, standing in enumerate(standings):
        violation, fresh = opened.get(standing.target.name), ids[2 * number : 2 * number + 2]
        changed = _violation(standing, violation, profile, now, fresh[0])
        if changed is not None:
            violations.append(changed)
        kind = _kind(standing, violation, changed, _burns(standing, hour, told, now))
        if kind is not None:
            of = changed or violation
            text = sentence(standing, kind)
            alerts.append(TargetAlert(fresh[1], now, of.id if of else None, standing.target.name, kind, text))
    return Changes(tuple(violations), tuple(alerts))


def sentence(standing: Standing, kind: Literal["missed", "burning", "met"]) -> str:
    """An alert in a sentence or two.

    >>> target = Target("x", "First words", "at most", 1.0, "s", action="Do less.")
    >>> sentence(Standing(target, 40, 1.25, "missed", 8, 4.0), "missed")
    'First words: p95 is 1.25 s, and should be at most 1 s. Do less.'
    """
    target = standing.target
    measured = "unknown" if standing.measured is None else shown(target, standing.measured)
    percentile = f"p{target.percentile * 100:g}"
    match kind:
        case "missed":
            limit = shown(target, target.limit)
            return f"{target.title}: {percentile} is {measured}, and should be {target.sense} {limit}. {target.action}"
        case "burning":
            return (
                f"{target.title}: in the last hour so many calls were too slow that it will be missed. {target.action}"
            )
        case "met":
            return f"{target.title}: met again, {percentile} is {measured}."


def shown(target: Target, value: float) -> str:
    """A value of a target with its unit.

    >>> shown(Target("x", "X", "at most", 1.0, "bytes"), 27 * GIB)
    '27 GiB'
    >>> shown(Target("x", "X", "at least", 0.8, "share"), 0.8)
    '80 %'
    """
    match target.unit:
        case "s":
            return f"{value:.3g} s"
        case "bytes":
            return f"{value / GIB:.3g} GiB"
        case "share":
            return f"{100 * value:.3g} %"


def _violation(
    standing: Standing, violation: Violation | None, profile: str, now: float, fresh: str
) -> Violation | None:
    """The violation as it is to be kept, where it differs from what is kept."""
    if standing.status == "met" or standing.beyond == 0:
        return replace(violation, ended_at=now) if violation else None
    if standing.measured is None:
        return None
    target = standing.target
    if violation is None:
        limit, action = target.limit, target.action
        return Violation(fresh, target.name, profile, now, None, limit, standing.measured, standing.values, action)
    worse = max if target.sense == "at most" else min
    worst = worse(violation.worst, standing.measured)
    return replace(violation, worst=worst, measured=standing.values) if worst != violation.worst else None


def _kind(
    standing: Standing, before: Violation | None, after: Violation | None, burns: bool
) -> Literal["missed", "burning", "met"] | None:
    if before is None and after is not None:
        return "missed"
    if after is not None and after.ended_at is not None:
        return "met" if standing.status == "met" else None
    return "burning" if burns and before is None else None


def _burns(standing: Standing, hour: Sequence[Standing], told: Sequence[TargetAlert], now: float) -> bool:
    """Whether the last hour used up what is allowed so fast that it has to be said, and was not said lately."""
    name = standing.target.name
    fast = any(each.target.name == name and (each.burn_rate or 0) >= FAST_BURN for each in hour)
    return fast and not any(each.target == name and each.created_at > now - BURN_QUIET_S for each in told)
