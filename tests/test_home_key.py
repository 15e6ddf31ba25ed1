"""The key of a home lets its own commands in, and nobody else."""

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from tale.exceptions import ServerException
from tale.orchestration.home_key import HOME_KEY_FILE, made_key, own_key
from tale.settings import Settings, load_settings


def settings_of(home: Path, **chosen: object) -> Settings:
    return load_settings({"home": str(home), **chosen}, environment={}, folder=home)


def test_the_key_is_made_once_and_read_by_its_owner_alone(tmp_path: Path) -> None:
    settings = settings_of(tmp_path)
    assert own_key(settings, "gateway") is None
    key = made_key(settings)
    assert made_key(settings) == key == own_key(settings, "gateway")
    files = list((tmp_path / "run").iterdir())
    assert [path.name for path in files] == [HOME_KEY_FILE]
    assert stat.S_IMODE(files[0].stat().st_mode) == 0o600


def test_those_who_make_it_at_once_make_one(tmp_path: Path) -> None:
    settings = settings_of(tmp_path)
    (tmp_path / "run").mkdir()
    barrier = Barrier(8)

    def make() -> str:
        barrier.wait()
        return made_key(settings)

    with ThreadPoolExecutor(8) as pool:
        made = {each.result() for each in [pool.submit(make) for _ in range(8)]}
    assert len(made) == 1
    assert [path.name for path in (tmp_path / "run").iterdir()] == [HOME_KEY_FILE]


def test_the_configured_key_goes_first(tmp_path: Path) -> None:
    made_key(settings_of(tmp_path))
    assert own_key(settings_of(tmp_path, api_key="configured"), "gateway") == "configured"


def test_a_server_elsewhere_is_not_told_the_key_of_this_home(tmp_path: Path) -> None:
    made_key(settings_of(tmp_path))
    away = settings_of(tmp_path, gateway_url="http://gpu-box:8080")
    assert own_key(away, "gateway") is None
    assert own_key(away, "ux_agent") is not None


def test_a_key_that_cannot_be_made_is_told_with_its_path(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("in the way")
    with pytest.raises(ServerException, match=r"The key of this home, .*owner\.key, cannot be read or made"):
        made_key(settings_of(tmp_path))
