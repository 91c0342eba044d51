"""Every configuration that ships composes, every experiment runs, and what cannot work is refused with its name."""

import dataclasses
import shlex
import subprocess
from pathlib import Path

import jax
import pytest
import small_runs
import yaml
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException
from omegaconf import OmegaConf
from small_runs import composed
from tokenizers import pre_tokenizers

from qstar import config as configs
from qstar import runs, sharding
from qstar.config import EvaluateConfig, ImproveConfig, TrainConfig
from qstar.data import examples
from qstar.data import tokenizer as tokenizers
from qstar.data.examples import ExamplesText
from qstar.data.on_policy import RolloutData
from qstar.evals.answers import TaskEval
from qstar.evals.chain import ChainEval
from qstar.evals.perplexity import PerplexityEval
from qstar.evals.suite import CupsEval, NoEval, QuestionsEval
from qstar.methods.plain_lm import PlainLM
from qstar.methods.protocol import Credits
from qstar.methods.quiet_star import QuietStar
from qstar.models import lm as language_model
from qstar.models.formats import hf
from qstar.paths import CONFIGS, ROOT
from qstar.runs import train
from qstar.tasks.arithmetic import Arithmetic
from qstar.training.build import Program
from qstar.training.optim import OptimConfig

RECIPES = {
    str(file.relative_to(ROOT / "experiments").with_suffix("")): "\n# Program     qstar-improve\n" in file.read_text()
    for file in sorted((ROOT / "experiments").rglob("*.yaml"))
    if "\narms:" not in file.read_text()  # lists of overrides of an experiment: tests/test_ablations.py
}
"""Names, and whether they are of self-training."""
EXPERIMENTS = [name for name, improves in RECIPES.items() if not improves]
NEEDED = {
    "perplexity": ("eval.paths=[README.md]",),
    "text": ("data.paths=[README.md]",),
    "pretrained": ("model.source=bundled:cups",),
    "examples": ("data.path=examples.jsonl",),
    "sft": ("data=examples", "data.path=examples.jsonl"),
    "labelled": ("method=orm", "data.path=labelled.jsonl", "control=false"),
    "orm": ("data=labelled", "data.path=labelled.jsonl", "control=false"),
    "prm": ("data=labelled", "data.path=labelled.jsonl", "control=false"),
    "pairs": ("method=dpo", "data.path=pairs.jsonl", "control=false"),
    "dpo": ("data=pairs", "data.path=pairs.jsonl", "control=false"),
    "fast_quiet_star": ("method.teacher=runs/teacher",),
    "fast_quiet_star_released": ("method.teacher=runs/teacher",),
}
ON_POLICY = {
    **dict.fromkeys(
        ("policy_gradient", "reinforce", "rloo", "grpo", "dr_grpo", "dapo", "gspo", "reinforce_pp", "maxrl"),
        "policy_gradient",
    ),
    **dict.fromkeys(("ppo", "reft"), "ppo"),
}
"""Presets that train on rollouts, and the method that each is one of."""
NEEDED |= {name: ("~experiments", "data=rollouts", "task=cups") for name in ON_POLICY}
NEEDED["dapo"] += ("batch_size=16",)
NEEDED["rollouts"] = ("~experiments", "method=grpo", "task=cups")
NEEDED["rollouts_dapo"] = ("~experiments", "method=dapo", "task=cups", "batch_size=32")
NEEDED["rollouts_reft"] = ("~experiments", "method=reft", "task=cups")
PAPERS = (
    "quiet_star",
    "quiet_star_hidden",
    "quiet_star_official",
    "rlp",
    "latro",
    "adaptive",
    "helpful",
)  # presets of the papers: long thoughts
OPTIONS = [
    (file.parent.name, file.stem)
    for file in sorted(Path(CONFIGS).glob("*/*.yaml"))
    # The window of the default experiment holds twelve tokens, too few for the thoughts of the papers.
    if not (file.parent.name == "method" and file.stem in PAPERS)
    # Groups of qstar-improve, qstar-solve and qstar-label.
    and file.parent.name not in ("task", "improve", "search", "label")
]


