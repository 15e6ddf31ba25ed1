"""The process of one embedded model: loads it with llama.cpp, says on which port it answers, ends with its parent.

It reads one line of JSON (HostPlan) on standard input and writes one on standard output: {"port": …} or {"error": …}.
Then it waits for the end of its input, which comes when its parent closes the pipe or dies, however it dies.
"""

import json
import os
import sys
from dataclasses import asdict, dataclass
from typing import Any, Final

MISSING_OPENMP: Final = (
    "The system lacks the library libgomp.so.1; install it (Debian, Ubuntu: apt-get install libgomp1)."
)


@dataclass(frozen=True, slots=True)
class HostPlan:
    """How a model is to be loaded. `context_tokens` is a slot's own; `batch_tokens` bounds one step of prefill."""

    path: str
    context_tokens: int
    slots: int
    threads: int
    batch_tokens: int
    api_key: str

    def to_json(self) -> str:
        """One line for the process's input."""
        return json.dumps(asdict(self))


def main() -> int:
    """Entry of `python -m tale.models.embedded_host`."""
    plan = HostPlan(**json.loads(sys.stdin.readline()))
    answer = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # the engine may print; the answer must stand alone
    try:
        server = _load(plan)
    except (ImportError, OSError) as error:
        reason = MISSING_OPENMP if "libgomp" in str(error) else f"The engine cannot be started: {error}."
        return _say(answer, {"error": reason}, 1)
    except (RuntimeError, ValueError) as error:
        reason = (
            f"The engine cannot load {plan.path}: {error or 'no reason given'}; the file or its memory may be at fault."
        )
        return _say(answer, {"error": reason}, 1)
    _say(answer, {"port": int(str(server.listening_address).rsplit(":", 1)[-1])}, 0)
    while sys.stdin.read(1):
        continue
    # The engine's own threads need no farewell: the process ends, and its memory with it.
    os._exit(0)


def _say(answer: Any, message: dict[str, object], status: int) -> int:
    answer.write(json.dumps(message) + "\n")
    answer.flush()
    return status


def _load(plan: HostPlan) -> Any:
    # Before the import: with OpenMP's busy waiting one loaded core drops generation from 30 to 5 tokens/s.
    os.environ["OMP_WAIT_POLICY"] = "passive"
    import xllamacpp as untyped

    xllamacpp: Any = untyped  # a compiled module without type information
    parameters = xllamacpp.CommonParams()
    parameters.model.path = plan.path
    parameters.n_ctx = plan.context_tokens * plan.slots
    parameters.n_parallel = plan.slots
    parameters.n_batch = parameters.n_ubatch = plan.batch_tokens
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = plan.threads
    parameters.cache_ram_mib = 512
    parameters.hostnames, parameters.port = ["127.0.0.1"], 0
    parameters.api_keys = [plan.api_key]
    parameters.endpoint_slots, parameters.ui, parameters.verbosity = False, False, 0
    return xllamacpp.Server(parameters)


if __name__ == "__main__":
    sys.exit(main())
