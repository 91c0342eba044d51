"""Cards of models: the header that the hub reads, and every figure with its n and interval."""

import json

import pytest
from small_runs import composed

from qstar import config as configs
from qstar import files
from qstar.reports import cards

LINE = {
    "step": 20, "task": "cups", "thoughts": True, "way": "greedy", "draws": 1, "n": 500, "accuracy": 0.968,
    "accuracy_low": 0.949, "accuracy_high": 0.98, "nll": 0.224,
}  # fmt: skip


def header(card):
    """The entries between the dashes; every value is JSON, which is YAML as well."""
    lines = card.split("---\n")[1].splitlines()
    return {key: json.loads(value) for key, value in (line.split(": ", 1) for line in lines)}


@pytest.fixture
def run(tmp_path):
    directory = tmp_path / "run"
    directory.mkdir()
    configs.save(composed("model.source=hub:org/base"), directory / "config.yaml")
    files.write_records(directory / "evals.jsonl", [LINE | {"step": 0, "accuracy": 0.2}, LINE])
    return directory


def test_the_header_has_licence_base_library_tags_and_figures_with_n(run):
    read = header(cards.model_card(str(run), "me/mine", "thinker", "mit"))
    results = read.pop("model-index")[0]["results"]
    assert read == {
        "license": "mit", "base_model": "org/base", "library_name": "transformers",
        "pipeline_tag": "text-generation", "tags": ["qstar", "quiet_star"],
    }  # fmt: skip
    assert [result["metrics"][0] for result in results] == [
        {
            "type": "accuracy", "name": "accuracy (likeliest thoughts)", "value": 0.968,
            "args": {"n": 500, "low": 0.949, "high": 0.98},
        },
        {"type": "nll", "name": "nll (likeliest thoughts)", "value": 0.224, "args": {"n": 500}},
    ]  # fmt: skip
    assert {result["dataset"]["name"] for result in results} == {"cups"}


def test_the_text_says_how_it_is_loaded_and_what_was_measured(run):
    card = cards.model_card(str(run), "me/mine", "thinker", "mit")
    assert 'from_pretrained("me/mine", trust_remote_code=True)' in card
    assert "| cups | accuracy (likeliest thoughts) | 0.968 [0.949, 0.980] | 500 |" in card


def test_an_iteration_of_self_training_has_its_own_answers(tmp_path):
    directory = tmp_path / "iteration_2"
    directory.mkdir()
    configs.save(composed("~experiments", "method=sft", "data=examples", "data.path=x", "eval=none",
                          "model.source=bundled:cups"), directory / "config.yaml")  # fmt: skip
    configs.save(composed("task=cups", "model.source=bundled:cups", name="improve"), tmp_path / "improve.yaml")
    shares = [{"share": 0.1 * i, "low": 0.0, "high": 0.9, "n": 40} for i in range(4)]
    lines = [{"iteration": i, "accuracy": share} for i, share in enumerate(shares)]
    files.write_records(tmp_path / "iterations.jsonl", [*lines[:2], lines[2] | {"test": {"accuracy": shares[3]}}])
    assert [(result.name, result.value, result.n) for result in cards.results(directory)] == [
        ("accuracy on dev", 0.2, 40),
        ("accuracy on test", 0.1 * 3, 40),
    ]
    read = header(cards.model_card(str(directory), "me/mine", "huggingface", "unknown"))
    assert read["tags"] == ["qstar", "sft"] and "base_model" not in read


def test_a_model_that_is_no_run_names_where_it_is_from():
    read = header(cards.model_card("hub:org/base", "me/mine", "huggingface", "unknown"))
    assert read["base_model"] == "org/base" and "model-index" not in read


def test_the_hub_s_library_reads_the_card(run):
    hub = pytest.importorskip("huggingface_hub")
    data = hub.ModelCard(cards.model_card(str(run), "me/mine", "thinker", "mit")).data
    assert (data.license, data.base_model, data.model_name) == ("mit", "org/base", "mine")
    assert [(result.metric_value, result.metric_args["n"]) for result in data.eval_results] == [
        (0.968, 500),
        (0.224, 500),
    ]
