"""`make bench` on a tiny model: every arm has its row, and the floors are counted right. Nothing is timed here."""

import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from nlft.core.heads import decoder_of
from nlft.core.logprobs import causal_lm
from nlft.core.schemes.registry import scheme_names

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))
import bench  # noqa: E402
import bench_arms  # noqa: E402
import bench_worker  # noqa: E402
import gpu  # noqa: E402
from bench_arms import REFERENCE, Arm, Options  # noqa: E402

SMALL = {"prompt": 24, "completion": 30, "shown": 12, "judgment": 40, "batch": 3, "batches": 1, "cpu": True}


@pytest.fixture
def options(model_folder):
    return Options(model_folder, rounds=1, warm_up=0, dtype="float32", **SMALL)


SOME = {"sft-trl", "sft-nlft", "original-step", "uniform", "cut", "nlft-wrong", "nlft-mixed", "strike-frozen"}


def test_every_scheme_has_an_arm():
    arms = bench_arms.all_arms()
    names = {arm.name for arm in arms}
    assert len(names) == len(arms)
    assert names > SOME | {"nlft-right", "sft-trl-chunked"}
    assert {arm.settings.get("scheme") for arm in arms} >= set(scheme_names())


@pytest.mark.parametrize("only", [SOME, pytest.param(None, marks=pytest.mark.long)], ids=["some", "all"])
def test_every_arm_is_measured_and_has_its_row_beside_its_floor(only, options, tmp_path, monkeypatch):
    """In processes that take turns, as `bench.py run` does it."""
    arms = [arm for arm in bench_arms.all_arms() if not only or arm.name in only]
    names = [arm.name for arm in arms]
    found = bench.report(options, bench.measure(options, arms, REFERENCE, len(arms)), "python benchmarks/bench.py run")
    assert [one["arm"] for one in found["arms"]] == names
    skipped = {one["arm"]: one["skipped"] for one in found["arms"] if "skipped" in one}
    assert all(name.endswith("-frozen") for name in skipped), skipped
    by_name = {one["arm"]: one for one in found["arms"]}
    assert by_name["sft-trl"]["ratio"] == {"median": 1, "low": 1, "high": 1}
    floors = {name: one["floor"] for name, one in by_name.items() if "floor" in one}
    assert floors["sft-trl"] == floors["sft-nlft"] == floors["uniform"] == 1
    assert 1 < floors["cut"] < floors["nlft-mixed"] < floors["nlft-wrong"] < floors["original-step"]
    for one in by_name.values():
        if "skipped" not in one:
            assert one["memory"]["peak"]["host"] >= one["memory"]["loaded"]["host"] > 0
            assert len(one["seconds"]) == 1
    (tmp_path / "bench-tiny.json").write_text(json.dumps(found))
    monkeypatch.setattr(bench, "DOCS", tmp_path)
    page = bench.page("Above\n<!-- generated: bench-tiny -->\nold\n<!-- end -->\nBelow\n")
    assert "Above" in page
    assert "old" not in page
    assert page.endswith("Below\n")
    for name in names:
        assert (f"| {name} |" in page) != (name in skipped)
        assert (f"- {name}: " in page) == (name in skipped)
    assert bench.page(page) == page
    assert all(len(line) <= 120 for line in page.splitlines() if not line.startswith("|"))
    assert "MFU" not in page  # absolute figures are of a GPU only


def test_a_gpu_has_a_second_table_with_absolute_figures():
    arm = {
        "arm": "sft-trl",
        "seconds": [0.1, 0.2, 0.3],
        "cost": 3e4,
        "units": {"backward": 1, "head": 0.1, "operations": 2 * 10**9},
        "tokens": {"trained": 8000, "scored": 0},
        "memory": {"peak": {"host": 1, "cuda": 2**30}},
    }
    found = {"device": "NVIDIA H200", "settings": {"batches": 2}}
    # 3e4 units of 2e9 operations in two batches of 0.2 s: 150 of 989 tera a second.
    assert bench.absolute(arm, found) == "| sft-trl | 200.0 [150.0, 250.0] | 20,000 | 15.2% | 1,024 |"
    assert "| unknown card |" in bench.absolute(arm, {**found, "device": "NVIDIA T5000"})


def test_the_script_for_a_gpu_fits_into_eight_minutes_and_its_commands_are_right(tmp_path):
    made = gpu.parts("some/model", tmp_path, small=False)
    assert sum(seconds for _, _, seconds in made) <= gpu.WHOLE_SECONDS == 480
    for name, command, _ in made[:2]:
        given = bench.parser().parse_args(command[1:])
        assert given.out == tmp_path / f"{name}.json"
        measured = {arm.name for arm in bench_arms.all_arms() if re.search(given.arms, arm.name)}
        assert {"sft-trl", "nlft-mixed", "strike-frozen"} < measured
    for _, command, _ in made[2:]:
        assert Path(command[3]).is_file()
        assert command[:3] == ["-m", "nlft", "train"]


