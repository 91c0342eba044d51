"""The schema of every configuration: frozen dataclasses, which are at once what Hydra checks and what the code uses.

YAML files in `configs/` and `experiments/` pick and override; defaults live in the dataclasses. A new method is one
line here (`SCHEMAS`) and one YAML file.
"""

import contextlib
import dataclasses
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypeVar

import hydra
import yaml
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError, MissingMandatoryValue, OmegaConfBaseException
from yaml import YAMLError

from qstar import __version__, advice, files, overrides, settings
from qstar.data.dataset import Data
from qstar.data.examples import ExamplesText
from qstar.data.generated import CupsText
from qstar.data.labelled import LabelledText
from qstar.data.on_policy import RolloutData
from qstar.data.overlong import OVERLONG
from qstar.data.pairs import PairsText
from qstar.data.pipeline import TextConfig
from qstar.evals.answers import TaskEval
from qstar.evals.chain import ChainEval
from qstar.evals.perplexity import PerplexityEval
from qstar.evals.suite import CupsEval, NoEval, QuestionsEval
from qstar.files import Json
from qstar.methods import protocol
from qstar.methods.adaptive import Adaptive
from qstar.methods.dpo import DPO
from qstar.methods.fast_quiet_star import FastQuietStar
from qstar.methods.helpful import Helpful
from qstar.methods.latro import LaTRO
from qstar.methods.plain_lm import PlainLM
from qstar.methods.policy_gradient import PolicyGradient
from qstar.methods.ppo import PPO
from qstar.methods.protocol import TOKEN_IDS, Credits
from qstar.methods.quiet_star import QuietStar
from qstar.methods.rlp import RLP
from qstar.methods.sft import SFT
from qstar.methods.verifier import ORM, PRM
from qstar.models.lora import LoraConfig
from qstar.models.origins import Pretrained, Scratch
from qstar.paths import CONFIGS, ROOT
from qstar.recipes.catalog import RECIPES
from qstar.search.beam import Beam
from qstar.search.best_of_n import BestOfN
from qstar.search.choose import AGGREGATIONS
from qstar.search.confidence import Confidence
from qstar.search.cot_decoding import CoTDecoding
from qstar.search.dvts import DVTS
from qstar.search.labelling import MonteCarlo, OmegaPRM
from qstar.search.lookahead import Lookahead
from qstar.search.majority import Majority
from qstar.search.mcts import MCTS
from qstar.search.particles import ParticleFilter
from qstar.search.revise import Revise
from qstar.search.router import Router
from qstar.settings import Count, Dataclass, NonNegative, OneOf, Positive, PositiveShare, Seed, Whole
from qstar.sharding import MeshConfig
from qstar.structs import Batch
from qstar.tasks.arithmetic import Arithmetic
from qstar.tasks.commonsense_qa import CommonsenseQA
from qstar.tasks.countdown import Countdown
from qstar.tasks.cups import Cups
from qstar.tasks.grading.sandbox import SandboxConfig
from qstar.tasks.gsm8k import GSM8K
from qstar.tasks.jsonl import Jsonl
from qstar.tasks.labels import Consensus, Truth
from qstar.tasks.problem import SPLITS
from qstar.tasks.puzzles import Puzzles
from qstar.tasks.svamp import SVAMP
from qstar.thoughts.thinking import Thinks
from qstar.training import rollouts
from qstar.training.metrics import SINKS
from qstar.training.optim import OptimConfig


def _check_run_dir(run_dir: str) -> None:
    if not run_dir.strip():
        raise ValueError(f"run_dir = {run_dir!r}: expected a folder, which need not be there yet")


