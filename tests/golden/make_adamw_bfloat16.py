"""Makes adamw_bfloat16.npz: what torch.optim.AdamW does to weights that are held in bfloat16, step by step.

    python tests/golden/make_adamw_bfloat16.py

Needs torch, which the project does not. Written with torch 2.13.
"""

from pathlib import Path

import numpy as np
import torch

STEPS, SIZE = 12, 400


def main() -> None:
    draw = np.random.default_rng(0)
    weights = torch.tensor(draw.normal(size=SIZE) * 0.02, dtype=torch.bfloat16)
    grads = torch.tensor(draw.normal(size=(STEPS, SIZE)) * np.exp(2 * draw.normal(size=SIZE)), dtype=torch.bfloat16)
    found = {"begin": weights.float().numpy(), "grads": grads.float().numpy()}
    for name, lr, decay in (("fast", 1e-3, 0.0), ("paper", 1e-6, 1e-3)):
        held = torch.nn.Parameter(weights.clone())
        optimizer = torch.optim.AdamW([held], lr=lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=decay)
        steps = []
        for gradient in grads:
            held.grad = gradient.clone()
            optimizer.step()
            steps.append(held.detach().float().numpy().copy())
        state = optimizer.state[held]
        found |= {name: np.array(steps)}
        found |= {f"{name}_mu": state["exp_avg"].float().numpy(), f"{name}_nu": state["exp_avg_sq"].float().numpy()}
    np.savez_compressed(Path(__file__).with_name("adamw_bfloat16.npz"), **found)


if __name__ == "__main__":
    main()
