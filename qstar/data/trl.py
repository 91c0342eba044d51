"""TRL's formats of training data: records with texts, or with conversations in place of them.

    prompt, completion            supervised fine-tuning; with `label`, unpaired preferences
    prompt, chosen, rejected      preferences; without `prompt`, that is what both have in common
    prompt, completions, labels   solutions in steps
    messages                      a conversation that ends with a reply

Each text of the first two may be a list of messages, {"role": ..., "content": ...} each: the prompt ends with the
user's, a completion is the assistant's reply. A language model's chat template writes them (`data/tokenizer.py`).
"""

from collections.abc import Mapping
from typing import Any

from qstar.files import Json
from qstar.tasks import conversation

Record = dict[str, Any]
COMPLETIONS = ("completion", "chosen", "rejected")


def preference(chosen: Mapping[str, Any], rejected: Mapping[str, Any]) -> Record:
    """Two examples of one prompt, the better one first, as a record, with the ids of a completion that has any."""
    return {"prompt": chosen["prompt"]} | _side("chosen", chosen) | _side("rejected", rejected)


def _side(name: str, example: Mapping[str, Any]) -> Record:
    ids = {f"{name}_ids": example["completion_ids"]} if "completion_ids" in example else {}
    return {name: example["completion"]} | ids


def texts(record: Record, where: str) -> Record:
    """The record with a text for each conversation: of a prompt that of `conversation.spelled`, of a reply its content.

    Other fields, and fields of other types, are left as they are.

    Raises ValueError for messages that are damaged, for replies of several messages, and for a conversation beside a
    plain text.
    """
    record = _with_prompt(record, where)
    conversations = [name for name in ("prompt", *COMPLETIONS) if isinstance(record.get(name), list)]
    plain = [name for name in ("prompt", *COMPLETIONS) if isinstance(record.get(name), str)]
    if conversations and "prompt" not in conversations:
        raise ValueError(
            f"{where}: {conversations[0]} is a list and prompt is not: expected messages in both, or texts"
        )
    if set(plain) & {*COMPLETIONS} and conversations:
        raise ValueError(f"{where}: prompt is a list and {plain[0]} is not: expected messages in both, or texts")
    read = {name: _reply(record[name], where, name) for name in conversations if name != "prompt"}
    if conversations:
        read["prompt"] = conversation.spelled(conversation.checked(record["prompt"], where, "user", "prompt"))
    return record | read


def _with_prompt(record: Record, where: str) -> Record:
    """The record with a prompt of its own, where it is within the messages or in both completions of a pair."""
    if "messages" in record:
        *prompt, reply = conversation.checked(record["messages"], where, "assistant")
        return record | {"prompt": prompt, "completion": [reply]}
    chosen, rejected = record.get("chosen"), record.get("rejected")
    if "prompt" in record or type(chosen) is not type(rejected) or not isinstance(chosen, str | list):
        return record
    pairs = enumerate(zip(chosen, rejected, strict=False))
    shared = chosen[: next((i for i, (mine, theirs) in pairs if mine != theirs), min(len(chosen), len(rejected)))]
    if isinstance(shared, str) and shared.endswith(" "):  # the space before a word belongs to its token
        shared = shared[:-1]
    if not shared:
        raise ValueError(f"{where} has no prompt, and chosen and rejected begin differently: give prompt")
    return record | {"prompt": shared, "chosen": chosen[len(shared) :], "rejected": rejected[len(shared) :]}


def _reply(messages: Json, where: str, field: str) -> str:
    replies = conversation.checked(messages, where, "assistant", field)
    if len(replies) != 1:
        raise ValueError(f"{where}: {field} has {len(replies)} messages, expected one, the assistant's reply")
    return replies[0]["content"]


# --- to TRL -------------------------------------------------------------------------------------------------------


def written(prompt: str, chat: bool, completions: Mapping[str, str], **others: Json) -> Record:
    """The record of a prompt and these completions by field, in messages where the prompt is a conversation.

    Args:
        chat: the prompt is a user's message even where it is a text.
    """
    messages = conversation.parsed(prompt) or ([{"role": "user", "content": prompt}] if chat else None)
    if messages is None:
        return {"prompt": prompt, **completions, **others}
    replies = {name: [{"role": "assistant", "content": text}] for name, text in completions.items()}
    return {"prompt": messages, **replies, **others}
