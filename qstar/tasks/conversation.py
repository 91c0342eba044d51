"""Conversations as prompts: messages spelled as one text, so that they are passed around like any prompt.

A message is {"role": "system", "user" or "assistant", "content": text}, as chat models' templates take them.
"""

import json
from collections.abc import Sequence

from qstar.files import Json

Message = dict[str, str]
MARK = "\x1emessages "  # before the JSON of a conversation: no other text begins with this control character
ROLES = ("system", "user", "assistant")


def spelled(messages: Sequence[Message]) -> str:
    """A conversation as a prompt."""
    return MARK + json.dumps(list(messages), ensure_ascii=False)


def parsed(prompt: str) -> list[Message] | None:
    """The messages of a prompt that is a conversation; None for other text."""
    if not prompt.startswith(MARK):
        return None
    try:
        messages = json.loads(prompt.removeprefix(MARK))
        return checked(messages, "", messages[-1]["role"])
    except (ValueError, LookupError, TypeError, RecursionError):  # a text from outside that begins with the mark
        return None


def checked(messages: Json, where: str, last: str, field: str = "messages") -> list[Message]:
    """The messages in this field of a record, the last of which is of the role `last`.

    Raises ValueError with place, field and value.
    """
    if not isinstance(messages, list) or not messages:
        raise ValueError(f"{where}: {field} is {str(messages)[:60]!r}, expected a list of messages")
    for number, message in enumerate(messages):
        texts = isinstance(message, dict) and isinstance(message.get("content"), str)
        if not texts or message.get("role") not in ROLES:
            raise ValueError(
                f"{where}: {field}[{number}] is {str(message)[:80]}, expected a role ({', '.join(ROLES)}) and a "
                "content, both texts"
            )
    if messages[-1]["role"] != last:
        raise ValueError(f"{where}: the last message of {field} is of role {messages[-1]['role']!r}, expected {last!r}")
    return [{"role": message["role"], "content": message["content"]} for message in messages]