@pytest.fixture(autouse=True)
def data_folder(monkeypatch, tmp_path):
    """What QSTAR_DATA names: text and questions, a few lines of each."""
    question = '{"question": "What is one and one?", "answer": "One more than one. #### 2"}\n'
    for folder in ("openlogic", "napkin", "discrete_book", "gsm8k"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "text.md").write_text("a proof is a list of lines, each of which follows. " * 40)
    for name in ("train", "test"):
        (tmp_path / "gsm8k" / f"{name}.jsonl").write_text(question * 3)
    monkeypatch.setenv("QSTAR_DATA", str(tmp_path))
    monkeypatch.setenv("QSTAR_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_of_a_group_composes(group, option):
    cfg = composed(f"{group}={option}", *NEEDED.get(option, ()))
    schemas = configs.SCHEMAS[group].values()
    assert type(getattr(cfg, group)) in schemas


@pytest.mark.parametrize("option", PAPERS)
def test_the_papers_presets_compose_with_text(option):
    cfg = composed("~experiments", f"method={option}", "data=text", "data.paths=[README.md]")
    assert type(cfg.method) in configs.SCHEMAS["method"].values()
    assert cfg.data.length == 256


def test_the_papers_preset_is_the_papers():
    method = composed("~experiments", "data.length=64").method
    assert (method.thought_len, method.num_thoughts, method.lookahead) == (12, 2, 4)
    assert (method.beta, method.reinforce_temperature, method.mix, method.clamp) == (1e6, 3.0, "logprobs", True)
    assert OptimConfig().lr == 1e-6 and OptimConfig().delimiter_lr_scale == 100.0


def test_the_default_job_is_the_bundled_experiment():
    cfg = composed()
    assert (cfg.name, cfg.steps, cfg.control) == ("tiny", 75, True)
    assert cfg.model.source == "bundled:cups"
    assert cfg.eval == CupsEval()


def test_a_method_given_on_the_command_line_replaces_that_of_the_experiment():
    assert composed("method=lm").method == PlainLM()


@pytest.mark.parametrize("option", ["cups", "questions", "none"])
def test_every_evaluation_composes_for_qstar_evaluate(option):
    cfg = composed(f"eval={option}", name="evaluate")
    assert isinstance(cfg, EvaluateConfig)
    assert type(cfg.eval) is {"cups": CupsEval, "questions": QuestionsEval, "none": NoEval}[option]


def test_chains_of_thought_and_perplexities_compose_for_qstar_evaluate(data_folder):
    chain = composed("eval=chain", "eval.votes=4", name="evaluate").eval
    assert chain == ChainEval(gsm8k=f"{data_folder}/gsm8k", votes=4)
    text = composed("eval=perplexity", "eval.paths=[README.md]", "eval.thoughts=[sampled]", name="evaluate").eval
    assert text == PerplexityEval(("README.md",), thoughts=("sampled",))
    with pytest.raises(ValueError, match=r"eval.paths has no value: give eval.paths=VALUE"):
        composed("eval=perplexity", name="evaluate")


def test_a_schema_is_stored_once_and_again_where_its_name_means_another(monkeypatch):
    stored = lambda: ConfigStore.instance().repo["method"]["base_lm.yaml"].node  # noqa: E731
    configs.register()
    before = stored()
    configs.register()
    assert stored() is before
    with monkeypatch.context() as patch:
        patch.setitem(configs.SCHEMAS["method"], "lm", QuietStar)
        configs.register()
        assert OmegaConf.get_type(stored()) is QuietStar
    configs.register()
    assert OmegaConf.get_type(stored()) is PlainLM


# --- what is refused ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("stesp=3", "Key 'stesp' not in 'TrainConfig'"),
        ("method.thougt_len=3", "Key 'thougt_len' not in 'QuietStar'"),
        ("optim.learning_rate=1", "Key 'learning_rate' not in 'OptimConfig'"),
        ("steps=many", "Value 'many' of type 'str' could not be converted to Integer"),
        ("optim.lr=fast", "Value 'fast' of type 'str' could not be converted to Float"),
        ("control=perhaps", "Value 'perhaps' is not a valid bool"),
        ("method=quiet_stat", "Could not find 'method/quiet_stat'"),
        ("experiments=quiet_star/tony", "Could not find 'experiments/quiet_star/tony'"),
    ],
)
def test_unknown_names_and_wrong_types_are_refused_when_composed(override, message):
    with pytest.raises(HydraException) as error:
        composed(override)
    text = f"{error.value} {error.value.__cause__}"
    assert message in text
    if override == "method=quiet_stat":
        assert "quiet_star_official" in text  # the options there are


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("steps=0", "steps = 0: expected a positive integer"),
        ("log_every=-1", "log_every = -1: expected a positive integer"),
        ("sample_every=-1", "sample_every = -1: expected 0 or a positive integer"),
        ("micro_batches=5", "batch_size = 96 does not split into micro_batches = 5 equal parts"),
        ("sinks=[wandb,tensorbord]", "sinks = .*, in it 'tensorbord': choose one of tensorboard, wandb"),
        ("method.thought_len=-1", "method.thought_len = -1: expected 0 or a positive integer"),
        ("method.mix=sum", "method.mix = 'sum': choose one of hidden, logprobs"),
        ("method.fill=dotz", "method.fill = 'dotz': choose one of sampled, "),
        ("method.num_thoughts=1", "method.baseline=base, or two thoughts"),
        ("method.think_fraction=0", "method.think_fraction = 0.0: expected a number above 0 up to 1"),
        ("optim.schedule=step", "optim.schedule = 'step': choose one of constant, linear, cosine"),
        ("optim.lr=0", "optim.lr = 0.0: expected a positive number"),
        ("optim.ema=1", "optim.ema = 1.0: expected a number from 0 up to, not including, 1"),
        ("mesh.data=-2", "mesh.data = -2: expected an integer of at least -1"),
        ("mesh.data=0", "sizes are positive, at most one may be -1"),
        ("data.length=8", "data.length = 8: a problem takes up to 12 tokens"),
        ("data.worked=1.5", "data.worked = 1.5: expected a number from 0 up to 1"),
        ("eval.items=0", "eval.items = 0: expected a positive integer"),
        ("eval.split=train", "eval.split = 'train': choose one of dev, test"),
        ("eval.every=-1", "eval.every = -1"),
    ],
)
def test_values_out_of_range_are_refused_with_field_value_and_what_is_legal(override, message):
    with pytest.raises(ValueError, match=message):
        composed(override)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("data=text",), "data.paths has no value: give data.paths=VALUE"),
        (("model=pretrained",), "model.source has no value: give model.source=VALUE"),
        (("name=${oc.env:QSTAR_NO_SUCH_VARIABLE}",), "name: .*Environment variable 'QSTAR_NO_SUCH_VARIABLE' not found"),
    ],
)
def test_a_value_that_is_missing_is_named(overrides, message):
    with pytest.raises(ValueError, match=message):
        composed(*overrides)


