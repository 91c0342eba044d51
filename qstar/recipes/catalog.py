"""All recipes by name, and which of them the settings of a run make."""

import dataclasses

from qstar.recipes.advantage_sft import AdvantageSFT
from qstar.recipes.direct import Direct
from qstar.recipes.expert_iteration import ExpertIteration
from qstar.recipes.human_rationales import HumanRationales
from qstar.recipes.irpo import IRPO
from qstar.recipes.recipe import Recipe
from qstar.recipes.rest_em import ReSTEM
from qstar.recipes.rft import RFT
from qstar.recipes.ssd import SSD
from qstar.recipes.star import STaR
from qstar.recipes.trice import TRICE
from qstar.recipes.vstar import VSTaR

RECIPES: dict[str, type[Recipe]] = {
    "recipe": Recipe,
    "star": STaR,
    "rft": RFT,
    "rest_em": ReSTEM,
    "expert_iteration": ExpertIteration,
    "trice": TRICE,
    "vstar": VSTaR,
    "irpo": IRPO,
    "advantage_sft": AdvantageSFT,
    "ssd": SSD,
    "sft": HumanRationales,
    "direct": Direct,
}
"""Names in configurations; `recipe` has all settings and no paper's choices."""
OWN = (IRPO, Direct, HumanRationales, TRICE, SSD, AdvantageSFT)
"""Those with answers of their own; the first that settings make counts."""


def made(recipe: Recipe) -> Recipe:
    """The recipe that these settings make: STaR with keep=all is SSD, TRICE with memory=all keeps what is right.

    One that is not of this catalog stays as it is.
    """
    if type(recipe) not in RECIPES.values():
        return recipe
    kind = next((kind for kind in OWN if _makes(recipe, kind)), Recipe)
    return kind(**{field.name: getattr(recipe, field.name) for field in dataclasses.fields(recipe)})


def _makes(recipe: Recipe, kind: type[Recipe]) -> bool:
    return all(getattr(recipe, name) == value for name, value in kind.made_by.items())
