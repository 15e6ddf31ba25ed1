"""What becomes of typed and of streamed text: where a message ends, which blocks of an answer are complete; pure."""

import re
from typing import Final

QUOTES: Final = '"""'
SLASH: Final = "/"
BACKSLASH: Final = "\\"
FENCE: Final = re.compile(r"^ {0,3}(`{3,}|~{3,})")
ITEM: Final = re.compile(r"[-*+](\s|$)|\d{1,9}([.)]|$)")  # or the beginning of one


def continued(text: str) -> str | None:
    r"""The text with the new line that Enter begins at its end: after a backslash, and between triple quotes.

    None where Enter ends the message.

    >>> continued("Write a\\"), continued('\"\"\"One\"\"\"'), continued("Hello")
    ('Write a\n', None, None)
    """
    typed = text.strip()
    if typed.startswith(QUOTES):
        closed = len(typed) >= 2 * len(QUOTES) and typed.endswith(QUOTES)
        return None if closed else f"{text}\n"
    return f"{text.removesuffix(BACKSLASH)}\n" if text.endswith(BACKSLASH) else None


def message_in(text: str) -> str:
    r"""What is said by what was typed: without white space around it, and without triple quotes.

    >>> message_in('  \"\"\"One\nTwo\"\"\" '), message_in(" Hello ")
    ('One\nTwo', 'Hello')
    """
    typed = text.strip()
    if typed.startswith(QUOTES) and continued(typed) is None:
        return typed[len(QUOTES) : -len(QUOTES)].strip()
    return typed


def command_in(text: str) -> tuple[str, str] | None:
    """The command in a message and what follows it; None for a message. Two slashes say one.

    >>> command_in("/result 2"), command_in("/help"), command_in("//usr/bin is full"), command_in("Hello")
    (('result', '2'), ('help', ''), None, None)
    """
    if not text.startswith(SLASH) or text.startswith(2 * SLASH):
        return None
    name, _, rest = text[1:].partition(" ")
    return name.strip().lower(), rest.strip()


def said_in(text: str) -> str:
    """The message without the slash that keeps it from being a command.

    >>> said_in("//usr/bin is full")
    '/usr/bin is full'
    """
    return text.removeprefix(SLASH) if text.startswith(2 * SLASH) else text


def complete_length(text: str) -> int:
    r"""How many characters of a text in Markdown are blocks that nothing to come can change.

    A block ends at an empty line outside fenced code, once the next block has begun and is no part of the same list.

    >>> text = "One\n\n```\na\n\nb\n```\n\nTwo"
    >>> text[: complete_length(text)]
    'One\n\n```\na\n\nb\n```\n\n'
    >>> complete_length("- one\n\n- two\n\n")
    0
    """
    complete = position = 0
    fence = ""
    in_list = begins = False
    for line in text.splitlines(keepends=True):
        if fence:
            fence = "" if line.strip().startswith(fence) and not line.strip().strip(fence[0]) else fence
        else:
            item = ITEM.match(line) is not None
            if begins and line.strip() and not line[0].isspace() and not (in_list and item):
                complete = position
            if complete == position:
                in_list = item
            if opening := FENCE.match(line):
                fence = opening[1]
        begins = not fence and not line.strip()
        position += len(line)
    return complete
