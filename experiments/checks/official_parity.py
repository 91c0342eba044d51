"""Does qstar compute what the released Quiet-STaR code computes? Losses, rewards and gradients of tiny random models.

Weights, text and the thoughts that the released code sampled go through method preset `quiet_star_official` in float64.
An error is norm-wise: the largest difference over the largest expected entry, for every array separately.

    python experiments/checks/official_parity.py                        # against the arrays in tests/golden/official
    python experiments/checks/official_parity.py --checkout quiet-star  # against what its code computes now

The second needs `pip install -e . torch==2.13.0 transformers==4.37.2` and a clone of github.com/ezelikman/quiet-star at
commit 892446b. A minute on two CPU cores.
"""

import dataclasses
import functools
import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from qstar import config as configs
from qstar.cli import flags
from qstar.methods.quiet_star import QuietStar
from qstar.models import thinker
from qstar.models.definition import Definition
from qstar.models.lm import LMConfig
from qstar.models.thinker import Tokens
from qstar.reports import tables
from qstar.structs import Batch, Context
from qstar.thoughts.fill import Inner

GOLDEN = Path(__file__).resolve().parents[2] / "tests" / "golden"
QUANTITIES = ("base", "talk", "reward", "policy", "total", "gradient")

# Where each of our weights comes from. Their matrices are [out, in].
BLOCK = {
    "attention_norm/scale": "input_layernorm.weight",
    "query": "self_attn.q_proj.weight",
    "key": "self_attn.k_proj.weight",
    "value": "self_attn.v_proj.weight",
    "out": "self_attn.o_proj.weight",
    "mlp_norm/scale": "post_attention_layernorm.weight",
    "gate": "mlp.gate_proj.weight",
    "up": "mlp.up_proj.weight",
    "down": "mlp.down_proj.weight",
}
SINGLE = {
    "lm/norm/scale": "model.norm.weight",
    "mixing/first": "talk_head.0.0.weight",
    "mixing/first_bias": "talk_head.0.0.bias",
    "mixing/second": "talk_head.0.2.weight",
    "mixing/second_bias": "talk_head.0.2.bias",
    "mixing/last": "talk_head.0.4.weight",
}
TABLES = {"lm/embedding": "model.embed_tokens.weight", "lm/head": "lm_head.weight"}  # [vocabulary, width] in both
DELIMITERS = {"start": "start_embedding", "end": "end_embedding"}  # their second rows are never used


@dataclass(frozen=True)
class Golden:
    """What the released code was given and what it computed: `make_official.py` names the arrays."""

    case: dict
    arrays: dict[str, np.ndarray]

    @classmethod
    def load(cls, file: Path) -> "Golden":
        with np.load(file) as arrays:
            return cls(json.loads(str(arrays["case"])), {name: arrays[name] for name in arrays if name != "case"})

    @property
    def lm(self) -> LMConfig:
        case = self.case
        same = {name: case[name] for name in ("vocab", "width", "layers", "heads", "kv_heads", "ff", "tied")}
        return LMConfig(
            **same,
            head_size=case["width"] // case["heads"],
            rope_theta=case["theta"],
            norm_eps=case["eps"],
            dtype="float64",
        )

    @property
    def method(self) -> QuietStar:
        """The preset at this case's size."""
        case = self.case
        changed = {} if case["n_passes"] > 1 else {"baseline": "base"}
        return dataclasses.replace(
            preset(),
            thought_len=case["n_ahead"] - 3,
            num_thoughts=case["n_passes"],
            lookahead=case["n_ahead_talk"],
            beta=case["beta"] if case["policy"] else 0.0,
            **changed,
        )

    @property
    def definition(self) -> Definition:
        """Of a thinker whose delimiters have ids, which thoughts never contain."""
        tokens = Tokens(forbidden=(self.case["vocab"] - 2, self.case["vocab"] - 1))
        return thinker.definition(dataclasses.replace(self.method.thinker(self.lm), tokens=tokens))

    @property
    def batch(self) -> Batch:
        real = self.arrays["mask"]
        position = np.where(real, np.arange(real.shape[1])[None], 0)
        return Batch(*(jnp.asarray(x) for x in (self.arrays["tokens"].astype(int), real, real.astype(int), position)))

    def tree(self, kind: str, definition: Definition) -> dict[str, jax.Array]:
        """Their arrays of a `kind`, weight or gradient, as ours: path -> array."""
        return {path: self._leaf(kind, path, leaf.shape) for path, leaf in flat(definition.abstract).items()}

    def _leaf(self, kind: str, path: str, shape: tuple[int, ...]) -> np.ndarray:
        if path in TABLES:
            return self.arrays[f"{kind}/{TABLES[path]}"]
        if path in DELIMITERS:
            return self.arrays[f"{kind}/{DELIMITERS[path]}"][0]
        if path in SINGLE:
            return self.arrays[f"{kind}/{SINGLE[path]}"].T.reshape(shape)
        name = BLOCK[path.removeprefix("lm/blocks/")]
        stack = [self.arrays[f"{kind}/model.layers.{layer}.{name}"] for layer in range(shape[0])]
        return np.stack([matrix.T.reshape(shape[1:]) for matrix in stack])


