"""Tools of the conformance suite that ask their client something before they answer."""

import json
from typing import Any, Final

from mcp.types import CreateMessageResult, ElicitResult, ListRootsResult, PromptMessage, TextContent

from tale.mcp.base_server import BaseMCPServer, ToolContext
from tale.mcp.tool_context import Answer, client_roots, completion_by_client, form

CAPITAL: Final = completion_by_client("What is the capital of France?", max_tokens=100)


def fields(**properties: dict[str, Any]) -> dict[str, Any]:
    """The schema of a form whose fields are all required."""
    return {"type": "object", "properties": properties, "required": list(properties)}


NAME: Final = form("What is your name?", fields(name={"type": "string"}))


def filled(answer: Answer) -> dict[str, Any]:
    """What was filled in."""
    assert isinstance(answer, ElicitResult)
    return dict(answer.content or {})


def told(answer: Answer) -> str:
    """What the client's model wrote."""
    assert isinstance(answer, CreateMessageResult)
    return answer.content.text if isinstance(answer.content, TextContent) else answer.content.type


def roots(answer: Answer) -> str:
    """The client's folders."""
    assert isinstance(answer, ListRootsResult)
    return ", ".join(str(root.uri) for root in answer.roots)


def described(answer: Answer) -> str:
    """A filled form in words."""
    assert isinstance(answer, ElicitResult)
    return f"action={answer.action}, content={json.dumps(answer.content)}"


async def test_sampling(prompt: str, context: ToolContext) -> TextContent:
    """Have the client's model answer a prompt.

    Args:
        prompt: The prompt.
    """
    answer = await context.ask(completion_by_client(prompt, max_tokens=100))
    return TextContent(text=f"LLM response: {told(answer)}")


async def test_elicitation(message: str, context: ToolContext) -> TextContent:
    """Ask the user for a name and an address.

    Args:
        message: The message to show.
    """
    username = {"type": "string", "description": "User's response"}
    email = {"type": "string", "description": "User's email address"}
    return TextContent(
        text=f"User response: {described(await context.ask(form(message, fields(username=username, email=email))))}"
    )


async def test_elicitation_sep1034_defaults(context: ToolContext) -> TextContent:
    """Ask with a default for each kind of field."""
    schema = fields(
        name={"type": "string", "default": "John Doe"},
        age={"type": "integer", "default": 30},
        score={"type": "number", "default": 95.5},
        status={"type": "string", "enum": ["active", "inactive", "pending"], "default": "active"},
        verified={"type": "boolean", "default": True},
    )
    answer = await context.ask(form("Please review these.", {**schema, "required": []}))
    return TextContent(text=f"Elicitation completed: {described(answer)}")


async def test_elicitation_sep1330_enums(context: ToolContext) -> TextContent:
    """Ask with every form of a choice."""
    options = ["option1", "option2", "option3"]
    titled = [
        {"const": f"value{number}", "title": f"{word} Option"}
        for number, word in enumerate(("First", "Second", "Third"), 1)
    ]
    choices = [
        {"const": f"value{number}", "title": f"{word} Choice"}
        for number, word in enumerate(("First", "Second", "Third"), 1)
    ]
    schema = fields(
        untitledSingle={"type": "string", "enum": options},
        titledSingle={"type": "string", "oneOf": titled},
        legacyEnum={
            "type": "string",
            "enum": ["opt1", "opt2", "opt3"],
            "enumNames": ["Option One", "Option Two", "Option Three"],
        },
        untitledMulti={"type": "array", "items": {"type": "string", "enum": options}},
        titledMulti={"type": "array", "items": {"anyOf": choices}},
    )
    return TextContent(text=f"Elicitation completed: {described(await context.ask(form('Choose.', schema)))}")


async def test_missing_capability(context: ToolContext) -> TextContent:
    """Need a client whose model can be asked."""
    return TextContent(text=told(await context.ask(CAPITAL)))


async def test_streaming_elicitation(context: ToolContext) -> TextContent:
    """Tell progress, then ask."""
    await context.progress(1, 2)
    return TextContent(text=str(filled(await context.ask(NAME))))


async def test_input_required_result_elicitation(context: ToolContext) -> TextContent:
    """Ask for a name and greet."""
    return TextContent(text=f"Hello, {filled(await context.ask(NAME, 'user_name')).get('name')}!")


async def test_input_required_result_sampling(context: ToolContext) -> TextContent:
    """Ask the client's model."""
    return TextContent(text=told(await context.ask(CAPITAL, "capital_question")))


async def test_input_required_result_list_roots(context: ToolContext) -> TextContent:
    """Ask for the client's folders."""
    return TextContent(text=f"Roots: {roots(await context.ask(client_roots(), 'client_roots'))}")


async def test_input_required_result_request_state(context: ToolContext) -> TextContent:
    """Ask for a confirmation; the state that comes back with it is checked on the way."""
    confirmed = filled(await context.ask(form("Please confirm", fields(ok={"type": "boolean"})), "confirm"))
    return TextContent(text=f"state-ok: {confirmed}")


async def test_input_required_result_tampered_state(context: ToolContext) -> TextContent:
    """As before; the suite spoils the state."""
    return await test_input_required_result_request_state(context)


async def test_input_required_result_multiple_inputs(context: ToolContext) -> TextContent:
    """Ask for three things at once."""
    greeting = completion_by_client("Generate a greeting", max_tokens=50)
    answers = await context.ask_all({"user_name": NAME, "greeting": greeting, "client_roots": client_roots()})
    said, name = told(answers["greeting"]), filled(answers["user_name"]).get("name")
    return TextContent(text=f"{said}, {name}, at {roots(answers['client_roots'])}")


async def test_input_required_result_multi_round(context: ToolContext) -> TextContent:
    """Ask for one thing after the other."""
    name = filled(await context.ask(form("Step 1: What is your name?", fields(name={"type": "string"})), "step1"))
    favourite = form("Step 2: What is your favorite color?", fields(color={"type": "string"}))
    color = filled(await context.ask(favourite, "step2"))
    return TextContent(text=f"{name.get('name')} likes {color.get('color')}.")


async def test_input_required_result_capabilities(context: ToolContext) -> TextContent:
    """Ask what the client answers, and nothing else."""
    questions = {"user_name": NAME, "capital_question": CAPITAL}
    asked = {key: question for key, question in questions.items() if context.client_answers(question)}
    return TextContent(text=", ".join(await context.ask_all(asked)))


async def test_input_required_result_prompt(context: ToolContext) -> list[PromptMessage]:
    """A prompt that asks first."""
    question = form("What context should the prompt use?", fields(context={"type": "string"}))
    given = filled(await context.ask(question, "user_context")).get("context")
    return [PromptMessage(role="user", content=TextContent(text=f"Use this context: {given}"))]


def add_asking_tools(server: BaseMCPServer) -> None:
    """Register them."""
    server.add_tool(test_sampling)
    server.add_tool(test_missing_capability)
    server.add_tool(test_streaming_elicitation)
    for tool in (test_elicitation, test_elicitation_sep1034_defaults, test_elicitation_sep1330_enums):
        server.add_tool(tool)
    for tool in (
        test_input_required_result_elicitation,
        test_input_required_result_sampling,
        test_input_required_result_list_roots,
        test_input_required_result_request_state,
        test_input_required_result_tampered_state,
        test_input_required_result_multiple_inputs,
        test_input_required_result_multi_round,
        test_input_required_result_capabilities,
    ):
        server.add_tool(tool)
    server.add_prompt(test_input_required_result_prompt)
