"""The engine is chosen at the start: what is configured, else Ollama if it answers, else the embedded one."""

from pathlib import Path

import pytest
from fakes.engine_script import EngineScript
from fakes.ollama_server import OllamaServer, served
from fakes.openai_server import OpenAIServer

from tale.exceptions import ModelException
from tale.models.choice import Choice, choose_backend
from tale.settings import load_settings


async def choose(tmp_path: Path, **overrides: object) -> Choice:
    choice = await choose_backend(load_settings({"home": str(tmp_path), **overrides}, environment={}))
    await choice.backend.close()
    return choice


async def test_an_ollama_that_answers_is_used(tmp_path: Path) -> None:
    async with served(OllamaServer()) as ollama:
        choice = await choose(tmp_path, ollama_url=ollama.url)
        assert (choice.backend.provider, choice.url) == ("ollama", ollama.url)
        assert (choice.ux_model, choice.task_model) == ("qwen2.5:7b", "qwen2.5:14b")
        assert choice.reason == f"Ollama answers at {ollama.url}."


async def test_without_ollama_the_embedded_models_are_used(tmp_path: Path) -> None:
    choice = await choose(tmp_path, ollama_url="http://127.0.0.1:9")
    assert choice.backend.provider == "embedded"
    assert (choice.ux_model, choice.task_model) == ("qwen2.5-coder:0.5b", "qwen2.5-coder:1.5b")
    assert choice.reason == "No Ollama answers at http://127.0.0.1:9; using the embedded models."


async def test_what_answers_but_is_no_ollama_is_not_taken_for_one(tmp_path: Path) -> None:
    async with served(OpenAIServer()) as other:
        assert (await choose(tmp_path, ollama_url=other.url)).backend.provider == "embedded"


async def test_a_configured_engine_goes_first(tmp_path: Path) -> None:
    async with served(OpenAIServer(EngineScript(models=["m1", "m2"]))) as engine:
        choice = await choose(tmp_path, openai_url=engine.base_url)
        assert (choice.backend.provider, choice.ux_model, choice.task_model) == ("openai", "m1", "m1")
        named = await choose(tmp_path, backend="openai", openai_url=engine.base_url, task_model="m2")
        assert (named.ux_model, named.task_model, named.slots) == ("m2", "m2", 64)
        engine.script.models.clear()
        with pytest.raises(ModelException, match="No model is served at"):
            await choose(tmp_path, openai_url=engine.base_url)


async def test_an_engine_that_is_not_there_must_have_its_models_named(tmp_path: Path) -> None:
    with pytest.raises(ModelException, match="ux_model"):
        await choose(tmp_path, openai_url="http://127.0.0.1:9/v1")
    assert (await choose(tmp_path, openai_url="http://127.0.0.1:9/v1", ux_model="m")).task_model == "m"


async def test_several_engines_are_one_backend(tmp_path: Path) -> None:
    async with served(OpenAIServer(EngineScript(models=["m"]))) as engine:
        urls = f"http://127.0.0.1:9/v1,{engine.base_url}"
        choice = await choose(tmp_path, openai_url=urls)
        assert (choice.ux_model, choice.task_model, choice.url) == ("m", "m", urls.replace(",", ", "))
        assert choice.reason == f"The engines at http://127.0.0.1:9/v1 and {engine.base_url} are configured."
    with pytest.raises(ModelException, match=r"engines at http://127\.0\.0\.1:9/v1, http.* do not answer; start one"):
        await choose(tmp_path, openai_url=urls)


async def test_no_password_is_told_with_an_address(tmp_path: Path) -> None:
    for urls in ("http://ann:k3y@127.0.0.1:9/v1", "http://ann:k3y@127.0.0.1:9/v1,http://127.0.0.1:10/v1"):
        choice = await choose(tmp_path, openai_url=urls, ux_model="m")
        assert "k3y" not in f"{choice.reason} {choice.url}"


async def test_one_of_several_ollamas_that_answers_is_enough(tmp_path: Path) -> None:
    async with served(OllamaServer()) as ollama:
        choice = await choose(tmp_path, ollama_url=f"http://127.0.0.1:9,{ollama.url}")
        assert (choice.backend.provider, choice.reason) == ("ollama", f"Ollama answers at {ollama.url}.")
    choice = await choose(tmp_path, ollama_url="http://127.0.0.1:9,http://127.0.0.1:10")
    assert choice.reason == "No Ollama answers at http://127.0.0.1:9, http://127.0.0.1:10; using the embedded models."


async def test_a_backend_can_be_insisted_on(tmp_path: Path) -> None:
    assert (await choose(tmp_path, backend="ollama", ux_model="a", task_model="a")).ux_model == "a"
    assert (await choose(tmp_path, backend="embedded")).reason == "The embedded models are configured."