@pytest.mark.parametrize("override", ["improve.temperature=-1", "improve.top_p=0"])
def test_a_value_that_is_refused_is_named_before_one_that_is_missing(override):
    with pytest.raises(ValueError, match=rf"{override.replace('=', ' = ')}.*: expected"):
        composed(override, name="improve")
    with pytest.raises(ValueError, match=r"model\.source has no value"):
        composed(name="improve")


def test_what_one_composition_changes_the_next_one_does_not_see():
    default = composed("run_dir=here")
    assert composed("run_dir=here", "steps=3", "method.thought_len=2", "optim.lr=0.5", "data.length=13") != default
    assert composed("run_dir=here") == default


def test_a_thought_longer_than_the_window_is_refused_with_both():
    with pytest.raises(ValueError, match=r"method.thought_len = 30 .* thoughts of 32 columns, .* data.length = 12"):
        composed("method.thought_len=30")
    assert composed("method.thought_len=10").method.thought_len == 10


# --- presets of methods on the default data -----------------------------------------------------------------------

TINY = ("batch_size=2", "eval=none", "control=false", "sample_every=0", "steps=1")


def first_step(*overrides: str) -> None:
    """A run of these arguments as far as its first step, which is traced and not compiled."""
    cfg = composed(*TINY, *overrides)
    loaded, mesh = runs.initial_model(cfg.model, cfg.seed), sharding.make_mesh(cfg.mesh)
    method, other = cfg.method, runs.other_model(cfg.method, loaded)
    program = Program.of(method, loaded.lm, mesh, cfg.optim, 1, 1, other=other, vocabulary=loaded.tokenizer)
    sampled = isinstance(method, Credits)
    data = None if sampled else cfg.data.build(loaded.tokenizer, cfg.batch_size, cfg.seed)
    with jax.set_mesh(mesh):
        batch = train.source(cfg, program, loaded, data, Path("unused"))[1]
        _, metrics = jax.eval_shape(program.step, program.abstract_state(0), batch)
    assert {*method.headline} <= metrics.keys()  # what the progress bar shows


