"""OpenAI's requests as they come in: read, checked, and turned into what the pool takes."""

from typing import Annotated, Any, Final, Literal, TypeVar, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from tale.exceptions import ValidationException
from tale.records import CallContext, ChatRequest, Message, ToolCall

LARGEST_INTEGER: Final = 2**31 - 1
LARGEST_SEED: Final = 2**63 - 1
MOST_TEXTS: Final = 2_048  # as OpenAI has it
PASSED_ON: Final = frozenset(  # to the engine as they are; what else a client sends is ignored
    {
        "chat_template_kwargs",
        "frequency_penalty",
        "logit_bias",
        "logprobs",
        "min_p",
        "parallel_tool_calls",
        "presence_penalty",
        "reasoning_effort",
        "repeat_penalty",
        "top_k",
        "top_logprobs",
    }
)

B = TypeVar("B", bound=BaseModel)
Json = dict[str, Any]


class _TextPart(BaseModel):
    type: Literal["text"]
    text: str


class _ImageAddress(BaseModel):
    url: str
    detail: str | None = None


class _ImagePart(BaseModel):
    type: Literal["image_url"]
    image_url: _ImageAddress


class _AudioPart(BaseModel):
    type: Literal["input_audio"]
    input_audio: Json


class _RefusalPart(BaseModel):
    type: Literal["refusal"]
    refusal: str


ContentPart = Annotated[_TextPart | _ImagePart | _AudioPart | _RefusalPart, Field(discriminator="type")]


class _Function(BaseModel):
    name: str
    arguments: str = ""


class _ToolCall(BaseModel):
    id: str
    type: Literal["function"] = "function"
    function: _Function


class _Message(BaseModel):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[ContentPart] | None = None
    name: str | None = None
    tool_calls: list[_ToolCall] | None = None
    tool_call_id: str | None = None

    def told(self, place: str) -> Message:
        if self.content is None and not (self.role == "assistant" and self.tool_calls):
            raise ValidationException(f"The request's {place}.content: Field required.", {"param": f"{place}.content"})
        role = "system" if self.role == "developer" else self.role  # the same under two names
        calls = tuple(ToolCall(call.id, call.function.name, call.function.arguments) for call in self.tool_calls or ())
        parts = self.content if isinstance(self.content, list) else []
        text = self.content if isinstance(self.content, str) else _text_of(parts)
        given: tuple[Json, ...] = ()
        if any(not isinstance(part, _TextPart | _RefusalPart) for part in parts):
            given = tuple(part.model_dump(exclude_unset=True) for part in parts)
        return Message(role, text, given, calls, self.tool_call_id, self.name)


class _Format(BaseModel):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: Json | None = None


class _StreamOptions(BaseModel):
    include_usage: bool = False


class _ToolFunction(BaseModel):
    model_config = ConfigDict(extra="allow")

    name: str


class _Tool(BaseModel):
    model_config = ConfigDict(extra="allow")

    type: Literal["function"]
    function: _ToolFunction


class ChatBody(BaseModel):
    """A request for a chat completion."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)

    model: str = ""
    messages: list[_Message] = Field(min_length=1)
    max_tokens: int | None = Field(None, ge=1, le=LARGEST_INTEGER)
    max_completion_tokens: int | None = Field(None, ge=1, le=LARGEST_INTEGER)
    n: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = Field(None, ge=-LARGEST_SEED, le=LARGEST_SEED)
    stop: list[str] | str | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    response_format: _Format | None = None
    tools: list[_Tool] | None = None
    tool_choice: Literal["none", "auto", "required"] | Json | None = None
    tale: CallContext | None = None  # of tale's own roles

    def request(self) -> ChatRequest:
        """What the pool is asked for. Raises ValidationException."""
        if self.n not in (None, 1):
            raise ValidationException("The request's n: one answer a request is given; send it again.", {"param": "n"})
        stop = [self.stop] if isinstance(self.stop, str) else self.stop or []
        wanted = self.response_format
        return ChatRequest(
            model=self.model,
            messages=tuple(message.told(f"messages.{number}") for number, message in enumerate(self.messages)),
            max_tokens=self.max_completion_tokens or self.max_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            seed=self.seed,
            stop=tuple(stop),
            json_schema=_schema_of(wanted) if wanted and wanted.type == "json_schema" else None,
            json_object=wanted is not None and wanted.type == "json_object",
            tools=tuple(tool.model_dump(exclude_unset=True) for tool in self.tools or ()),
            tool_choice=self.tool_choice,
            options={name: value for name, value in (self.model_extra or {}).items() if name in PASSED_ON},
        )


class EmbeddingBody(BaseModel):
    """A request for vectors; what else a client sends is ignored."""

    model_config = ConfigDict(extra="ignore")

    model: str = ""
    input: list[str] | str = Field(min_length=1)
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = None
    tale: CallContext | None = None

    @field_validator("input", mode="before")
    @classmethod
    def _refuse_tokens(cls, given: object) -> object:
        if not isinstance(given, list):
            return given
        entries = cast("list[object]", given)
        if any(isinstance(entry, int | list) for entry in entries):
            raise ValueError("text is needed here, one string or a list of them; arrays of tokens are not taken")
        if len(entries) > MOST_TEXTS:
            raise ValueError(f"at most {MOST_TEXTS:,} texts are taken at once")
        return entries

    def texts(self) -> list[str]:
        """What is to be embedded."""
        return [self.input] if isinstance(self.input, str) else self.input


def read_form(body: bytes, form: type[B]) -> B:
    """The body as a form. Raises ValidationException, with the place at fault as `param`."""
    try:
        return form.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        message = f"The request's {where or 'body'}: {first['msg'].removeprefix('Value error, ')}."
        raise ValidationException(message, {"param": where or None}) from error


def _text_of(parts: list[ContentPart]) -> str:
    texts: list[str] = []
    for part in parts:
        match part:
            case _TextPart(text=text) | _RefusalPart(refusal=text):
                texts.append(text)
            case _:
                pass
    return "\n".join(texts)


def _schema_of(wanted: _Format) -> Json:
    schema: object = (wanted.json_schema or {}).get("schema")
    if not isinstance(schema, dict):
        raise ValidationException(
            "The request's response_format.json_schema.schema: a JSON Schema is needed there.",
            {"param": "response_format.json_schema.schema"},
        )
    return cast("Json", schema)