@dataclass(frozen=True)
class TrainConfig:
    """One training run."""

    name: str = "run"  # name of the run, in run_dir and in loggers
    run_dir: str = "runs/${name}/${now:%Y%m%d-%H%M%S}"  # folder of the run
    resume: str = ""  # a run directory, or `latest`: resume it from its newest checkpoint, with its own configuration
    seed: Seed = 0  # of random initial weights, the order of the data, and thoughts
    steps: Count = 100  # of the optimiser
    batch_size: Count = 8  # sequences in an optimiser step
    micro_batches: Count = 1  # slices of a batch whose gradients are accumulated
    control: bool = False  # also train a plain language model on the same batches for as many steps
    log_every: Count = 1  # steps between lines of metrics
    save_every: Count = 50  # steps between checkpoints
    keep: Count = 2  # newest checkpoints kept
    sample_every: Whole = 50  # steps between samples of thoughts; 0 takes none
    sinks: tuple[Annotated[str, OneOf(SINKS)], ...] = ()  # in addition to metrics.jsonl: tensorboard, wandb
    # peak of one device, to which machine/mfu refers; 0: measured on a large matrix product
    peak_tflops: NonNegative = 0.0
    model: Any = MISSING  # the language model
    method: Any = MISSING  # the training method
    data: Any = MISSING  # the training data
    eval: Any = MISSING  # the evaluation
    task: Any = None  # with data=rollouts: whose questions the model answers during training
    lora: LoraConfig = field(default_factory=LoraConfig)  # low-rank adapters on a frozen language model
    optim: OptimConfig = field(default_factory=OptimConfig)  # the optimiser
    mesh: MeshConfig = field(default_factory=MeshConfig)  # the devices, and how arrays are split over them

    def __post_init__(self):
        object.__setattr__(self, "sinks", tuple(self.sinks))
        settings.check(self)
        _check_run_dir(self.run_dir)
        if self.batch_size % self.micro_batches:
            raise ValueError(
                f"batch_size = {self.batch_size} does not split into micro_batches = {self.micro_batches} equal parts"
            )
        self._check_data()
        self._check_rollouts()
        self._check_thoughts()

    def _check_data(self) -> None:
        """Raise ValueError where the method does not train on what the data holds, with a command that works."""
        takes, kind = protocol.trains_on(type(self.method)), type(self.data)
        as_text = Batch in kind.rows  # as a control reads its batches
        if takes in kind.rows and (as_text or not self.control):
            return
        method, data = choice("method", type(self.method)), choice("data", kind)
        if takes is Batch:  # which most formats are: the method is the one to change
            takers = [name for name, schema in SCHEMAS["method"].items() if protocol.trains_on(schema) in kind.rows]
            message = f"data={data} holds {kind.holds}, which method={method} does not train on, but {_named(takers)}"
            pairs = [(f"method={taker}", taker, kind) for taker in takers]
        else:
            fitting = [schema for schema in SCHEMAS["data"].values() if takes in schema.rows]
            what = fitting[0].holds if fitting else takes.__name__
            alone = "" if any(Batch in schema.rows for schema in fitting) else " without a control (control=false)"
            message = f"method={method} trains on {what}{alone}, and data={data} holds {kind.holds}"
            pairs = [(f"data={choice('data', schema)}", method, schema) for schema in fitting]
        raise ValueError(f"{message}: {_together(*pairs[0])}" if pairs else message)

    def _check_rollouts(self) -> None:
        """Raise ValueError where what the model is to answer is not said, or does not divide."""
        if not isinstance(self.method, Credits):
            return
        if self.task is None:
            raise ValueError(
                "data=rollouts samples answers to the questions of a task: give one, such as task=arithmetic"
            )
        rollouts.check(self.data, self.method, self.batch_size, self.micro_batches)

    def _check_thoughts(self) -> None:
        """Raise ValueError for thoughts that no window of the data holds."""
        if not isinstance(self.method, Thinks):
            return
        columns = self.method.thinking.thought_len + self.method.thinking.lookahead + 1
        if columns > self.data.length:
            raise ValueError(
                f"method.thought_len = {self.method.thought_len} and method.lookahead = {self.method.lookahead} make "
                f"thoughts of {columns} columns, longer than the window data.length = {self.data.length}: shorten the "
                "thought or lengthen the window" + self._preset()
            )

    def _preset(self) -> str:
        """The preset of the method for such data, where there is one."""
        preset = f"{choice('method', type(self.method))}_{choice('data', type(self.data))}"
        if not (Path(CONFIGS) / "method" / f"{preset}.yaml").is_file():
            return ""
        return f", or take this method's settings for such data:\n  {advice.command('qstar-train', f'method={preset}')}"