METHODS = [file.stem for file in sorted(Path(CONFIGS).glob("method/*.yaml"))]
ADVISED = {
    "quiet_star": "qstar-train method=quiet_star_cups",
    "quiet_star_hidden": "qstar-train method=quiet_star_cups",
    "quiet_star_official": "qstar-train method=quiet_star_cups",
    "adaptive": "qstar-train method=adaptive_cups",
    "helpful": "qstar-train method=helpful_cups",
    "latro": "qstar-train method=latro_cups",
    "rlp": "qstar-train method=rlp_cups",
    "sft": """printf '{"prompt": "3aegbdh=", "completion": "4;"}\\n' > examples.jsonl && """
    "qstar-train method=sft data=examples data.path=examples.jsonl",
    **{
        name: """printf '{"prompt": "3aegbdh=", "completion": "4;", "label": 1}\\n' > labelled.jsonl && """
        f"qstar-train method={name} data=labelled data.path=labelled.jsonl control=false"
        for name in ("orm", "prm")
    },
    "dpo": """printf '{"prompt": "3aegbdh=", "chosen": "4;", "rejected": "2;"}\\n' > pairs.jsonl && """
    "qstar-train method=dpo data=pairs data.path=pairs.jsonl control=false",
    **{name: f"qstar-train method={method} data=rollouts ~experiments task=cups" for name, method in ON_POLICY.items()},
    "fast_quiet_star": "qstar-train run_dir=runs/teacher && "
    "qstar-train method=fast_quiet_star method.teacher=runs/teacher model.source=runs/teacher",
    "fast_quiet_star_released": "qstar-train run_dir=runs/teacher && "
    "qstar-train method=fast_quiet_star method.teacher=runs/teacher model.source=runs/teacher",
}
"""By preset: the command that its refusal ends with, where it does not run on the default data."""


