"""Leaves a server that does not answer alone for a while, so that callers learn at once that it is gone."""

import time
from collections.abc import Callable
from typing import Final

FAILURE_LIMIT: Final = 5
REST_S: Final = 2.0  # a server that was killed is started again after about that time


class CircuitBreaker:
    """Lets calls pass until `failure_limit` of them have failed in a row, then one every `rest_s` seconds as a probe.

    Each call that `wait_s` lets pass must be followed by `succeeded`, `failed`, or `withdrawn` if it ended untold.
    """

    def __init__(
        self,
        *,
        failure_limit: int = FAILURE_LIMIT,
        rest_s: float = REST_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.failures = 0  # in a row
        self._failure_limit = failure_limit
        self._rest_s = rest_s
        self._clock = clock
        self._rests_until = 0.0
        self._probing = False

    def wait_s(self) -> float:
        """Seconds to wait before the next call; with 0 it passes."""
        if self.failures < self._failure_limit:
            return 0.0
        if self._probing:
            return self._rest_s
        left_s = max(0.0, self._rests_until - self._clock())
        self._probing = left_s == 0
        return left_s

    def succeeded(self) -> None:
        """The server has answered."""
        self.failures = 0
        self._probing = False

    def failed(self) -> None:
        """The server has not answered."""
        self.failures += 1
        self._probing = False
        self._rests_until = self._clock() + self._rest_s

    def withdrawn(self) -> None:
        """The call ended without telling anything of the server."""
        self._probing = False
