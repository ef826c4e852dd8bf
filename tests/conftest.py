"""No test may reach for the hub, and each runs in a folder of its own."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["WANDB_MODE"] = "offline"
# Tests start processes beside each other: threads that spin while they wait would starve them on few cores.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
