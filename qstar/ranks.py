"""Which of several processes this is, before they have joined: what starts them together says so."""

import os

NAMES = ("JAX_PROCESS_ID", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK")


def first() -> bool:
    """Whether this process may say that it starts; one that stays alone (QSTAR_DISTRIBUTED=0) is the first."""
    return os.environ.get("QSTAR_DISTRIBUTED") == "0" or all(os.environ.get(name, "0") == "0" for name in NAMES)