@pytest.mark.parametrize("answer_weight", [0.0, 0.5])
@pytest.mark.parametrize("name", ["sft-trl", "sft-nlft", "nlft-right", "nlft-wrong", "nlft-mixed", "cut", "strike"])
def test_a_floor_has_the_tokens_that_go_through_the_model(options, tmp_path, name, answer_weight):
    """Counted from the rows, and at the decoder's door in one pass."""
    arm = next(one for one in bench_arms.all_arms() if one.name == name)
    trainer = bench_worker.make_trainer(arm, replace(options, answer_weight=answer_weight), tmp_path)
    seen = {True: 0, False: 0}

    def door(module, args, kwargs):
        mask = kwargs["attention_mask"]
        if mask.dim() == 4:  # rows that go on from a beginning: the last position of each sees all of its own tokens
            mask = mask[:, 0, -1, -mask.shape[2] :]
        seen[torch.is_grad_enabled()] += int(mask.sum())

    decoder_of(causal_lm(trainer.model)).register_forward_pre_hook(door, with_kwargs=True)
    trainer.train()
    counts = bench_worker.counted(arm, trainer)
    assert (counts.trained, counts.scored) == (seen[True], seen[False])
    if arm.trainer == "sft" or not answer_weight:
        said = sum(len(e) for e in completions(trainer))
        assert counts.head_trained == said
    if name == "sft-nlft":
        assert counts.cost(2, 0.5) == 3 * counts.trained + counts.head_trained


def completions(trainer):
    for one in trainer.train_dataset:
        yield one.completion if hasattr(one, "completion") else [i for i in one["labels"] if i != -100]


def test_the_peer_has_the_loss_of_the_original_scheme_on_the_same_rows(options, tmp_path):
    peer = bench_worker.make_trainer(Arm("original-step", "peer"), options, tmp_path / "peer")
    ours = bench_worker.make_trainer(Arm("ours", "nlft", "mixed", {"scheme": "nlft-original"}), options, tmp_path / "a")
    for one in (peer, ours):
        one.model.eval()
    with torch.no_grad():
        theirs = peer.compute_loss(peer.model, peer.rows(peer.encoded))
        assert [e.completion for e in peer.encoded] == [e.completion for e in ours.train_dataset]
        loss = ours.compute_loss(ours.model, ours.builder(ours.train_dataset))
    torch.testing.assert_close(theirs, loss, atol=1e-4, rtol=1e-4)
    counts = bench_worker.counted(Arm("original-step", "peer"), peer)
    assert counts.trained == sum(
        len(prompt) + len(e.completion) for e in peer.encoded for prompt in (e.base, e.standard, e.judge or e.base)
    )


def test_rows_have_the_wanted_lengths_and_the_same_texts_whatever_their_labels(options):
    tokenizer = bench_worker.load_tokenizer(bench_worker.ModelSettings(model_name_or_path=options.model))
    wide = replace(options, prompt=200, completion=300, spread=0.25, batches=4)
    made = {kind: bench_worker.make_examples(tokenizer, wide, kind) for kind in ("right", "wrong", "mixed")}
    assert [e.label for e in made["mixed"]].count(True) == 4
    texts = {kind: [(e.prompt, e.completion) for e in rows] for kind, rows in made.items()}
    assert texts["right"] == texts["wrong"] == texts["mixed"]
    lengths = [len(tokenizer(e.completion).input_ids) for e in made["right"]]
    assert min(lengths) < 0.8 * 300
    assert max(lengths) > 1.2 * 300
    assert sum(lengths) / len(lengths) == pytest.approx(300, rel=0.05)


def test_a_large_vocabulary_is_put_on_a_small_model(options, tmp_path):
    trainer = bench_worker.make_trainer(REFERENCE, replace(options, vocabulary=3000), tmp_path)
    assert causal_lm(trainer.model).get_output_embeddings().weight.shape[0] == 3000
    assert AutoModelForCausalLM.from_pretrained(options.model).get_output_embeddings().weight.shape[0] < 3000
    _, head, operations = bench_worker.units(trainer.model, options)
    decoder = sum(p.numel() for n, p in trainer.model.named_parameters() if ".layers." in n and "lora" not in n)
    assert operations == pytest.approx(2 * decoder, rel=0.01)
    assert head == pytest.approx(3000 * 32 / decoder, rel=0.01)
