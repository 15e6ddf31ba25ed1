"""How often each key may ask: a bucket of tokens that fills up steadily."""

import time
from collections.abc import Callable


class TokenBuckets:
    """One bucket a key: `burst` requests at once, `rate_per_s` in the long run."""

    def __init__(self, rate_per_s: float, burst: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate_per_s = rate_per_s
        self._burst = burst
        self._clock = clock
        self._buckets: dict[str, tuple[float, float]] = {}  # tokens, and when they were counted

    def wait_s(self, key_id: str) -> float:
        """Take a token; with 0 there was one, else it takes so many seconds until there is."""
        now = self._clock()
        tokens, counted_at = self._buckets.get(key_id, (float(self._burst), now))
        tokens = min(self._burst, tokens + (now - counted_at) * self._rate_per_s)
        if tokens >= 1:
            self._buckets[key_id] = (tokens - 1, now)
            return 0.0
        self._buckets[key_id] = (tokens, now)
        return (1 - tokens) / self._rate_per_s