@dataclass(frozen=True)
class EvaluateConfig:
    """One evaluation of a trained run, or of a language model as it is (`run=none model=...`)."""

    run: str = "latest"  # a run directory, `latest`, or `none`
    step: Any = "newest"  # checkpoint to evaluate: a step, a list of steps, `newest`, or `all`
    out: str = ""  # folder for the table and the rows of all items; a stopped evaluation resumes from it
    seed: Seed = 0  # of sampled thoughts
    sinks: tuple[Annotated[str, OneOf(SINKS)], ...] = ()  # where figures are shown as well: tensorboard, wandb
    method: dict[str, Any] = field(default_factory=dict)  # settings of the method to change
    model: Any = MISSING  # the language model that is evaluated with run=none
    eval: Any = MISSING  # the evaluation
    mesh: MeshConfig = field(default_factory=MeshConfig)  # the devices of a process, and how arrays are split over them

    def __post_init__(self):
        object.__setattr__(self, "sinks", tuple(self.sinks))
        settings.check(self)
        steps = self.step if isinstance(self.step, list | tuple) else [self.step]
        numbers = all(
            isinstance(step, int) and not isinstance(step, bool) and 0 <= step <= settings.INT32 for step in steps
        )
        if self.step not in ("newest", "all") and not (numbers and steps):
            raise ValueError(f"step = {self.step!r}: expected a step, a list of steps as in [10,20], newest or all")
        if self.sinks and not self.out:
            raise ValueError(f"sinks = {list(self.sinks)}: what they keep needs a folder; give out=FOLDER as well")
        if self.method and self.run == "none":
            raise ValueError(f"method = {self.method!r} changes how a trained run is evaluated: give run=DIRECTORY")


@dataclass(frozen=True)
class ImproveConfig:
    """One self-training run."""

    name: str = "improve"  # name of the run, in run_dir and in loggers
    run_dir: str = "runs/${name}/${now:%Y%m%d-%H%M%S}"  # folder of the run
    resume: str = ""  # a run directory, or `latest`: resume it, with its own configuration
    seed: Seed = 0  # of all sampling
    sample_batch: Count = 32  # prompts continued in one batch
    batch_size: Count = 8  # rows in an optimiser step
    micro_batches: Count = 1  # slices of a batch whose gradients are accumulated
    length: Count = 256  # tokens in a row of training, filled with as many whole examples as fit
    dev: Whole = 0  # dev problems evaluated after every iteration; 0: all
    ask_few_shot: bool = False  # few-shot examples before the questions that are evaluated
    ask_both: bool = False  # evaluate both with few-shot examples and without
    # questions longer than the model's context: error, or skip (left out and counted)
    overlong: Annotated[str, OneOf(OVERLONG)] = "error"
    wrong_hints: Whole = 0  # training questions sampled with a wrong hint in every iteration, never trained on
    test: bool = False  # evaluate the test split after the last iteration
    log_every: Count = 10  # steps between lines of metrics
    save_every: Count = 100  # steps between checkpoints
    sinks: tuple[Annotated[str, OneOf(SINKS)], ...] = ()  # where figures are shown as well: tensorboard, wandb
    model: Any = MISSING  # the language model
    task: Any = MISSING  # the questions
    improve: Any = MISSING  # the recipe
    sandbox: SandboxConfig = field(default_factory=SandboxConfig)  # isolation of the grading processes
    optim: OptimConfig = field(default_factory=OptimConfig)  # the optimiser
    mesh: MeshConfig = field(default_factory=MeshConfig)  # the devices, and how arrays are split over them

    def __post_init__(self):
        object.__setattr__(self, "sinks", tuple(self.sinks))
        settings.check(self)
        _check_run_dir(self.run_dir)
        if self.batch_size % self.micro_batches:
            raise ValueError(
                f"batch_size = {self.batch_size} does not split into micro_batches = {self.micro_batches} equal parts"
            )


