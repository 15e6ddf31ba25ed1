"""Three tasks of a conversation, as orders and requests may speak of them."""

from tale.records import Task, TaskStatus

TEXTS = ("Write an essay about whales", "Translate the contract into German", "Make a table of planets")
IDS = (
    "11111111-aaaa-4aaa-8aaa-111111111111",
    "22222222-bbbb-4bbb-8bbb-222222222222",
    "3333333c-cccc-4ccc-8ccc-333333333333",
)


def tasks(*statuses: str) -> list[Task]:
    """Three tasks, oldest first."""
    told = [*statuses, *["running"] * len(TEXTS)]
    return [
        Task(task_id, text, TaskStatus(status), float(place), result=f"Result {place}")
        for place, (task_id, text, status) in enumerate(zip(IDS, TEXTS, told, strict=False))
    ]
