"""What a question about one's own work is about, so that the answer comes from what is known; pure."""

from typing import Final, Literal

from tale.conversation.phrases import has

Topic = Literal["last_request", "queue", "servers", "budget", "result", "error", "tasks"]

# The first that is found: "the error in the queue" is about the queue.
TOPICS: Final[tuple[Topic, ...]] = ("last_request", "queue", "budget", "error", "servers", "result")


def topic_of(text: str) -> Topic:
    """What a status question is about; the tasks where it names nothing else.

    >>> topic_of("What was my last request?"), topic_of("Check the status of my task")
    ('last_request', 'tasks')
    """
    for topic in TOPICS:
        if has(topic, text):
            return topic
    return "tasks"
