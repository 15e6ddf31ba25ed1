"""Leaves a server that does not answer alone for a while, so that callers learn at once that it is gone."""

import time
from collections.abc import Callable
from typing import Final

FAILURE_LIMIT: Final = 5
REST_S: Final = 2.0  # a server that was killed is started again after about that time


class CircuitBreaker:
    """Lets calls pass until `failure_limit` of them have failed in a row, then one at a time, as probes, after a rest.

    The rest is `rest_s`, and doubles with each probe that fails, up to `longest_rest_s` (None: it stays as it is). Each
    call that `wait_s` lets pass must be followed by `succeeded`, `failed`, or `withdrawn` if it ended untold.
    """

    def __init__(
        self,
        *,
        failure_limit: int = FAILURE_LIMIT,
        rest_s: float = REST_S,
        longest_rest_s: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.failures = 0  # in a row
        self._failure_limit = failure_limit
        self._rest_s = rest_s
        self._longest_rest_s = rest_s if longest_rest_s is None else longest_rest_s
        self._next_rest_s = rest_s
        self._clock = clock
        self._rests_until = 0.0
        self._probing = False

    @property
    def left_s(self) -> float:
        """Seconds until a call would pass, leaving out that one may be probing; looking changes nothing."""
        return 0.0 if self.failures < self._failure_limit else max(0.0, self._rests_until - self._clock())

    @property
    def is_free(self) -> bool:
        """Whether the next call would pass; looking changes nothing."""
        return self.left_s == 0 and not self._probing

    def wait_s(self) -> float:
        """Seconds to wait before the next call; with 0 it passes."""
        if self.failures < self._failure_limit:
            return 0.0
        if self._probing:
            return self._rest_s
        left_s = self.left_s
        self._probing = left_s == 0
        return left_s

    def succeeded(self) -> None:
        """The server has answered."""
        self.failures = 0
        self._next_rest_s = self._rest_s
        self._probing = False

    def failed(self) -> None:
        """The server has not answered. Calls that began before a rest and fail during it do not prolong it."""
        was_resting = self.left_s > 0
        self.failures += 1
        self._probing = False
        if self.failures >= self._failure_limit and not was_resting:
            self._rests_until = self._clock() + self._next_rest_s
            self._next_rest_s = min(2 * self._next_rest_s, self._longest_rest_s)

    def tripped(self) -> None:
        """The server is known to be gone: it is left alone at once."""
        self.failures = max(self.failures, self._failure_limit - 1)
        self.failed()

    def withdrawn(self) -> None:
        """The call ended without telling anything of the server."""
        self._probing = False