@pytest.mark.parametrize("preset", METHODS)
def test_a_preset_of_a_method_runs_on_the_default_data_or_names_a_command_that_does(preset, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if preset not in ADVISED:
        first_step(*small_runs.MODEL, f"method={preset}")
        return
    with pytest.raises(ValueError, match="method") as refused:
        composed(f"method={preset}")
    assert str(refused.value).splitlines()[-1].strip() == ADVISED[preset]


@pytest.mark.parametrize(
    ("overrides", "told", "command"),
    [
        (("method=lm", "data=labelled"), "method=orm and method=prm", "method=orm data=labelled"),
        (("method=lm", "data=pairs"), "data=pairs holds pairs of completions", "method=dpo data=pairs"),
        (("method=dpo", "data=pairs", "control=true"), "control=false", "method=dpo data=pairs"),
        (("method=prm", "data=labelled", "control=true"), "control=false", "method=prm data=labelled"),
        (("method=prm", "data=examples"), "data=examples holds prompts with completions", "method=prm data=labelled"),
    ],
)
def test_method_and_data_that_do_not_fit_are_both_named_with_a_command(overrides, told, command):
    with pytest.raises(ValueError, match=overrides[0]) as refused:
        composed(*overrides, "data.path=file.jsonl")
    message, advised = str(refused.value).split("\n")
    assert told in message
    assert f"qstar-train {command} data.path=" in advised


def test_the_presets_that_refusals_of_methods_advise_are_those_that_run():
    commands = {command for name, command in ADVISED.items() if "&&" not in command and name not in ON_POLICY}
    assert {command.removeprefix("qstar-train method=") for command in commands} <= {*METHODS} - ADVISED.keys()


@pytest.mark.parametrize("preset", ON_POLICY)
def test_the_commands_that_refusals_of_methods_on_rollouts_advise_run(preset):
    command = ADVISED[preset].replace(f"method={ON_POLICY[preset]}", f"method={preset}")
    first_step(*shlex.split(command)[1:], "batch_size=16")


@pytest.mark.parametrize("preset", ["sft", "orm", "prm", "dpo", "fast_quiet_star"])
def test_the_commands_in_two_parts_that_refusals_of_methods_advise_run(preset, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(train, "BEST_OF", 2)
    prepares, trains = ADVISED[preset].split(" && ")
    if prepares.startswith("printf"):
        subprocess.run(prepares, shell=True, check=True)
    else:
        cfg = composed(*small_runs.MODEL, *TINY, *shlex.split(prepares)[1:], "method.thought_len=1")
        train.run(cfg, Path(cfg.run_dir))
    first_step(*shlex.split(trains)[1:])


# --- saved and loaded ---------------------------------------------------------------------------------------------


def saved_and_loaded(cfg: TrainConfig, folder: Path) -> TrainConfig:
    configs.save(cfg, folder / "config.yaml")
    return configs.load(folder / "config.yaml")


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("method=lm", "eval=none", "mesh=fsdp_tensor", "sinks=[wandb]"),
        ("eval=questions", "model=scratch", "method.forbidden=[a,b]", "method.delimiter='='"),
        ("data=text", "data.paths=[a.txt,b]", "data.separator='* * *'", "optim=adamw", "optim.lr=1e-5"),
        ("eval=task", "task@eval.task=arithmetic", "eval.task.digits=[1,2]", "eval.split=test"),
    ],
)
def test_what_is_saved_is_loaded(overrides, tmp_path):
    cfg = composed("run_dir=here", *overrides)
    assert saved_and_loaded(cfg, tmp_path) == cfg


def test_overrides_of_a_saved_configuration_follow_the_grammar_of_the_command_line(tmp_path):
    configs.save(composed(), tmp_path / "config.yaml")
    overrides = [
        "steps=300",
        "method.delimiter=-",
        "name='a: b'",
        "sinks=[tensorboard]",
        "eval.thoughts=[none,sampled]",
    ]
    cfg = configs.load(tmp_path / "config.yaml", overrides)
    assert (cfg.steps, cfg.method.delimiter, cfg.name, cfg.sinks) == (300, "-", "a: b", ("tensorboard",))
    assert cfg.eval.thoughts == ("none", "sampled")
    for bad, message in (
        ("stesp=3", "there is no setting stesp: did you mean steps=3"),
        ("steps=many", "steps = many: expected a positive integer"),
        ("steps=0", "steps = 0: expected a positive integer"),
        ("steps=[", r"steps=\[: .* is quoted"),
    ):
        with pytest.raises(ValueError, match=message):
            configs.load(tmp_path / "config.yaml", [bad])


