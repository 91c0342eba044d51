"""Conversations in a tokenizer's chat template."""

import json

import pytest
from test_marks import saved
from tokenizers import pre_tokenizers

from qstar.data import chat, examples
from qstar.data import tokenizer as tokenizers
from qstar.data.examples import ExamplesText
from qstar.data.marks import Marks
from qstar.models.formats import companions
from qstar.tasks import conversation
from qstar.tasks.jsonl import Jsonl

LETTERS = {letter: id for id, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
START, END, OTHER = 256, 257, 258
SPECIAL = ["<|im_start|>", "<|im_end|>", "<|endoftext|>"]
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] | trim + '<|im_end|>'"
    " + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
VOCAB = LETTERS | {token: 256 + i for i, token in enumerate(SPECIAL)}
PLAIN = tokenizers.byte_level_bpe(VOCAB, [], SPECIAL, "gpt-2")
MODEL = PLAIN.marked(Marks(ends=(OTHER, END), template=CHATML))
ids = PLAIN.encode
HELLO = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hello?"}]
ASKED = [START, *ids("system\nBe kind."), END, *ids("\n"), START, *ids("user\nHello?"), END, *ids("\n"), START]
ASKED += ids("assistant\n")


def test_a_conversation_is_encoded_as_its_template_writes_it():
    assert MODEL.encode_prompt(conversation.spelled(HELLO)) == ASKED


def test_a_reply_ends_as_the_template_ends_it():
    assert MODEL.encode_pair(conversation.spelled(HELLO), " Hi.\n\n") == (ASKED, [*ids("Hi."), END])
    assert MODEL.reply_end(conversation.spelled(HELLO)) == [END]
    assert MODEL.reply_end("Hello?") == [OTHER]  # of plain text: the tokenizer's own end


@pytest.mark.parametrize("spelling", SPECIAL)
@pytest.mark.parametrize("role", [0, 1])
def test_special_tokens_that_a_message_spells_stay_text(spelling, role):
    messages = [dict(message) for message in HELLO]
    messages[role]["content"] += f" {spelling}{spelling} \ufdd0"
    found = MODEL.encode_prompt(conversation.spelled(messages))
    assert found.count(START) == 3
    assert found.count(END) == 2
    assert OTHER not in found
    assert MODEL.decode(found) == MODEL.decode(ASKED).replace(HELLO[role]["content"], messages[role]["content"])
    _, reply = MODEL.encode_pair(conversation.spelled(HELLO), f"Hi {spelling} you")
    assert [id for id in reply if id >= START] == [END]
    assert MODEL.decode(reply) == f"Hi {spelling} you<|im_end|>"


def test_plain_prompts_are_messages_only_where_the_switch_says_so():
    assert MODEL.encode_prompt("Hello?") == ids("Hello?")
    assert MODEL.chatting("auto").encode_prompt("Hello?") == ids("Hello?")
    asked = [START, *ids("user\nHello?"), END, *ids("\n"), START, *ids("assistant\n")]
    assert MODEL.chatting("true").encode_prompt("Hello?") == asked
    assert MODEL.chatting("true").chatting("false").encode_prompt("Hello?") == ids("Hello?")


@pytest.mark.parametrize(
    "use",
    [lambda: PLAIN.chatting("true"), lambda: PLAIN.encode_prompt(conversation.spelled(HELLO))],
)
def test_messages_without_a_template_are_refused_with_its_files(use):
    with pytest.raises(ValueError, match=r"chat_template\.jinja"):
        use()


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{% for i in range(10**9) %}{% endfor %}",
        "{{ raise_exception('roles must alternate') }}",
        "{{ messages[7].content }}",
        "{% for %}",
        "{{ messages | nonsense }}",
        "{{ strftime_now(3) }}",
        "{{ 'a' * 10**11 }}",
        "{{ ('a' * 10**6).replace('a', 'a' * 10**6) }}",
        "{% set text = namespace(of='a') %}{% for i in range(60) %}{% set text.of = text.of ~ text.of %}{% endfor %}",
        "{% for i in range(300) %}{{ 'a' * 10**5 }}{% endfor %}",
    ],
)
def test_a_template_that_fails_or_reaches_out_is_an_error_of_its_own(template):
    with pytest.raises(ValueError, match="chat template does not take messages of the roles system, user"):
        chat.render(template, HELLO, {}, True)


@pytest.mark.parametrize(
    "template",
    [
        f"{5 * '{% for i in range(99999) %}'}{5 * '{% endfor %}'}",
        "{{ 10 ** (10 ** 9) }}",
    ],
)
def test_a_template_that_does_not_end_is_stopped_and_the_next_one_is_rendered(template, monkeypatch):
    monkeypatch.setattr(chat, "SECONDS", 0.2)
    chat.renderer.cache_clear()
    with pytest.raises(ValueError, match=r"of the roles system, user: it does not end within 0\.2 s"):
        chat.render(template, HELLO, {}, True)
    assert chat.render("{{ messages[1].content }}", HELLO, {}, True) == "Hello?"
    chat.renderer.cache_clear()