@functools.cache
def preset() -> QuietStar:
    """Method preset `quiet_star_official`, as the command line composes it."""
    chosen = ["~experiments", "method=quiet_star_official", "data=text", "data.paths=[README.md]"]
    return configs.composed("train", chosen).method


def flat(tree) -> dict:
    """Leaves under their paths, `lm/blocks/query` style."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def ours(golden: Golden) -> dict[str, np.ndarray]:
    """What qstar makes of the same weights, text and thoughts, under the names that the golden arrays have."""
    method, batch = golden.method, golden.batch
    definition = golden.definition
    weights = {path: jnp.asarray(leaf) for path, leaf in golden.tree("weight", definition).items()}
    params = jax.tree.unflatten(jax.tree.structure(definition.abstract), weights.values())
    thoughts = jnp.asarray(golden.arrays["thoughts"].astype(int))

    def loss(params):
        model = definition.bind(params)
        anchors = jnp.broadcast_to(jnp.arange(batch.tokens.shape[1])[None], batch.tokens.shape)
        context = Context(model.lm.text(batch), batch, anchors)
        talk = method.thinking.talk(model, context, Inner(model.lm.embed(thoughts), thoughts))
        terms = method.terms(talk, batch)
        return terms.loss, terms

    (total, terms), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    # The released code has no rewards for the last positions; ours are zero there.
    judged = batch.tokens.shape[1] - 1 - method.lookahead
    values = {"base": terms.base, "talk": terms.mixed, "total": total, "policy": terms.policy}
    values["reward"] = terms.credit.reward[:, :, :judged]
    values |= {f"gradient/{path}": leaf for path, leaf in flat(gradient).items()}
    return {name: np.asarray(value) for name, value in values.items()}


def relative_error(computed: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(computed - expected).max() / np.abs(expected).max())


def errors(golden: Golden) -> dict[str, float]:
    """Relative error of every quantity: base, each talk loss, rewards, policy, total, the gradient of each weight."""
    computed, definition = ours(golden), golden.definition
    compared = {name: relative_error(computed[name], golden.arrays[name]) for name in ("base", "total")}
    talks = zip(computed["talk"], golden.arrays["talk"], strict=True)
    compared |= {f"talk/{n}": relative_error(*pair) for n, pair in enumerate(talks, 1)}
    if golden.case["policy"]:
        compared |= {name: relative_error(computed[name], golden.arrays[name]) for name in ("reward", "policy")}
    for path, expected in golden.tree("gradient", definition).items():
        compared |= _gradient_errors(path, computed[f"gradient/{path}"], expected)
    return compared


def _gradient_errors(path: str, computed: np.ndarray, expected: np.ndarray) -> dict[str, float]:
    """One figure for every array of theirs: stacked layers are compared separately."""
    if not path.startswith("lm/blocks/"):
        return {f"gradient/{path}": relative_error(computed, expected)}
    pairs = enumerate(zip(computed, expected, strict=True))
    return {f"gradient/{path}/{layer}": relative_error(*pair) for layer, pair in pairs}


def row(name: str, golden: Golden) -> str:
    """A line of the table: the case and its largest error of each kind."""
    case, compared = golden.case, errors(golden)
    columns = [name, f"{case['layers']} x {case['width']}", f"{case['heads']}/{case['kv_heads']}"]
    columns += [" ".join(map(str, case["lengths"])), case["n_ahead"], case["n_ahead_talk"], case["n_passes"]]
    columns += [f"{case['beta']:.0e}" if case["policy"] else "off"]
    for quantity in QUANTITIES:
        values = [value for key, value in compared.items() if key.split("/")[0] == quantity]
        columns.append(f"{max(values):.1e}" if values else "")
    return tables.row(columns)


def main(golden: Path) -> None:
    files = sorted(golden.glob("*.npz"))
    if not files:
        raise FileNotFoundError(f"{golden} has no .npz; tests/golden/make_official.py writes them")
    names = ["case", "layers x width", "heads/kv", "rows", "n_ahead", "n_ahead_talk", "n_passes", "beta", *QUANTITIES]
    print(tables.head(names))
    with jax.enable_x64(True):
        for file in files:
            print(row(file.stem, Golden.load(file)), flush=True)


if __name__ == "__main__":
    options = flags.parser(__doc__)
    source = options.add_mutually_exclusive_group()
    source.add_argument("--golden", type=Path, default=GOLDEN / "official", help="folder of make_official.py")
    source.add_argument("--checkout", type=Path, help="run the released code of this clone first")
    chosen = options.parse_args()
    if chosen.checkout is None:
        main(chosen.golden)
    else:
        with tempfile.TemporaryDirectory() as made:
            script = [sys.executable, str(GOLDEN / "make_official.py"), str(chosen.checkout), "--out", made]
            subprocess.run(script, check=True, stdout=subprocess.DEVNULL)
            main(Path(made))
