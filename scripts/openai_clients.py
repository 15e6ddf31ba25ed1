"""Has a client of OpenAI's API that others wrote work on a real gateway: the command line `llm`.

python scripts/openai_clients.py [--keep FOLDER]

It is installed into an environment of its own, and lists the models, asks with a stream and without, goes on with a
conversation, and is told of a model that is not there. OpenAI's own clients do the same in
tests/test_openai_api_clients.py.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from mcp_clients import LIMIT_S, Wrong, check, gateway

PACKAGE = "llm==0.36"
ALIAS, UNKNOWN = "home", "nobody"
ANSWER = "Hello world"
USAGE = "Token usage: 10 input, 2 output"


def installed(folder: Path) -> Path:
    """The client in an environment of its own, made if it is not there."""
    program = folder / "bin" / "llm"
    if not program.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        subprocess.run([str(folder / "bin" / "python"), "-m", "pip", "install", "-q", PACKAGE], check=True)
    return program


def configured(folder: Path, url: str) -> dict[str, str]:
    """The environment in which the client knows the gateway's models and nobody else's keys."""
    folder.mkdir()
    models = [
        {"model_id": ALIAS, "model_name": "tale-auto", "api_base": url},
        {"model_id": UNKNOWN, "model_name": "gpt-9", "api_base": url},
    ]
    (folder / "extra-openai-models.yaml").write_text(json.dumps(models), encoding="utf-8")  # which YAML is, too
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("OPENAI_", "LLM_"))}
    return {**clean, "LLM_USER_PATH": str(folder)}


def asked(program: Path, environment: dict[str, str], *arguments: str, good: int = 0) -> tuple[str, str]:
    """What the client prints, and what it complains of; raises Wrong when it ends in another way."""
    command = [str(program), *arguments]
    done = subprocess.run(
        command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=LIMIT_S
    )
    if done.returncode != good:
        raise Wrong(f"llm {' '.join(arguments)}: exit {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout.strip(), done.stderr.strip()


def visit(program: Path, environment: dict[str, str]) -> str:
    """All that the client is asked to do; what it saw."""
    listed, _ = asked(program, environment, "models", "list")
    check(f": {ALIAS}" in listed, f"the gateway's model is not listed: {listed}")
    ways: Sequence[Sequence[str]] = (("-m", ALIAS, "--usage"), ("-m", ALIAS, "--usage", "--no-stream"), ("--continue",))
    for way in ways:
        answer, beside = asked(program, environment, "prompt", "Say hello.", *way)
        check(answer == ANSWER, f"another answer came with {way}: {answer}")
        check("--usage" not in way or USAGE in beside, f"the usage is not told with {way}: {beside}")
    _, complaint = asked(program, environment, "prompt", "Say hello.", "-m", UNKNOWN, good=1)
    check("There is no model 'gpt-9' here" in complaint, f"it is not told what is wrong: {complaint}")
    return (
        f"{len(ways)} answers with their usage, streamed and whole, a conversation gone on with, a refusal understood"
    )


def main() -> int:
    """Print a line; 1 when the client fails."""
    parser = argparse.ArgumentParser(description="Has a client of OpenAI's API work on a real gateway.")
    parser.add_argument("--keep", type=Path, help="folder for the client's environment, used again when it is there")
    keep: Path | None = parser.parse_args().keep
    with tempfile.TemporaryDirectory(prefix="tale-clients-") as temporary, gateway() as url:
        program = installed((keep or Path(temporary) / "environment").resolve())
        environment = configured(Path(temporary) / "llm", f"{url.removesuffix('/mcp')}/v1")
        start = time.monotonic()
        try:
            told, mark = visit(program, environment), "ok"
        except (Wrong, subprocess.TimeoutExpired) as error:
            told, mark = str(error), "FAILED"
    print(f"llm ({mark}, {time.monotonic() - start:.1f} s): {told}", flush=True)
    return int(mark != "ok")


if __name__ == "__main__":
    sys.exit(main())