@pytest.mark.parametrize("contents", ["", "steps: [", "steps: 3\n", "just text\n"])
def test_a_damaged_configuration_is_named(contents, tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text(contents)
    with pytest.raises(ValueError, match=r"config.yaml is not a configuration that qstar .* wrote"):
        configs.load(file)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda contents: contents | {"schemas": None}, "expected settings by name, among them schemas"),
        (lambda contents: contents | {"schemas": 5}, "among them schemas"),
        (lambda contents: contents | {"schemas": ["QuietStar"]}, "among them schemas"),
        (lambda contents: [1], "among them schemas"),
        (lambda contents: contents | {"method": None}, "method is None: expected the settings of QuietStar"),
        (lambda contents: contents | {"optim": "adam"}, "optim"),
        (lambda contents: contents | {"eval": [1]}, r"eval is \[1\]: expected the settings of CupsEval"),
        (lambda contents: contents | {"schemas": {"method": None}}, "schemas.method is None"),
        (lambda contents: contents | {"schemas": {"a.b": "QuietStar"}}, "schemas.a.b is 'QuietStar'"),
        (lambda contents: {name: value for name, value in contents.items() if name != "data"}, "data is None"),
    ],
)
def test_a_saved_configuration_that_was_edited_into_another_layout_names_the_place(tmp_path, damage, message):
    file = tmp_path / "config.yaml"
    configs.save(small_runs.small(), file)
    file.write_text(yaml.safe_dump(damage(yaml.safe_load(file.read_text()))))
    with pytest.raises(
        ValueError, match=rf"config\.yaml is not a configuration that qstar .* wrote: line \d+: .*{message}"
    ):
        configs.load(file)


def test_a_configuration_of_another_version_says_what_it_does_not_know(tmp_path):
    configs.save(composed(), tmp_path / "config.yaml")
    text = (tmp_path / "config.yaml").read_text()
    (tmp_path / "config.yaml").write_text(text.replace("method: QuietStar", "method: LoudStar"))
    with pytest.raises(ValueError, match="method 'LoudStar'; this qstar knows QuietStar, PlainLM, SFT, FastQuietStar"):
        configs.load(tmp_path / "config.yaml")
    (tmp_path / "config.yaml").write_text(text + "speed: 3\n")
    with pytest.raises(ValueError, match="Key 'speed' not in 'TrainConfig'"):
        configs.load(tmp_path / "config.yaml")


def test_changes_name_every_value_that_differs_but_not_the_place():
    old = composed("run_dir=here")
    assert configs.changes(old, composed("run_dir=there", "name=other", "resume=there")) == []
    assert configs.changes(old, composed("steps=3", "method.fill=pause")) == [
        "steps = 75, now 3",
        "method.fill = sampled, now pause",
    ]
    assert "method = quiet_star, now lm" in configs.changes(old, composed("method=lm"))


@pytest.mark.parametrize("method", ["quiet_star", "rlp"])
def test_a_configuration_that_holds_the_ids_of_its_tokens_is_read_without_them(tmp_path, method):
    cfg, file = composed(f"method={method}", "method.thought_len=4"), tmp_path / "config.yaml"
    configs.save(cfg, file)
    ids = "method:\n  delimiter_id: 16\n  dot_id: -1\n  forbidden_ids: [3, 5]\n"
    file.write_text(file.read_text().replace("\nmethod:\n", f"\n{ids}"))
    assert "delimiter_id: 16" in file.read_text()
    assert configs.load(file) == cfg


# --- experiments --------------------------------------------------------------------------------------------------