@dataclass(frozen=True)
class SolveConfig:
    """One search for solutions of held-out questions."""

    name: str = "solve"  # of the run, in run_dir
    run_dir: str = "runs/${name}/${now:%Y%m%d-%H%M%S}"  # folder of the run
    resume: str = ""  # a run directory, or `latest`: resume it, with its own configuration
    tables: str = ""  # a run directory, or `latest`: its table again at smaller budgets, without a model
    tree: str = ""  # with tables: the id of a question whose tree is shown instead
    # of the table: solutions of a question, []: halves of those sampled; or of a search by steps tokens of a question
    budgets: tuple[Count, ...] = ()
    # of the table: of fewer solutions the mean over all subsets (Verifier@k), not the first ones; of search=best_of_n
    # search.select=max
    subsets: bool = False
    seed: Seed = 0  # of all sampling
    # questions of dev; of test, which is recorded; or of train, to train on what is found (`qstar-prepare --to trl`)
    split: Annotated[str, OneOf(SPLITS)] = "dev"
    questions: Whole = 100  # of the split, drawn by a fixed seed; 0: all
    sample_batch: Count = 8  # questions searched in one batch
    few_shot: bool = False  # few-shot examples before the questions
    # questions longer than the model's context: error, or skip (left out and counted)
    overlong: Annotated[str, OneOf(OVERLONG)] = "error"
    temperature: NonNegative = 1.0  # divides the logits; 0 takes the likeliest token
    top_k: Whole = 0  # only the k likeliest tokens; 0: all
    top_p: PositiveShare = 1.0  # only the likeliest tokens that together have this probability
    step_tokens: Count = 64  # maximal number of tokens in a step
    delimiters: tuple[str, ...] = ()  # texts that end a step; []: the task's
    max_candidates: Whole = 0  # steps or solutions proposed for a question; 0: no limit
    max_tokens: Whole = 0  # tokens generated for a question; 0: no limit
    # runs of method=orm, prm or dpo, classifiers, bundled:NAME, judge:MODEL (any language model), `oracle`, `logprob`;
    # the first guides the search, the others only score
    scorer: Any = ()
    aggregate: Annotated[str, OneOf(AGGREGATIONS)] = "last"  # from the scores of steps to that of a solution
    sinks: tuple[Annotated[str, OneOf(SINKS)], ...] = ()  # where figures are shown as well: tensorboard, wandb
    model: Any = MISSING  # the language model
    task: Any = MISSING  # the questions
    search: Any = MISSING  # the strategy
    sandbox: SandboxConfig = field(default_factory=SandboxConfig)  # isolation of the grading processes
    mesh: MeshConfig = field(default_factory=MeshConfig)  # the devices of a process, and how arrays are split over them

    def __post_init__(self):
        scorer = tuple(self.scorer or ()) if isinstance(self.scorer, list | tuple | None) else (self.scorer,)
        object.__setattr__(self, "scorer", tuple(item for item in scorer if item not in ("", None)))
        for name in ("budgets", "delimiters"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        object.__setattr__(self, "sinks", tuple(self.sinks))
        settings.check(self)
        _check_run_dir(self.run_dir)
        if not all(isinstance(item, str) for item in self.scorer) or len(set(self.scorer)) < len(self.scorer):
            raise ValueError(
                f"scorer = {list(self.scorer)}: expected a run of method=orm, prm or dpo, a classifier, bundled:NAME, "
                "judge:MODEL, oracle or logprob, or a list of different ones"
            )
        if "" in self.delimiters:
            raise ValueError(f"delimiters = {list(self.delimiters)}: expected texts of one or more characters")


@dataclass(frozen=True)
class LabelConfig:
    """One run of labelling: which steps of solutions are right."""

    name: str = "label"  # of the run, in run_dir
    run_dir: str = "runs/${name}/${now:%Y%m%d-%H%M%S}"  # folder of the run
    resume: str = ""  # a run directory, or `latest`: resume it, with its own configuration
    seed: Seed = 0  # of all sampling
    # Where the solutions are from: a run of qstar-improve, qstar-solve or qstar-label, or a file of JSON lines with
    # problem and completion (or completions); empty: sampled from the model.
    source: str = ""
    split: Annotated[str, OneOf(SPLITS)] = "train"  # whose questions
    problems: Whole = 0  # how many questions, from the first; 0: all
    # questions longer than the model's context: error, or skip (left out and counted)
    overlong: Annotated[str, OneOf(OVERLONG)] = "error"
    samples: Count = 4  # solutions of each question, if they are sampled
    temperature: Positive = 1.0  # sampling temperature of solutions and completions
    top_k: Whole = 0  # sample among the k likeliest tokens only; 0: all
    top_p: PositiveShare = 1.0  # sample among the likeliest tokens that together have this probability only
    batch: Count = 16  # questions labelled in one batch; a kill loses at most one batch
    rows: Count = 128  # completions generated in one batch
    sinks: tuple[Annotated[str, OneOf(SINKS)], ...] = ()  # where figures are shown as well: tensorboard, wandb
    model: Any = MISSING  # the model that generates solutions and completions
    task: Any = MISSING  # the questions
    label: Any = MISSING  # how a step is labelled
    sandbox: SandboxConfig = field(default_factory=SandboxConfig)  # isolation of the grading processes
    mesh: MeshConfig = field(default_factory=MeshConfig)  # the devices of a process, and how arrays are split over them

    def __post_init__(self):
        object.__setattr__(self, "sinks", tuple(self.sinks))
        settings.check(self)
        _check_run_dir(self.run_dir)


C = TypeVar("C", TrainConfig, ImproveConfig, SolveConfig, LabelConfig)

COMMANDS = {
    "train": TrainConfig,
    "evaluate": EvaluateConfig,
    "improve": ImproveConfig,
    "solve": SolveConfig,
    "label": LabelConfig,
}
SCHEMAS: dict[str, dict[str, type]] = {
    "method": {
        "quiet_star": QuietStar,
        "lm": PlainLM,
        "sft": SFT,
        "fast_quiet_star": FastQuietStar,
        "rlp": RLP,
        "latro": LaTRO,
        "adaptive": Adaptive,
        "helpful": Helpful,
        "dpo": DPO,
        "policy_gradient": PolicyGradient,
        "ppo": PPO,
        "orm": ORM,
        "prm": PRM,
    },
    "model": {"pretrained": Pretrained, "scratch": Scratch},
    "data": {
        "cups": CupsText,
        "text": TextConfig,
        "examples": ExamplesText,
        "labelled": LabelledText,
        "pairs": PairsText,
        "rollouts": RolloutData,
    },
    "eval": {
        "cups": CupsEval,
        "questions": QuestionsEval,
        "chain": ChainEval,
        "perplexity": PerplexityEval,
        "task": TaskEval,
        "none": NoEval,
    },
    "improve": RECIPES,
    "search": {
        "majority": Majority,
        "best_of_n": BestOfN,
        "beam": Beam,
        "dvts": DVTS,
        "lookahead": Lookahead,
        "particles": ParticleFilter,
        "mcts": MCTS,
        "cot_decoding": CoTDecoding,
        "confidence": Confidence,
        "revise": Revise,
        "router": Router,
    },
    "label": {"truth": Truth, "monte_carlo": MonteCarlo, "omega": OmegaPRM, "consensus": Consensus},
    "task": {
        "arithmetic": Arithmetic,
        "countdown": Countdown,
        "cups": Cups,
        "gsm8k": GSM8K,
        "commonsense_qa": CommonsenseQA,
        "svamp": SVAMP,
        "reasoning_gym": Puzzles,
        "jsonl": Jsonl,
    },
    "optim": {"adamw": OptimConfig},
    "mesh": {"mesh": MeshConfig},
}


def choice(group: str, schema: type) -> str:
    """What a schema of a group is chosen by, as in method=quiet_star, and called wherever it is shown.

    A class that is in no group has its own name.
    """
    return next((name for name, known in SCHEMAS.get(group, {}).items() if known is schema), schema.__name__)


def given(group: str, value: object) -> str:
    """The choice of a group as one gives it: `method=quiet_star`."""
    return f"{group}={choice(group, type(value))}"


def _named(methods: Sequence[str]) -> str:
    return " and ".join(f"method={name}" for name in methods) or "no method does"


def _together(change: str, method: str, data: type[Data]) -> str:
    """How a method is trained on data of this kind, by a changed setting; the command in it works as it is."""
    kind = choice("data", data)
    command = advice.command("qstar-train", f"method={method}", f"data={kind}")
    if not data.example:
        return f"give {change}, as in\n  {command} {data.beside}".rstrip()
    *fields, last = json.loads(data.example)
    control = "" if Batch in data.rows else " control=false"
    return (
        f"give {change} data.path=FILE, JSON lines with {', '.join(fields)} and {last}, as in\n"
        f"  printf '{data.example}\\n' > {kind}.jsonl && {command} data.path={kind}.jsonl{control}"
    )


def register() -> None:
    """Make the schemas known to Hydra, as `base_NAME` in each group. Safe to call twice."""
    # Cached, so that all jobs of a sweep are told the same folder, which is made when the first one asks.
    claim = lambda folder: str(files.claim(folder)[-1])  # noqa: E731
    OmegaConf.register_new_resolver("qstar_fresh", claim, use_cache=True, replace=True)
    OmegaConf.register_new_resolver("qstar_root", lambda: str(ROOT), replace=True)
    # Hydra copies all that is registered for each configuration it composes, a quarter of its time, and what it reads
    # again: the second copy is enough.
    ConfigStore.__deepcopy__ = lambda store, _: store
    for group, schemas in {None: COMMANDS, **SCHEMAS}.items():
        for name, schema in schemas.items():
            if _registered.get((group, name)) is not schema:  # all of them take as long as to compose a configuration
                ConfigStore.instance().store(group=group, name=f"base_{name}", node=_writable(schema))
                _registered[group, name] = schema


_registered: dict[tuple[str | None, str], type] = {}


def _writable(schema: type) -> DictConfig:
    """Frozen dataclasses become read-only nodes, which refuse overrides: clear the flag at every depth."""
    node = OmegaConf.structured(schema)
    OmegaConf.set_readonly(node, None)
    for key in node:
        child = node._get_node(key)
        if isinstance(child, DictConfig):
            OmegaConf.set_readonly(child, None)
    return node


def build(node: DictConfig, prefix: str = "") -> Dataclass:
    """The frozen dataclass of a composed configuration, or of the part of one whose settings have this prefix.

    Raises ValueError where a value is missing or its interpolation fails, and what the dataclasses' checks raise.
    """
    _check_known(node, prefix)
    try:
        return OmegaConf.to_object(node)
    except OmegaConfBaseException as error:
        if isinstance(error, MissingMandatoryValue):
            _check_given(node)
        raise ValueError(_explained(error)) from error


def _check_given(node: DictConfig) -> None:
    """Of a configuration that lacks a value, raise ValueError where one that is there is refused: it comes first."""
    for name in node:
        child = node._get_node(name)
        if isinstance(child, DictConfig) and not child._is_none() and not child._is_missing():
            with contextlib.suppress(OmegaConfBaseException):
                OmegaConf.to_object(child)


def composed(command: str, given: Sequence[str]) -> TrainConfig | EvaluateConfig | ImproveConfig | SolveConfig:
    """What `qstar-COMMAND` makes of these arguments. Raises Hydra's errors, and ValueError as `build`."""
    register()
    with hydra.initialize_config_dir(CONFIGS, version_base="1.3"):
        return build(hydra.compose(command, list(given)))


def _check_known(node: DictConfig, prefix: str = "") -> None:
    """Raise ValueError for a setting that its dataclass does not have, as `+key=value` adds it."""
    schema = OmegaConf.get_type(node)
    if not dataclasses.is_dataclass(schema):
        return
    known = [setting.name for setting in dataclasses.fields(schema)]
    for name in node:
        if name not in known:
            raise ValueError(overrides.unknown(f"{prefix}{name}", [f"{prefix}{setting}" for setting in known]))
        child = node._get_node(name)
        if isinstance(child, DictConfig) and not child._is_none() and not child._is_missing():
            _check_known(child, f"{prefix}{name}.")


def _explained(error: OmegaConfBaseException) -> str:
    """OmegaConf's message on one line, with the key and what is expected."""
    key, message = error.full_key or "", str(error.msg or error).splitlines()[0]
    if isinstance(error, MissingMandatoryValue):
        return f"{key} has no value: give {key}=VALUE"
    if isinstance(error, InterpolationResolutionError):
        message += f"; set what it refers to, or give {key.partition('[')[0]}=VALUE"
    return f"{key}: {message}" if key else message


def save(cfg: TrainConfig | ImproveConfig | SolveConfig | LabelConfig, file: Path) -> None:
    """Write a configuration so that `load` gives it back."""
    contents = {"schemas": _chosen(cfg), **dataclasses.asdict(cfg)}
    # Renamed into place: a directory with a config.yaml is a run, and this one is complete.
    files.write(file, OmegaConf.to_yaml(OmegaConf.create(_literal(contents))))


def _chosen(cfg: Dataclass, prefix: str = "") -> dict[str, str]:
    """The schema of every group by its dotted key, of a task within an evaluation too."""
    chosen = {}
    for setting in dataclasses.fields(cfg):
        value = getattr(cfg, setting.name)
        if setting.name in SCHEMAS and dataclasses.is_dataclass(value):
            key = f"{prefix}{setting.name}"
            chosen |= {key: type(value).__name__} | _chosen(value, f"{key}.")
    return chosen


def _literal(tree: Json) -> Json:
    """Values that OmegaConf does not interpolate: a text may hold `${`."""
    if isinstance(tree, dict):
        return {key: _literal(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [_literal(value) for value in tree]
    return re.sub(r"(\\*)\$\{", lambda match: 2 * match[1] + r"\${", tree) if isinstance(tree, str) else tree


def load(file: Path, given: Sequence[str] = (), schema: type[C] = TrainConfig) -> C:
    """A saved configuration of this kind, with `key=value` overrides, in Hydra's grammar, on top.

    Raises ValueError, with file and line, for a file that this version of qstar does not read; and for overrides that
    do not fit.
    """
    node = _loaded(file, schema)
    if given:
        return build(_overridden(node, given))
    try:
        return build(node)
    except ValueError as error:
        raise ValueError(f"{file}, line {_line(file, re.match('[A-Za-z_.]*', str(error))[0])}: {error}") from error


def _loaded(file: Path, schema: type) -> DictConfig:
    try:
        contents = OmegaConf.load(file)
        _check_layout(contents)
        groups = [setting.name for setting in dataclasses.fields(schema) if setting.name in SCHEMAS]
        if contents.schemas.get("improve") == "Improve":  # of earlier versions: all settings, whatever recipe they made
            contents.schemas.improve = "Recipe"
        groups = [name for name in groups if contents.get(name) is not None or name in contents.schemas]
        schemas = {name: _schema(name, contents.schemas[name]) for name in groups}
        node = _writable(schema)
        for name, group in schemas.items():
            node[name] = _writable(group)
        for key in contents.schemas:
            parent, _, name = key.rpartition(".")
            if parent:
                OmegaConf.select(node, parent)[name] = _writable(_schema(name, contents.schemas[key]))
        del contents["schemas"]
        _migrate(contents)
        return OmegaConf.merge(node, contents)
    except FileNotFoundError:
        raise
    # A file of something else than text, of no mapping, of other keys.
    except (OmegaConfBaseException, YAMLError, TypeError, ValueError, OverflowError, OSError) as error:
        mark = getattr(error, "problem_mark", None)
        line = _line(file, getattr(error, "full_key", "")) if mark is None else mark.line + 1
        raise ValueError(
            f"{file} is not a configuration that qstar {__version__} wrote: line {line}: {error}"
        ) from error


def _check_layout(contents: object) -> None:
    """Raise ValueError where a file names no schema for each of its groups, or has something else in place of one."""
    schemas = contents.get("schemas") if isinstance(contents, DictConfig) else None
    if not isinstance(schemas, DictConfig):
        raise ValueError("expected settings by name, among them schemas, which has the schema of each group")
    for key, schema in schemas.items():
        parent, _, name = str(key).rpartition(".")
        if name not in SCHEMAS or not isinstance(schema, str):
            raise _Unknown(f"schemas.{key} is {schema!r}: expected the schema of a group", "schemas")
        group = OmegaConf.select(contents, parent or name)
        if not isinstance(group, DictConfig):
            raise _Unknown(f"{parent or name} is {group!r}: expected the settings of {schema}", str(parent or name))


def _line(file: Path, key: str | None) -> int:
    """The line of a dotted key, or of the last part of it that is there; 1 where the file is no YAML."""
    line = 1
    # No YAML, no such key, or something else than a mapping.
    with contextlib.suppress(YAMLError, ValueError, AttributeError, StopIteration, TypeError):
        node = yaml.compose(file.read_text(encoding="utf-8"))
        for name in (key or "").split("."):
            key_node, node = next(pair for pair in node.value if pair[0].value == name)
            line = key_node.start_mark.line + 1
    return line


def _migrate(contents: DictConfig) -> None:
    """Configurations of earlier versions: `eval.greedy` said how to think where `eval.thoughts` now lists the ways,
    what weighs by a question's standard deviation was called grpo, and methods held the ids of their tokens."""
    if "eval" in contents and "greedy" in contents.eval:
        thinking = "greedy" if contents.eval.pop("greedy") else "sampled"
        contents.eval.thoughts = ["none", thinking]
    for name in TOKEN_IDS if "method" in contents else ():
        contents.method.pop(name, None)
    if "improve" in contents and contents.improve.get("weighting") == "grpo":
        contents.improve.weighting = "deviation"


class _Unknown(ValueError):  # noqa: N818 (it is what is said)
    """A choice that this version does not have; `full_key` is its key, as OmegaConf's errors have it."""

    def __init__(self, message: str, full_key: str):
        self.full_key = full_key
        super().__init__(message)


def _schema(group: str, name: str) -> type:
    known = {schema.__name__: schema for schema in SCHEMAS[group].values()}
    if name not in known:
        raise _Unknown(
            f"a saved configuration has {group} {name!r}; this qstar knows {', '.join(known)}", f"schemas.{group}"
        )
    return known[name]


def _overridden(node: DictConfig, given: Sequence[str]) -> DictConfig:
    for argument in given:
        try:
            override = OverridesParser.create().parse_override(argument)
        except HydraException as error:
            raise ValueError(overrides.unreadable(argument)) from error
        refusal = overrides.refusal(node, override)
        if refusal:
            raise ValueError(refusal)
        OmegaConf.update(node, override.key_or_group, override.value())
    return node


def changes(old: Dataclass, new: Dataclass) -> list[str]:
    """`key = old, now new` of every value in which two configurations differ, but for the run's name and place."""
    before, after = flat(old), flat(new)
    keys = [key for key in {**before, **after} if key not in ("name", "run_dir", "resume")]
    return [f"{key} = {before.get(key)}, now {after.get(key)}" for key in keys if before.get(key) != after.get(key)]


def differing(old: Dataclass, new: Dataclass) -> list[str]:
    """`key=value` on a command line for every value in which `new` differs; none where a choice of a group does."""
    before, after = flat(old), flat(new)
    keys = [key for key in after if key not in ("name", "run_dir", "resume") and before.get(key) != after[key]]
    chosen = {field.name for field in dataclasses.fields(new) if dataclasses.is_dataclass(getattr(new, field.name))}
    return [] if chosen & set(keys) else [advice.override(key, after[key]) for key in keys]


def flat(cfg: Dataclass, prefix: str = "") -> dict[str, object]:
    """Values by dotted key; of a choice from a group its name as well, of another nested configuration its class."""
    values = {}
    for setting in dataclasses.fields(cfg):
        key, value = prefix + setting.name, getattr(cfg, setting.name)
        if dataclasses.is_dataclass(value):
            values |= {key: choice(setting.name, type(value))} | flat(value, f"{key}.")
        else:
            values[key] = value
    return values
