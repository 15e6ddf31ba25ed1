"""What tale raises: messages for people, a context for programs, one root."""

import doctest
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tale.exceptions
from tale.exceptions import (
    BudgetException,
    DatabaseException,
    ModelException,
    NetworkException,
    ServerException,
    TaleBaseException,
    TaskException,
    ValidationException,
)

KINDS = [
    (NetworkException, "Network error"),
    (ValidationException, "Invalid input"),
    (TaskException, "Task error"),
    (ModelException, "Model error"),
    (BudgetException, "Budget"),
    (ServerException, "Server error"),
    (DatabaseException, "Database error"),
]
CLASSES = [TaleBaseException, *(kind for kind, _ in KINDS)]


@pytest.mark.parametrize(("kind", "label"), KINDS)
def test_each_kind_has_a_message_format_of_its_own(kind: type[TaleBaseException], label: str):
    assert str(kind("it broke")) == f"{label}: it broke"
    assert str(kind("it broke", {"port": 1, "why": "x"})) == f"{label}: it broke (port=1, why=x)"


def test_the_root_prints_the_bare_message():
    assert str(TaleBaseException("it broke")) == "it broke"
    assert str(TaleBaseException("it broke", {"port": 1})) == "it broke (port=1)"


@pytest.mark.parametrize("kind", CLASSES)
def test_one_handler_catches_every_kind(kind: type[TaleBaseException]):
    assert issubclass(kind, TaleBaseException)
    with pytest.raises(TaleBaseException) as caught:
        raise kind("it broke", {"a": 1})
    assert caught.value.message == "it broke"
    assert caught.value.context == {"a": 1}


@pytest.mark.parametrize("context", [None, {}])
def test_the_context_is_empty_when_none_is_given(context: dict[str, object] | None):
    assert TaleBaseException("it broke", context).context == {}


def test_the_context_is_a_copy():
    given_context: dict[str, object] = {"a": 1}
    error = TaleBaseException("it broke", given_context)
    given_context["a"] = 2
    assert error.context == {"a": 1}


@given(message=st.text(), context=st.dictionaries(st.text(), st.integers() | st.text() | st.none()))
@pytest.mark.parametrize("kind", CLASSES)
def test_an_error_survives_the_way_to_another_process(
    kind: type[TaleBaseException], message: str, context: dict[str, object]
):
    copy = pickle.loads(pickle.dumps(kind(message, context)))
    assert type(copy) is kind
    assert (copy.message, copy.context, str(copy)) == (message, context, str(kind(message, context)))


@pytest.mark.parametrize("kind", CLASSES)
def test_every_class_shows_two_examples_that_run(kind: type[TaleBaseException]):
    found = doctest.DocTestFinder(recurse=False).find(kind, kind.__name__, globs=vars(tale.exceptions).copy())
    runner = doctest.DocTestRunner(verbose=False)
    results = [runner.run(example) for example in found]
    assert sum(result.attempted for result in results) >= 2
    assert not any(result.failed for result in results)