def text_model(folder: Path) -> Path:
    """A tiny model in Hugging Face's layout whose tokens are the bytes of printable text."""
    vocab = {letter: id for id, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    vocab["--"], vocab["---"] = 256, 257
    made = tokenizers.byte_level_bpe(vocab, [("-", "-"), ("--", "-")], [], "smollm")
    shape = language_model.LMConfig(vocab=258, width=16, layers=1, heads=2, kv_heads=2, head_size=8, ff=20, max_len=512)
    params = language_model.definition(shape).init(jax.random.key(0))
    hf.write_directory(folder, shape, params, made.to_json())
    return folder


def smaller(cfg: TrainConfig, folder: Path) -> TrainConfig:
    """Two steps of an experiment, with as little of everything as leaves its parts in place."""
    model = cfg.model
    if hasattr(model, "width"):
        model = dataclasses.replace(model, width=16, layers=1, heads=2, kv_heads=2, head_size=8, ff=20)
    elif not model.source.startswith("bundled:"):
        model = dataclasses.replace(model, source=str(text_model(folder / "model")))
    method = cfg.method
    if isinstance(method, QuietStar):
        method = dataclasses.replace(method, thought_len=2, lookahead=min(method.lookahead, 2))
    data = cfg.data
    if hasattr(data, "paths"):
        data = dataclasses.replace(data, length=12)
    if isinstance(data, ExamplesText):
        examples.write(folder / "examples.jsonl", [{"prompt": "1+1=", "completion": "2"}])
        (folder / "tokenizer.json").write_text(tokenizers.characters("12+=").to_json())
        data = dataclasses.replace(data, path=str(folder / "examples.jsonl"))
        model = dataclasses.replace(model, tokenizer=str(folder / "tokenizer.json"))
    task = cfg.task
    if isinstance(data, RolloutData):
        data = dataclasses.replace(data, samples=2, max_new_tokens=4, length=128)
        task = Arithmetic(digits=(1,), train=4, num_shots=1)
    questions = dataclasses.replace(cfg.eval, batch_size=2)
    if isinstance(questions, TaskEval):
        questions = dataclasses.replace(questions, task=task)
    if isinstance(questions, QuestionsEval):
        questions = dataclasses.replace(questions, commonsense_qa="")
    if hasattr(questions, "items"):
        questions = dataclasses.replace(questions, items=2)
    return dataclasses.replace(
        cfg, model=model, method=method, data=data, eval=questions, task=task, steps=2, batch_size=2, control=False
    )


LIKE_ANOTHER = {"quiet_star/smollm2_math": "quiet_star/tiny", "rl/smollm2_sums": "rl/sums"}
"""Experiments with the method and the kind of data of one that runs by default."""


def changes_another(name: str) -> bool:
    """Whether an experiment is another one with other amounts, which in two steps are the same, or like it."""
    return name in LIKE_ANOTHER or "\n  - /experiments/" in (ROOT / "experiments" / f"{name}.yaml").read_text()


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if changes_another(name) else ()) for name in EXPERIMENTS]
)
def test_every_experiment_runs_two_steps(name, data_folder, monkeypatch):
    monkeypatch.setattr(train, "BEST_OF", 4)
    cfg = smaller(composed(f"experiments={name}"), data_folder)
    result = train.run(cfg, data_folder / "run")
    assert [line["step"] for line in small_runs.lines(data_folder / "run" / "metrics.jsonl")][-1] == 2
    asked = {QuestionsEval: {"gsm8k"}, CupsEval: {"cups"}, TaskEval: {"arithmetic_written"}, NoEval: set()}
    assert {row.task for row in result.after} == asked[type(cfg.eval)]


@pytest.mark.parametrize("name", [name for name, improves in RECIPES.items() if improves])
def test_every_recipe_of_self_training_composes(name):
    cfg = composed(f"experiments={name}", name="improve")
    assert isinstance(cfg, ImproveConfig)
    assert cfg.model.source and cfg.improve.iterations >= 1


@pytest.mark.parametrize(("method", "updates"), [("grpo", 1), ("dr_grpo", 1), ("dapo", 16), ("gspo", 4), ("reft", 2)])
def test_updates_from_the_rollouts_of_a_step_are_those_of_the_papers(method, updates):
    """With one every ratio is 1 and no clip acts."""
    cfg = composed("~experiments", f"method={method}", "data=rollouts", "task=cups", "batch_size=16")
    assert cfg.method.updates == updates


def test_rollouts_of_dapo_and_reft_earn_as_the_papers_say():
    dapo = composed("~experiments", "method=dapo", "data=rollouts_dapo", "task=cups", "batch_size=32").data
    assert (dapo.samples, dapo.dead, dapo.rewards.right, dapo.rewards.wrong) == (16, "refill", 1.0, -1.0)
    assert dapo.rewards.nothing == dapo.rewards.unfinished == -1.0
    reft = composed("~experiments", "method=reft", "data=rollouts_reft", "task=cups").data
    assert (reft.samples, reft.rewards.right, reft.rewards.wrong, reft.rewards.nothing) == (1, 1.0, 0.1, 0.0)