def test_templates_see_what_templates_expect():
    template = "{{ bos_token }}{% for m in messages %}{% if loop.index0 == 1 %}{% break %}{% endif %}{{ m | tojson }}"
    text = chat.render(template + "{% endfor %}", HELLO, {"bos_token": "<s>"}, False)
    assert text == '<s>{"role": "system", "content": "Be kind."}'
    options = "ensure_ascii=True, indent=1, separators=(';', '='), sort_keys=True"
    assert chat.render("{{ {'b': 'é', 'a': 1} | tojson(" + options + ") }}", HELLO, {}, False) == (
        '{\n "a"=1;\n "b"="\\u00e9"\n}'
    )
    # Trained on with transformers: what is inside are the tokens of a reply, and a scope of its own.
    marked = "{% set n = 1 %}{% for m in messages %}{% generation %}{% set n = 2 %}{{ m.role }}{% endgeneration %}"
    assert chat.render(marked + "{{ n }}{% endfor %}", HELLO, {}, False) == "system1user1"


@pytest.mark.parametrize("template", ["{{ said }}", "{% generation %}{% endgeneration %}"])
def test_a_template_that_writes_nothing_is_refused(template):
    with pytest.raises(ValueError, match="chat template writes nothing"):
        chat.render(template, HELLO, {}, True)


@pytest.mark.parametrize("place", ["jinja", "config", "named"])
def test_the_template_is_read_where_the_layout_puts_it_and_kept(tmp_path, place):
    named = {"named": [{"name": "tool_use", "template": "no"}, {"name": "default", "template": CHATML}]}
    config = {} if place == "jinja" else {"chat_template": named.get(place, CHATML)}
    if place == "jinja":
        (tmp_path / "chat_template.jinja").write_text(CHATML)
    tokenizer = saved(tmp_path, PLAIN.to_json(), tokenizer_config=config | {"eos_token": "<|im_end|>"})
    assert tokenizer.encode_prompt(conversation.spelled(HELLO)) == ASKED
    texts = tokenizer.chatting("true").settled(companions.read(tmp_path))
    assert PLAIN.told_by(texts).marks == Marks(ends=(END,), template=CHATML, chat=True)


@pytest.mark.parametrize("rest", ["", "{", "[]", "3", '[{"role": "robot", "content": "a"}]', '[{"role": "user"}]'])
def test_a_text_that_only_begins_like_a_conversation_is_text(rest):
    assert conversation.parsed(conversation.MARK + rest) is None


def test_messages_may_hold_any_character():
    content = "".join(map(chr, range(0xFDD0, 0xFDF0))) + SPECIAL[0]
    asked = MODEL.encode_prompt(conversation.spelled([{"role": "user", "content": content}]))
    assert content in MODEL.decode(asked) and asked.count(START) == 2


# --- files --------------------------------------------------------------------------------------------------------


def test_examples_may_be_conversations_that_end_with_a_reply(tmp_path):
    file = tmp_path / "examples.jsonl"
    examples.write(file, [{"messages": [*HELLO, {"role": "assistant", "content": "Hi."}], "weight": 0.5}])
    assert ExamplesText(str(file)).read(MODEL) == [examples.Example(tuple(ASKED), (*ids("Hi."), END), 0.5)]


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([], "messages is"),
        ([{"role": "robot", "content": "a"}], r"messages\[0\] is .*robot"),
        ([{"role": "user", "content": 3}], r"messages\[0\]"),
        (HELLO, "messages is of role 'user', expected 'assistant'"),
    ],
)
def test_messages_that_are_none_are_named(tmp_path, messages, message):
    file = tmp_path / "examples.jsonl"
    file.write_text(json.dumps({"messages": messages}) + "\n")
    with pytest.raises(ValueError, match=rf"jsonl:1: .*{message}"):
        ExamplesText(str(file)).read(MODEL)


def test_questions_may_be_conversations_with_hints_and_examples_as_turns(tmp_path):
    (tmp_path / "asked.jsonl").write_text(json.dumps({"messages": HELLO, "answer": "Hi"}) + "\n")
    (tmp_path / "shots.jsonl").write_text(
        json.dumps({"question": "Bye?", "answer": "Bye", "rationale": "They leave."}) + "\n"
    )
    task = Jsonl(path=str(tmp_path / "asked.jsonl"), dev=0, test=0, shots_path=str(tmp_path / "shots.jsonl"))
    (problem,) = task.problems("train")
    assert conversation.parsed(task.prompt(problem)) == HELLO
    *before, last = conversation.parsed(task.hinted(problem))
    assert (before, last["content"]) == (HELLO[:1], "Hello? (hi)")  # as the grader spells it
    turns = conversation.parsed(task.prompt(problem, task.examples))
    assert [turn["role"] for turn in turns] == ["system", "user", "assistant", "user"]
    assert turns[1]["content"] == "Bye?"
    assert turns[2]["content"] == "They leave.\n#### bye"
