"""Conversations in a chat model's own form, by the Jinja template that comes with its tokenizer.

A template is a program of strangers: it runs in Jinja's immutable sandbox, where it reads what it is given and writes
text, and can do nothing else; and in a process of its own, whose time and memory are bounded.
"""

import datetime
import functools
import json
from collections.abc import Sequence
from typing import ClassVar

import jinja2
import jinja2.ext
from jinja2 import sandbox

from qstar.tasks.conversation import Message
from qstar.tasks.grading import worker

SECONDS, MEMORY_BYTES = 2.0, 2**30  # of one conversation
LONGEST = 1 << 24  # characters of its text
SHOWN = 500  # characters of what a template raises


def render(template: str, messages: Sequence[Message], tokens: dict[str, str], reply: bool) -> str:
    """The text of a conversation.

    Args:
        tokens: spellings that templates ask for, bos_token and eos_token.
        reply: the beginning of the assistant's reply is at the end.

    Raises ValueError for a template that is invalid, that fails, or that refuses these messages.
    """
    asked = {"messages": list(messages), "add_generation_prompt": reply, "tools": None, "documents": None, **tokens}
    answer = renderer()(template, json.dumps(asked))
    if answer.status == "done" and answer.text:
        return answer.text
    if answer.status == "done":
        raise ValueError("the tokenizer's chat template writes nothing: expected the text of a conversation")
    too_much = f"it does not end within {SECONDS:g} s and {MEMORY_BYTES >> 20} MiB"
    why = too_much if answer.text == worker.ENDED else answer.text
    roles = [message["role"] for message in messages]
    named = ", ".join(roles[:8]) + (", ..." if len(roles) > 8 else "")
    raise ValueError(f"the tokenizer's chat template does not take messages of the roles {named}: {why[:SHOWN]}")


@functools.cache
def renderer() -> worker.Worker:
    return worker.Lasting("qstar.data.chat:rendered", SECONDS, MEMORY_BYTES)


# --- in the process of its own ------------------------------------------------------------------------------------


def prepare() -> None:
    _environment()


def rendered(template: str, asked: str) -> str:
    text = _compiled(template).render(**json.loads(asked))
    if len(text) > LONGEST:
        raise ValueError(f"it writes {len(text):,} characters, expected at most {LONGEST:,}")
    return text


@functools.lru_cache(8)
def _compiled(template: str) -> jinja2.Template:
    return _environment().from_string(template)


@functools.cache
def _environment() -> sandbox.ImmutableSandboxedEnvironment:
    """As the authors of templates expect it."""
    environment = sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _Generation]
    )
    environment.filters["tojson"] = _as_json
    environment.globals |= {
        "raise_exception": _refuse,
        "strftime_now": lambda form: datetime.date.today().strftime(form),
    }
    return environment


class _Generation(jinja2.ext.Extension):
    """{% generation %}, around what the assistant writes: it marks tokens in transformers, and is its contents here."""

    tags: ClassVar[set[str]] = {"generation"}

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        line = next(parser.stream).lineno
        return jinja2.nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


def _as_json(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _refuse(message: str) -> None:
    raise jinja2.TemplateError(message)
