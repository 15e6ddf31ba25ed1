"""What tale raises.

    TaleBaseException
      ├── NetworkException     a server or engine could not be reached, or broke off
      ├── ValidationException  a value given by the caller is not acceptable
      ├── TaskException        a task cannot be found, run or finished
      ├── ModelException       a model or its engine cannot do what was asked
      ├── BudgetException      a budget of tokens is used up
      ├── ServerException      a tale server cannot start, stop or serve
      └── DatabaseException    the database cannot be opened, upgraded, read or written

Every message says what was wrong and what to do about it; `context` carries the values for programs.
"""

from collections.abc import Mapping
from typing import ClassVar


class TaleBaseException(Exception):
    """The root of everything tale raises: a message for people, a context for programs.

    >>> print(TaleBaseException("The queue is full; try again later."))
    The queue is full; try again later.
    >>> print(TaleBaseException("The queue is full; try again later.", {"waiting": 10000}))
    The queue is full; try again later. (waiting=10000)
    """

    label: ClassVar[str] = ""  # what kind of trouble this is, set in front of the message

    def __init__(self, message: str, context: Mapping[str, object] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.context: dict[str, object] = dict(context or {})

    def __str__(self) -> str:
        text = f"{self.label}: {self.message}" if self.label else self.message
        if not self.context:
            return text
        return f"{text} ({', '.join(f'{key}={value}' for key, value in self.context.items())})"

    def __reduce__(self) -> tuple[type["TaleBaseException"], tuple[str, dict[str, object]]]:
        return type(self), (self.message, self.context)


class NetworkException(TaleBaseException):
    """A server or engine could not be reached, or broke off; context names the URL and the cause.

    >>> print(NetworkException("no answer", {"url": "http://127.0.0.1:8080", "cause": "refused"}))
    Network error: no answer (url=http://127.0.0.1:8080, cause=refused)
    >>> NetworkException("no answer", {"url": "http://127.0.0.1:8080"}).context["url"]
    'http://127.0.0.1:8080'
    """

    label = "Network error"


class ValidationException(TaleBaseException):
    """A value given by the caller is not acceptable; the message says what would be.

    >>> print(ValidationException("The task text is empty; say what is to be done."))
    Invalid input: The task text is empty; say what is to be done.
    >>> print(ValidationException("Port 80 is out of range; use 1024 to 65535.", {"port": 80}))
    Invalid input: Port 80 is out of range; use 1024 to 65535. (port=80)
    """

    label = "Invalid input"


class TaskException(TaleBaseException):
    """A task cannot be found, run or finished.

    >>> print(TaskException("No such task; `tale list` shows those there are."))
    Task error: No such task; `tale list` shows those there are.
    >>> TaskException("It is already finished.", {"status": "completed"}).context
    {'status': 'completed'}
    """

    label = "Task error"


class ModelException(TaleBaseException):
    """A model or its engine cannot do what was asked.

    >>> print(ModelException("The prompt does not fit.", {"input_tokens": 20000, "context_tokens": 16384}))
    Model error: The prompt does not fit. (input_tokens=20000, context_tokens=16384)
    >>> try:
    ...     raise ModelException("Unknown model 'x'.")
    ... except TaleBaseException as error:
    ...     print(error.message)
    Unknown model 'x'.
    """

    label = "Model error"


class BudgetException(TaleBaseException):
    """A call would exceed a budget of tokens; context says which one, and in how many seconds it is reset.

    >>> print(BudgetException("The budget of 1,000 tokens a day is used up.", {"retry_after_s": 60}))
    Budget: The budget of 1,000 tokens a day is used up. (retry_after_s=60)
    >>> BudgetException("It is used up.", {"retry_after_s": 60}).context["retry_after_s"]
    60
    """

    label = "Budget"


class ServerException(TaleBaseException):
    """A tale server cannot start, stop or serve.

    >>> print(ServerException("Port 8080 is in use; stop its owner or choose another with --port."))
    Server error: Port 8080 is in use; stop its owner or choose another with --port.
    >>> ServerException("Port in use.", {"port": 8080}).context["port"]
    8080
    """

    label = "Server error"


class DatabaseException(TaleBaseException):
    """The database cannot be opened, upgraded, read or written.

    >>> print(DatabaseException("The disk is full; free some space."))
    Database error: The disk is full; free some space.
    >>> print(DatabaseException("It is read-only.", {"path": "tale.db"}))
    Database error: It is read-only. (path=tale.db)
    """

    label = "Database error"
