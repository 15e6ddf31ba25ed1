"""The kinds of machine that targets are set for: the same targets, with other limits where a machine needs them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from tale.exceptions import ValidationException
from tale.monitoring.targets import TARGETS, Target


@dataclass(frozen=True, slots=True)
class Profile:
    """A kind of machine; `limits` are those that differ from the general ones, by the name of the target."""

    name: str
    title: str
    limits: Mapping[str, float] = field(default_factory=dict[str, float])

    def targets(self, limits: Mapping[str, float] | None = None) -> tuple[Target, ...]:
        """The targets on such a machine, with a user's own limits first.

        Raises ValidationException for a limit of a target that there is not.
        """
        own = {**self.limits, **(limits or {})}
        names = [target.name for target in TARGETS]
        if unknown := [name for name in own if name not in names]:
            raise ValidationException(f"There is no target {unknown[0]!r}; choose from {', '.join(names)}.")
        return tuple(replace(target, limit=own.get(target.name, target.limit)) for target in TARGETS)


UNKNOWN: Final = Profile("unknown", "while the service is stopped")
PROFILES: Final[Sequence[Profile]] = (
    Profile("cpu", "a few cores, with the small embedded pair of models"),
    Profile("workstation", "a graphics card, with the pair of models on Ollama"),
    Profile("shared", "engines elsewhere, reached by address"),
)


def profile_named(name: str) -> Profile:
    """The profile of that name; raises ValidationException."""
    for profile in PROFILES:
        if profile.name == name:
            return profile
    raise ValidationException(f"There is no profile {name!r}; choose from {', '.join(each.name for each in PROFILES)}.")


def profile_of(provider: str | None) -> Profile:
    """The profile that fits where the models run; UNKNOWN, which has the general limits, where that is not known.

    >>> profile_of("ollama").name, profile_of("embedded").name, profile_of(None).name
    ('workstation', 'cpu', 'unknown')
    """
    name = {"embedded": "cpu", "ollama": "workstation", "openai": "shared"}.get(provider or "")
    return UNKNOWN if name is None else profile_named(name)
