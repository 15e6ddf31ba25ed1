"""What a token of the small model costs, where one of the task model costs 1: as many parameters as it has fewer."""

import re
from collections.abc import Mapping
from typing import Final

from tale.learning.engine_route import SMALL_COST

# Billions of parameters by their makers, of the models that tale takes where nobody chose any; the names are rounded.
PARAMETERS: Final[Mapping[str, float]] = {
    "qwen2.5-coder:0.5b": 0.494,
    "qwen2.5-coder:1.5b": 1.544,
    "qwen2.5:7b": 7.62,
    "qwen2.5:14b": 14.77,
}
IN_NAME: Final = re.compile(r"(?<![\w.])(\d+(?:\.\d+)?)([bm])(?![a-z0-9])")
DIGITS: Final = 3


def small_cost(ux_model: str | None, task_model: str | None, *, stated: float | None = None) -> float:
    """The cost by the names of both models, or as it is stated; SMALL_COST where neither tells.

    >>> small_cost("qwen2.5:7b", "qwen2.5:14b"), small_cost("Llama-3.2-1B-Instruct", "Llama-3.1-8B-Instruct")
    (0.516, 0.125)
    >>> small_cost("mini", "large"), small_cost("mini", "large", stated=0.1), small_cost("large", "large", stated=0.1)
    (0.32, 0.1, 1.0)
    """
    if ux_model is not None and ux_model == task_model:
        return 1.0
    if stated is not None:
        return stated
    small, large = (None if name is None else parameters_of(name) for name in (ux_model, task_model))
    return round(small / large, DIGITS) if small and large else SMALL_COST


def parameters_of(name: str) -> float | None:
    """Billions of parameters of a model; None where its name does not tell.

    >>> parameters_of("smollm2:135m"), parameters_of("mixtral:8x7b"), parameters_of("gpt-4o")
    (0.135, None, None)
    """
    if name in PARAMETERS:
        return PARAMETERS[name]
    told = IN_NAME.search(name.casefold())
    return None if told is None else float(told[1]) / (1 if told[2] == "b" else 1_000)
