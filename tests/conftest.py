"""No test may reach for the hub; the longest files start first; imported modules are no garbage."""

import gc
import os
import signal

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["WANDB_MODE"] = "offline"
# Tests start processes beside each other: threads that spin while they wait would starve them on few cores.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
if workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 0)):  # then they share the cores
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))

# Seconds of the longest files, roughly. Of files that run side by side, a long one that starts last runs alone.
SECONDS = {
    "test_map_live": 80,
    "test_kills": 60,
    "test_attack": 40,
    "test_first_run": 60,
    "test_ledger": 50,
    "test_readme": 40,
    "test_smollm2": 30,
    "test_compare": 30,
    "test_audit": 25,
    "test_rescoring": 25,
    "test_two_processes": 25,
    "test_bench": 30,
    "test_tune": 25,
    "test_kept_conditions": 40,
    "test_interrupts": 40,
    "test_trainer": 20,
    "test_controls": 20,
    "test_logprobs": 20,
    "test_map_page": 20,
    "test_page_server": 20,
    "test_resume": 20,
    "test_saliency_js": 20,
    "test_strike": 20,
}


# No test cuts the power. Waiting for the disk at each file would take a third of a small training.
os.fsync = lambda _: None

# Under `nohup` this signal is ignored, and so it would be in the trainings whose terminal the tests close.
signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if workers:
        items.sort(key=lambda item: -SECONDS.get(item.path.stem, 0))  # the order within a file stays


def pytest_collection_finish() -> None:
    # Every training ends in a full collection, which walks all of torch's and transformers' objects: a third of a tiny
    # training. Those objects live until the end anyway.
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny random model with its tokenizer, as a folder that commands can load."""
    from helpers import tiny  # imports torch, which reads the settings above

    folder = tmp_path_factory.mktemp("model")
    tiny.model().save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return str(folder)
