"""The presets of Quiet-STaR are what experiments/quiet_star/switches.md says."""

import dataclasses
import re

import pytest
from small_runs import composed

from qstar.paths import ROOT

TEXT = ("~experiments", "data=text", "data.paths=[README.md]")
SWITCHES = ROOT / "experiments" / "quiet_star" / "switches.md"


def values(preset):
    """Everything of a preset, `method.` and `optim.` before the names."""
    cfg = composed(f"method={preset}", *TEXT)
    groups = {"method": cfg.method, "optim": cfg.optim}
    return {f"{group}.{name}": value for group in groups for name, value in dataclasses.asdict(groups[group]).items()}


def table(heading):
    """Rows of a table of switches.md: cells by the name of the switch."""
    part = SWITCHES.read_text().split(f"## {heading}\n")[1].split("\n## ")[0]
    rows = [line.strip("|").split("|") for line in part.splitlines() if line.startswith("| `")]
    return {cells[0].strip(" `"): [cell.strip() for cell in cells[1:]] for cells in rows}


def written(value):
    """As YAML writes it."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def test_the_paper_and_official_presets_differ_in_the_tables_switches_alone():
    paper, official = values("quiet_star"), values("quiet_star_official")
    found = {name: [written(paper[name]), written(official[name])] for name in paper if paper[name] != official[name]}
    assert found == {name: cells[:2] for name, cells in table("Switches in which the presets differ").items()}


def test_the_other_switches_have_the_same_value_in_both_presets():
    paper = values("quiet_star")
    rows = table("Switches that are the same in both")
    assert len(rows) == 9
    assert {name: written(paper[name]) for name in rows} == {name: cells[0] for name, cells in rows.items()}


def test_every_test_that_the_table_names_exists():
    names = set(re.findall(r"`(test_\w+)`", SWITCHES.read_text()))
    tests = "".join(file.read_text() for file in (ROOT / "tests").rglob("test_*.py"))
    assert len(names) > 12
    assert [name for name in sorted(names) if f"def {name}(" not in tests] == []


@pytest.mark.parametrize("preset", ["quiet_star", "quiet_star_official"])
def test_delimiters_learn_a_hundred_times_as_fast_and_not_ten_thousand(preset):
    found = values(preset)
    assert found["method.delimiter_scale"] * found["optim.delimiter_lr_scale"] == 100


def test_what_is_given_on_the_command_line_wins_over_the_preset():
    cfg = composed("method=quiet_star_official", *TEXT, "optim.weights=float32", "method.mix=logprobs")
    assert (cfg.optim.weights, cfg.optim.delimiter_lr_scale, cfg.method.mix) == ("float32", 1.0, "logprobs")


def test_the_bundled_recipe_names_every_value_it_was_tuned_with():
    cfg = composed()
    expected = {
        "thought_len": 8, "num_thoughts": 2, "lookahead": 1, "mix": "hidden", "mixing": "raw", "mixing_side": "thought",
        "mixing_start": None, "base_weight": 0.5, "beta": 1.0, "baseline": "mean", "clamp": False,
        "reinforce_temperature": 1.0, "importance_weights": False, "temperature": 1.0, "positions": "counted",
        "fill": "sampled", "think_fraction": 1.0, "delimiter_init": "token", "delimiter": "-", "delimiter_scale": 1.0,
    }  # fmt: skip
    assert {name: getattr(cfg.method, name) for name in expected} == expected
    assert cfg.optim.weights == "float32"
