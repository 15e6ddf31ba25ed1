"""Says in plain words why a message was taken for what it was taken for."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Final

MOST: Final = 3
LEAST_PART: Final = 0.15  # of what the strongest reason weighs
SHAPES: Final = {
    "asks": "it ends with a question mark",
    "has:code": "code comes with it",
    "has:coded": "it looks like code",
    "has:passage": "a passage comes with it",
    "has:quote": "something is quoted in it",
    "has:listed": "a list or data come with it",
    "has:prose": "a longer text comes with it",
    "has:file": "it names a file",
    "has:ref": "it names a task by its number",
    "has:url": "it names an address on the web",
    "wordless": "there are no words in it",
    "words<=1": "it is a single word",
    "words<=2": "it is only two words",
}
MARKS: Final = {f"Z{name.removeprefix('has:').upper()}": text for name, text in SHAPES.items() if name[:4] == "has:"}
OTHERWISE: Final = "its words are like those of other messages of this kind"


def reasons_of(spoken: Iterable[tuple[str, str, float]], meanings: Mapping[str, str]) -> tuple[str, ...]:
    """The strongest reasons, strongest first; there is always one.

    `spoken` are the kind, the term and the weight of what spoke for the label or, below zero, against it. `meanings`
    has the words for the terms of the kind "meanings".
    """
    weights: defaultdict[str, float] = defaultdict(float)
    for kind, term, part in spoken:
        if kind == "meanings":
            told = [said for name in term.split() if (said := meanings.get(name) or MARKS.get(name))]
        else:
            told = [said for name in term.split() if (said := SHAPES.get(name))] if kind == "shape" else []
        for said in told:
            weights[said] += part / len(told)
    ranked = sorted(((weight, said) for said, weight in weights.items() if weight > 0), reverse=True)
    strong = [said for weight, said in ranked[:MOST] if weight >= LEAST_PART * ranked[0][0]]
    return tuple(strong) or (OTHERWISE,)
