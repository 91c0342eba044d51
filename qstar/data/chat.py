"""Conversations in a chat model's own form, by the Jinja template that comes with its tokenizer.

A template is a program of strangers: it runs in Jinja's immutable sandbox, where it reads what it is given and writes
text, and can do nothing else.
"""

import datetime
import json
from collections.abc import Sequence

import jinja2
from jinja2 import sandbox

from qstar.tasks.conversation import Message

FAILURES = (
    jinja2.TemplateError,
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)
"""What a template itself may raise."""


def render(template: str, messages: Sequence[Message], tokens: dict[str, str], reply: bool) -> str:
    """The text of a conversation.

    Args:
        tokens: spellings that templates ask for, bos_token and eos_token.
        reply: the beginning of the assistant's reply is at the end.

    Raises ValueError for a template that is invalid, that fails, or that refuses these messages.
    """
    try:
        return _environment().from_string(template).render(
            messages=[dict(message) for message in messages], add_generation_prompt=reply, tools=None, documents=None,
            **tokens,
        )  # fmt: skip
    except FAILURES as error:
        roles = ", ".join(message["role"] for message in messages)
        raise ValueError(
            f"the tokenizer's chat template does not take messages of the roles {roles}: {str(error) or type(error)}"
        ) from error


def _environment() -> sandbox.ImmutableSandboxedEnvironment:
    """As the authors of templates expect it."""
    environment = sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = lambda value, indent=None: json.dumps(value, ensure_ascii=False, indent=indent)
    environment.globals |= {
        "raise_exception": _refuse,
        "strftime_now": lambda form: datetime.date.today().strftime(form),
    }
    return environment


def _refuse(message: str) -> None:
    raise jinja2.TemplateError(message)
