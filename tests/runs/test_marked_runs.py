"""Self-training, evaluation and training of a model whose tokenizer has a begin and ends of text."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
from test_improve_run import Echo, config, known  # noqa: F401 (a fixture)
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers

from qstar import runs
from qstar.data import examples, rationales
from qstar.data.examples import ExamplesText
from qstar.data.rationales import Store
from qstar.data.tokenizer import Tokenizer
from qstar.decoding import generate
from qstar.decoding.sampling import Sampling
from qstar.models import lm
from qstar.models.origins import Scratch
from qstar.runs import improve

TOKENS = ["<unk>", "<s>", "</s>", "<|end|>", "▁", "a", "b", "?", "!", "*", "▁a", "▁b", "b?"]
BEGIN, EOS, TURN = 1, 2, 3


def sentencepiece(folder):
    """A tokenizer in which a question is one token of two letters and a text by itself begins with a space."""
    backend = Backend(
        models.BPE(
            vocab={token: id for id, token in enumerate(TOKENS)},
            merges=[("▁", "a"), ("▁", "b"), ("b", "?")],
            unk_token="<unk>",
        )
    )
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    backend.add_special_tokens(["<s>", "</s>", "<|end|>"])
    folder.mkdir()
    (folder / "tokenizer.json").write_text(backend.to_str())
    named = {"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": True}
    (folder / "tokenizer_config.json").write_text(json.dumps(named))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [EOS, TURN]}))
    return str(folder / "tokenizer.json")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    shape = {"width": 16, "layers": 1, "heads": 2, "kv_heads": 2, "head_size": 8, "ff": 20, "max_len": 64}
    return Scratch(sentencepiece(tmp_path_factory.mktemp("tokenizer") / "it"), **shape, remat="none")


@pytest.fixture(scope="module")
def run(tmp_path_factory, model):
    """An iteration of self-training."""
    directory = tmp_path_factory.mktemp("marked") / "run"
    recipe = {"steps": 12, "learn_hinted": 0.5, "samples": 16, "iterations": 1}
    cfg = dataclasses.replace(config(directory, **recipe), model=model, length=20, wrong_hints=0)
    improve.run(cfg, directory)
    return directory


def rows(run):
    return Store.open(run / rationales.FOLDER).rows().to_pylist()


def test_ends_of_text_end_samples_and_are_part_of_no_text(run):
    found = rows(run)
    ended = [row for row in found if row["tokens"][-1] in (EOS, TURN)]
    assert {row["tokens"][-1] for row in ended} == {EOS, TURN}
    assert all(row["finished"] for row in ended)
    assert any(row["correct"] for row in ended)
    for row in found:
        assert not {EOS, TURN} & set(row["tokens"][:-1])
        for column in ("written", "stored", "answer"):
            assert not any(end in (row[column] or "") for end in ("</s>", "<|end|>"))


def test_prompts_begin_with_the_token_that_the_tokenizer_puts_before_texts(run):
    tokenizer = runs.load_run(run / "iteration_1").tokenizer
    for row in rows(run):
        assert row["prompt_tokens"] == 1 + len(tokenizer.encode(row["prompt"]))


def test_what_is_trained_on_is_the_prompt_the_sampled_ids_and_an_end_of_text(run):
    tokenizer = runs.load_run(run / "iteration_1").tokenizer
    sampled = {}
    for row in rows(run):
        if row["correct"]:
            sampled.setdefault(row["question"], set()).add(tuple(row["tokens"]))
    file = run / "iteration_1" / "examples.jsonl"
    records = [json.loads(line) for line in file.read_text().splitlines()]
    for record, example in zip(records, ExamplesText(str(file)).read(tokenizer), strict=True):
        ids = tuple(record["completion_ids"])
        assert ids in sampled[record["prompt"].partition("*")[0]]
        assert example.prompt == (BEGIN, *tokenizer.encode(record["prompt"]))
        assert example.completion == (ids if ids[-1] in (EOS, TURN) else (*ids, EOS))
    assert any("*" in record["prompt"] for record in records)  # learnt behind their hints as well


def test_rows_of_training_hold_these_tokens_and_learn_the_ends(run):
    tokenizer = runs.load_run(run / "iteration_1").tokenizer
    found = ExamplesText(str(run / "iteration_1" / "examples.jsonl")).read(tokenizer)
    packed = examples.rows(found, 20, seed=0)
    documents = [
        (tuple(row.tokens[row.segment == segment].tolist()), tuple(row.mask[row.segment == segment].tolist()))
        for row in packed
        for segment in range(1, int(row.segment.max()) + 1)
    ]
    whole = [(one.prompt + one.completion, (False,) * len(one.prompt) + (True,) * len(one.completion)) for one in found]
    assert sorted(documents) == sorted(whole)


def test_the_summary_shows_the_tokens_around_a_text(run):
    summary = (run / "summary.md").read_text()
    assert "begin of text <s> (id 1) before every text" in summary
    assert "end of text </s> (id 2), <|end|> (id 3)" in summary


def test_a_run_keeps_the_settings_and_one_of_an_earlier_version_has_no_begin_of_text(run, tmp_path):
    assert runs.load_run(run / "iteration_1").tokenizer.begin == (BEGIN,)
    copy = tmp_path / "copy"
    shutil.copytree(run / "iteration_1", copy)
    (copy / "tokenizer_config.json").unlink()
    (copy / "generation_config.json").unlink()
    earlier = runs.load_run(copy)
    assert earlier.tokenizer.begin == ()
    assert earlier.tokenizer.ends == (EOS,)  # by its spelling
    assert (
        runs.as_begun(copy, runs.initial_model(Scratch(str(run / "iteration_1" / "tokenizer.json")), 0)).tokenizer.begin
        == ()
    )


def test_the_switch_overrides_the_setting(model):
    assert runs.initial_model(dataclasses.replace(model, begin="false"), 0).tokenizer.begin == ()
    assert runs.initial_model(dataclasses.replace(model, begin=True), 0).tokenizer.begin == (BEGIN,)
    with pytest.raises(ValueError, match="begin"):
        dataclasses.replace(model, begin="perhaps")


def test_generation_ends_at_every_end_of_text_but_forbidden_ones(model):
    loaded = runs.initial_model(model, 0)
    definition = lm.definition(loaded.lm)
    settings = {"samples": 40, "batch_size": 1}
    ask = lambda sampling: generate.generate(  # noqa: E731
        definition, loaded.language_model, loaded.tokenizer, ["a?"], jax.random.key(0), sampling, **settings
    )
    written = ask(Sampling(max_new_tokens=20))
    lasts = {int(tokens[-1]) for tokens, done in zip(written.tokens, written.finished, strict=True) if done}
    assert lasts == {EOS, TURN}
    assert written.prompts[0][0] == BEGIN
    assert not any("<" in text.replace("<s>", "").replace("<unk>", "") for text in written.text)
    held = ask(Sampling(max_new_tokens=20, forbidden_ids=(TURN,)))
    assert {int(tokens[-1]) for tokens, done in zip(held.tokens, held.finished, strict=True) if done} == {EOS}
    assert all(np.isfinite(row).all() for row in held.logprobs)


def test_a_tokenizer_of_characters_has_none_of_it():
    plain = runs.initial_model(Scratch("characters:ab"), 0).tokenizer
    assert (plain.begin, plain.ends, plain.summary()) == ((), (), "")
    assert isinstance(plain, Tokenizer)
