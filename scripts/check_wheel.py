"""Checks that a wheel of tale holds every file of tale, and that its commands and its dashboard work by themselves.

It is installed into a new environment, to which the one that runs this lends the dependencies: what `tale demo` loads
there, `tale dashboard --web` has to show.

python scripts/check_wheel.py dist/tale-0.1.0-py3-none-any.whl
"""

import asyncio
import os
import socket
import subprocess
import sys
import sysconfig
import tempfile
import venv
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import aiohttp

ROOT = Path(__file__).parent.parent
PLACES = {"tale": "tale", "dashboard": "tale/dashboard"}  # folders of which a wheel holds all, and where
MUST_HOLD = (
    "tale/py.typed",
    "tale/storage/migrations/env.py",
    "tale/conversation/phrases.toml",
    "tale/dashboard/streamlit_app.py",
    "tale/dashboard/pages.py",
    "tale/dashboard/.streamlit/config.toml",
    "tale/learning/data/intent_words.txt",
    "tale/learning/data/intents/near_misses.jsonl",
    "tale/learning/data/priors/priors.jsonl",
    "tale/learning/data/priors/variants.jsonl",
    "tale/cli/data/sample_history.parquet",
)
LICENCES = ("LICENSE", "NOTICE")
PROBE = "import sys, tale; sys.exit(None if tale.__file__.startswith(sys.prefix) else tale.__file__)"
SHOWN = "metric"  # a card of Overview
ANSWER_LIMIT_S = 60.0


def missing_from(wheel: zipfile.ZipFile) -> list[str]:
    """What the folders hold and the wheel does not, bytecode apart."""
    held = set(wheel.namelist())
    wanted = {
        f"{target}/{path.relative_to(ROOT / source).as_posix()}"
        for source, target in PLACES.items()
        for path in (ROOT / source).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    licences = [name for name in LICENCES if not any(path.endswith(f"/licenses/{name}") for path in held)]
    return sorted((wanted | set(MUST_HOLD)) - held) + licences


def works_alone(wheel: Path) -> bool:
    """Whether its commands and its dashboard work far from the source tree; says what does not."""
    with tempfile.TemporaryDirectory(prefix="tale-wheel-") as name:
        folder = Path(name)
        programs, environment = installed(wheel, folder / "venv"), environment_for(folder / "home")
        try:
            for command in (["python", "-c", PROBE], ["tale", "demo"]):
                subprocess.run([programs / command[0], *command[1:]], cwd=folder, env=environment, check=True)
            demo = {**environment, "TALE_HOME": str(folder / "home/demo")}
            with dashboard(programs / "tale", demo) as url:
                shown = asyncio.run(shown_at(url))
        except (OSError, subprocess.CalledProcessError, aiohttp.ClientError, TimeoutError) as error:
            print(f"does not work alone: {error!r}")
            return False
    if SHOWN not in shown or "exception" in shown:
        print(f"the dashboard shows no figures, only: {', '.join(sorted(shown)) or 'nothing'}")
    return SHOWN in shown and "exception" not in shown


def installed(wheel: Path, folder: Path) -> Path:
    """Where the programs are of a new environment with the wheel and the dependencies that are here."""
    venv.create(folder, symlinks=True)
    python = folder / "bin/python"
    quiet = ("--quiet", "--no-input", "--disable-pip-version-check")
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", *quiet, "--no-index", "--no-deps"]
    subprocess.run([*command, str(wheel.absolute())], check=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    lent = dict.fromkeys(sysconfig.get_path(kind) for kind in ("purelib", "platlib"))
    (packages / "lent.pth").write_text("".join(f"{path}\n" for path in lent))
    return folder / "bin"


def environment_for(home: Path) -> Mapping[str, str]:
    """The variables of this process but those that would lead to another tale, or to a browser."""
    led = ("TALE_", "PYTHON", "COVERAGE_")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(led)}
    return {**clean, "BROWSER": "", "DISPLAY": "", "WAYLAND_DISPLAY": "", "TALE_HOME": str(home)}


@contextmanager
def dashboard(program: Path, environment: Mapping[str, str]) -> Iterator[str]:
    """Its address; it answers. Raises OSError where it does not start."""
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
    command = [program, "dashboard", "--web", "--port", str(port)]
    with subprocess.Popen(command, cwd=program.parent, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            if "Ctrl-C ends it" not in process.stdout.readline():
                raise OSError("tale dashboard --web did not start")
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


async def shown_at(url: str) -> set[str]:
    """What the first page is made of, as Streamlit calls it: asked for as a browser asks."""
    from streamlit.proto.BackMsg_pb2 import BackMsg
    from streamlit.proto.ForwardMsg_pb2 import ForwardMsg

    question, found = BackMsg(), set[str]()
    question.rerun_script.query_string = "window=24h"
    async with aiohttp.ClientSession(raise_for_status=True) as http, asyncio.timeout(ANSWER_LIMIT_S):
        for path in ("/_stcore/health", "/"):
            (await http.get(f"{url}{path}")).close()
        async with http.ws_connect(f"{url}/_stcore/stream", max_msg_size=0) as stream:
            await stream.send_bytes(question.SerializeToString())
            async for told in stream:
                message = ForwardMsg.FromString(told.data)
                found.add(message.delta.new_element.WhichOneof("type") or message.WhichOneof("type"))
                if message.HasField("script_finished") and message.script_finished != message.FINISHED_EARLY_FOR_RERUN:
                    break
    return found


def main() -> int:
    """Print what is wrong; 0 when nothing is."""
    path = Path(sys.argv[1])
    with zipfile.ZipFile(path) as wheel:
        files, missing = len(wheel.namelist()), missing_from(wheel)
    for name in missing:
        print(f"not in the wheel: {name}")
    alone = not missing and works_alone(path)
    print(f"{path.name}: {files} files, {'complete' if alone else 'NOT complete'}")
    return 0 if alone else 1


if __name__ == "__main__":
    sys.exit(main())
