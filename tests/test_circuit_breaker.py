"""A server that fails is left alone for a growing time, and one call at a time finds out whether it is back."""

from tale.circuit_breaker import CircuitBreaker


class Clock:
    """A clock that stands until it is set."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def breaker_on(clock: Clock, failure_limit: int = 2) -> CircuitBreaker:
    return CircuitBreaker(failure_limit=failure_limit, rest_s=1.0, longest_rest_s=5.0, clock=clock)


def test_each_probe_that_fails_doubles_the_rest_up_to_the_longest() -> None:
    clock = Clock()
    breaker = breaker_on(clock)
    breaker.failed()
    assert breaker.left_s == 0
    rests = list[float]()
    for _ in range(5):
        breaker.failed()
        rests.append(breaker.left_s)
        clock.now += breaker.left_s
        assert breaker.wait_s() == 0
    assert rests == [1.0, 2.0, 4.0, 5.0, 5.0]


def test_an_answer_begins_anew_with_the_shortest_rest() -> None:
    clock = Clock()
    breaker = breaker_on(clock, failure_limit=1)
    for _ in range(3):
        breaker.failed()
        clock.now += breaker.left_s
    breaker.succeeded()
    breaker.failed()
    assert breaker.left_s == 1.0


def test_calls_that_began_before_a_rest_do_not_prolong_it() -> None:
    clock = Clock()
    breaker = breaker_on(clock)
    for _ in range(64):
        breaker.failed()
    assert breaker.left_s == 1.0
    clock.now = 1.0
    assert breaker.left_s == 0


def test_a_server_known_to_be_gone_rests_at_once() -> None:
    clock = Clock()
    breaker = breaker_on(clock, failure_limit=5)
    breaker.tripped()
    assert breaker.left_s == 1.0
    clock.now = 1.0
    breaker.tripped()
    assert breaker.left_s == 2.0


def test_looking_does_not_use_up_the_probe() -> None:
    clock = Clock()
    breaker = breaker_on(clock, failure_limit=1)
    breaker.failed()
    assert not breaker.is_free
    clock.now = 1.0
    assert breaker.is_free
    assert breaker.wait_s() == 0
    assert not breaker.is_free
    breaker.withdrawn()
    assert breaker.is_free
