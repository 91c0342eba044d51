"""Sizes of published models, to calculate and to measure with: none of them has to be there."""

from qstar.models.lm import LMConfig

SIZES = {  # of SmolLM2-135M, Llama 3.2 1B and Mistral 7B; how they rotate their positions changes no cost
    "135M": LMConfig(49_152, 576, 30, 9, 3, 64, 1536, 4096, tied=True),
    "1B": LMConfig(128_256, 2048, 16, 32, 8, 64, 8192, 4096, tied=True),
    "7B": LMConfig(32_000, 4096, 32, 32, 8, 128, 14_336, 4096, tied=False),
}
