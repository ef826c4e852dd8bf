"""Commands and trainings that were started by torchrun, accelerate, SLURM or MPI, and should not have been."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import launch_command_parser
from torch.torch_version import TorchVersion

from nlft.cli import main
from nlft.errors import UserError
from nlft.launch import beside, refuse_launch, refuse_wrong_start, without_launcher
from nlft.training.sharding import FSDP, check_start

TORCHRUN = {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}
CONFIGS = Path(__file__).parents[1] / "examples" / "accelerate"


def test_two_processes_that_do_not_train_together_name_the_flag_that_connects_them():
    with pytest.raises(UserError) as error:
        refuse_wrong_start("nlft", 1, 0, use_cpu=False, environment=TORCHRUN)
    for part in ("WORLD_SIZE is 2", "--use_cpu", "torchrun --nproc_per_node 2 -m nlft train", "use_cpu=True"):
        assert part in str(error.value)
    refuse_wrong_start("nlft", 2, 0, use_cpu=True, environment=TORCHRUN)
    refuse_wrong_start("nlft", 1, 1, use_cpu=False, environment={**TORCHRUN, "WORLD_SIZE": "1"})


@pytest.mark.parametrize(
    ("name", "launcher"), [("SLURM_STEP_NUM_TASKS", "srun"), ("OMPI_COMM_WORLD_SIZE", "mpirun"), ("PMI_SIZE", "mpirun")]
)
def test_tasks_of_a_scheduler_do_not_each_train_a_model(name, launcher):
    with pytest.raises(UserError) as error:
        refuse_wrong_start("sft", 1, 1, use_cpu=False, environment={name: "4"})
    for part in (f"{name} is 4", launcher, "torchrun --nproc_per_node 4 -m nlft sft", f"unset {name}"):
        assert part in str(error.value)


@pytest.mark.parametrize("method", ["nlft", "sft", "kto", "dpo", "reft"])
def test_every_method_trains_on_one_gpu_per_process(method):
    with pytest.raises(UserError) as error:
        refuse_wrong_start(method, 1, 3, use_cpu=False, environment={})
    for part in ("3 GPUs", "--nproc_per_node 3", "CUDA_VISIBLE_DEVICES=0"):
        assert part in str(error.value)


def test_a_command_that_does_not_train_runs_once(monkeypatch, capsys):
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    for command in ("sample", "audit", "map", "compare"):
        assert main([command, "my file.jsonl"]) == 2
        told = capsys.readouterr().err
        for part in (f"nlft {command}", "WORLD_SIZE is 2", f"nlft {command} 'my file.jsonl'"):
            assert part in told
    assert main(["--version"]) == 0
    with pytest.raises(SystemExit) as done:
        main(["sample", "--help"])
    assert done.value.code == 0


def test_a_size_without_a_rank_is_not_a_launcher():
    for command in ("train", "sample"):
        with pytest.raises(UserError, match="unset WORLD_SIZE"):
            refuse_launch(command, [], {"WORLD_SIZE": "8"})
    refuse_launch("train", [], TORCHRUN)
    refuse_launch("sample", [], {"WORLD_SIZE": "1", "SLURM_NTASKS": "4"})  # a batch script runs once


def test_a_child_process_does_not_join_its_parents_training():
    kept = without_launcher({**TORCHRUN, "SLURM_STEP_NUM_TASKS": "2", "ACCELERATE_USE_FSDP": "true", "HOME": "/home"})
    assert kept == {"HOME": "/home"}
    assert beside(kept) is None


def arguments(**more):
    given = {"method": "nlft", "world_size": 2, "n_gpu": 0, "use_cpu": True, "fsdp_plugin_args": None}
    return SimpleNamespace(**given, activation_checkpointing=False, **more)


def test_sharding_that_would_not_work_is_refused_by_name(monkeypatch):
    check_start(arguments())
    monkeypatch.setenv(FSDP, "true")
    monkeypatch.setenv("FSDP_VERSION", "1")
    with pytest.raises(UserError, match="fsdp_version: 2"):
        check_start(arguments())
    monkeypatch.setenv("FSDP_VERSION", "2")
    check_start(arguments())
    with monkeypatch.context() as older:
        older.setattr(torch, "__version__", TorchVersion("2.9.1+cu128"))
        with pytest.raises(UserError, match=r"torch 2\.11.*2\.9\.1"):
            check_start(arguments())
    alone = arguments()
    alone.world_size = 1
    with pytest.raises(UserError, match="FSDP"):
        check_start(alone)
    monkeypatch.setenv("FSDP_ACTIVATION_CHECKPOINTING", "true")
    both = arguments()
    both.activation_checkpointing = True
    with pytest.raises(UserError, match="fsdp_activation_checkpointing"):
        check_start(both)


@pytest.mark.parametrize("name", ["ddp", "fsdp2", "deepspeed_zero3"])
def test_accelerate_reads_the_example_configurations(name):
    """Accelerate's reader refuses an unknown key at the top; below it, each key must be one of its flags."""
    path = CONFIGS / f"{name}.yaml"
    config = load_config_from_file(str(path))
    kinds = {"ddp": "MULTI_GPU", "fsdp2": "FSDP", "deepspeed_zero3": "DEEPSPEED"}
    assert config.distributed_type.value == kinds[name]
    flags = vars(launch_command_parser().parse_args(["script.py"]))
    for part in (config.fsdp_config, config.deepspeed_config):
        assert set(part) <= set(flags)
    assert str(config.fsdp_config.get("fsdp_version", 2)) == "2"
    comment = path.read_text().split("compute_environment")[0]
    assert f"accelerate launch --config_file examples/accelerate/{name}.yaml" in comment
    assert ("Not run here" in comment) == (name == "deepspeed_zero3")


def test_every_example_configuration_is_tested():
    assert {path.stem for path in CONFIGS.glob("*")} == {"ddp", "fsdp2", "deepspeed_zero3"}
