"""ReFT and KTO on a tiny model: they train, from the same file, and leave a run directory with a PEFT adapter."""

import json
from dataclasses import replace
from datetime import date

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from helpers import tiny
from helpers.training import examples
from nlft.baselines import reft
from nlft.baselines.dpo import DPOBaseline, DPOSettings
from nlft.baselines.kto import KTOBaseline, KTOSettings, balance
from nlft.baselines.reft import Correctness, ReFTBaseline, ReFTSettings, question_rows
from nlft.baselines.sft import SFTBaseline, SFTSettings
from nlft.baselines.trl_rows import note_long_rows
from nlft.collect.sampling import SamplingSettings
from nlft.core.conditions import ConditionEncoder
from nlft.data.grading import ExtractionSettings, get_grader
from nlft.data.records import Example
from nlft.errors import UserError
from nlft.models.loading import default_lora
from nlft.runs.run_dir import RunDir

EXAMPLES = [
    Example(f"e{n}", f"What is {n} + 1?", f"It is {n + n % 2}.", n % 2 == 1, f"{n} + 1 = {n + 1}\n#### {n + 1}", "No.")
    for n in range(4)
]
COMMON = {"max_steps": 2, "learning_rate": 1e-2, "activation_checkpointing": False, "report_to": "none", "seed": 3}


@pytest.fixture(params=["chat", "plain"])
def tokenizer(request):
    return tiny.tokenizer(chat=request.param == "chat")


def adapter_of(run: RunDir) -> dict[str, torch.Tensor]:
    return load_file(run.adapter_path / "adapter_model.safetensors")


@pytest.mark.parametrize(
    ("kind", "saves"), [(SFTSettings, "epoch"), (ReFTSettings, "no"), (KTOSettings, "no"), (DPOSettings, "no")]
)
def test_what_means_the_same_has_nlfts_defaults_and_not_trls(tmp_path, kind, saves):
    args = kind(output_dir=str(tmp_path), report_to="none")
    assert (args.save_strategy, args.logging_steps, args.bf16, args.system_prompt) == (saves, 1, False, None)
    assert args.activation_checkpointing is True
    older_name = kind(output_dir=str(tmp_path), report_to="none", gradient_checkpointing=False)
    assert older_name.activation_checkpointing is False


def test_reft_warms_up_then_follows_the_reward(tmp_path, tokenizer):
    net = tiny.model()
    args = ReFTSettings(
        output_dir=str(tmp_path / "run"),
        per_device_train_batch_size=4,
        num_generations=2,
        max_completion_length=6,
        sft_steps=2,
        grader="regex",
        **COMMON,
    )
    with pytest.raises(UserError, match="has no group"):
        ReFTBaseline(net, args, EXAMPLES, tokenizer, default_lora(net))
    args = replace_grader(args)
    trainer = ReFTBaseline(tiny.model(), args, EXAMPLES, tokenizer, default_lora(net))
    warm = {n: p.detach().clone() for n, p in trainer.model.named_parameters() if ".default." in n}
    ref = {n: p.detach().clone() for n, p in trainer.model.named_parameters() if ".ref." in n}
    assert len(ref) == len(warm) > 0
    assert all(torch.equal(p, ref[n.replace(".default.", ".ref.")]) for n, p in warm.items()), "KL is from the warm-up"
    assert any(p.abs().sum() > 0 for n, p in warm.items() if "lora_B" in n), "the warm-up trained nothing"
    trainer.train()
    run = RunDir.open(tmp_path / "run")
    assert run.settings()["method"] == "reft"
    assert {event["step"] for event in run.events()} >= {1, 2}
    assert any("rewards/correctness/mean" in event for event in run.events())
    assert RunDir.open(tmp_path / "run" / "warm-up").events()
    saved = adapter_of(run)
    assert not any("ref" in name for name in saved)
    assert not (run.adapter_path / "ref").exists()
    PeftModel.from_pretrained(tiny.model(), run.adapter_path)


def replace_grader(args):
    args.grader = "test_feedback_baselines:has_a_space"
    return args


def has_a_space(completion: str, answer: str) -> bool:
    return len(completion) % 2 == 0


def test_kto_raises_the_right_completions_over_the_wrong_ones(tmp_path, tokenizer):
    net = tiny.model()
    args = KTOSettings(
        output_dir=str(tmp_path / "run"), per_device_train_batch_size=4, **{**COMMON, "max_steps": 12, "beta": 0.5}
    )
    trainer = KTOBaseline(net, args, EXAMPLES, tokenizer, default_lora(net))
    trainer.train()
    run = RunDir.open(tmp_path / "run")
    assert run.settings()["method"] == "kto"
    margins = [event["rewards/margins"] for event in run.events() if "rewards/margins" in event]
    assert margins[-1] > margins[0] + 0.1
    assert adapter_of(run)


REVISED = [
    replace(EXAMPLES[0], revision="It is 1."),
    replace(EXAMPLES[2], revision="It is 3, I think."),
    EXAMPLES[1],
]


def test_the_loss_of_dpo_is_its_formula(tmp_path, tokenizer):
    args = DPOSettings(output_dir=str(tmp_path / "run"), per_device_train_batch_size=2, **{**COMMON, "beta": 0.3})
    trainer = DPOBaseline(tiny.model(), args, REVISED, tokenizer, default_lora(tiny.model()))
    with torch.no_grad():
        for name, weights in trainer.model.named_parameters():
            if "lora_B" in name:
                weights.copy_(torch.randn(weights.shape, generator=torch.Generator().manual_seed(5)))
    batch = next(iter(trainer.get_train_dataloader()))
    loss = float(trainer.compute_loss(trainer.model, batch).detach())

    encoder, model = ConditionEncoder(tokenizer), trainer.model.eval()

    @torch.no_grad()
    def logp(example, text):
        ids = encoder.prompt_ids(example.prompt)
        said = encoder.completion_ids(text)
        logits = model(input_ids=torch.tensor([ids + said])).logits[0, len(ids) - 1 : -1].log_softmax(-1)
        return float(logits[range(len(said)), said].sum())

    def gap(example):
        return logp(example, example.revision) - logp(example, example.completion)

    losses = []
    for example in REVISED[:2]:
        ours = gap(example)
        with model.disable_adapter():
            reference = gap(example)
        assert abs(ours - reference) > 0.01
        losses.append(float(-torch.nn.functional.logsigmoid(torch.tensor(0.3 * (ours - reference)))))
    assert loss == pytest.approx(sum(losses) / 2, abs=1e-4)


def test_dpo_raises_the_revisions_over_the_completions(tmp_path):
    net = tiny.model()
    args = DPOSettings(output_dir=str(tmp_path / "run"), per_device_train_batch_size=2, **{**COMMON, "max_steps": 8})
    DPOBaseline(net, args, REVISED, tiny.tokenizer(), default_lora(net)).train()
    run = RunDir.open(tmp_path / "run")
    assert (run.settings()["method"], run.settings()["pairs"], run.settings()["beta"]) == ("dpo", 2, 0.1)
    margins = [event["rewards/margins"] for event in run.events() if "rewards/margins" in event]
    assert margins[-1] > margins[0] + 0.1
    assert adapter_of(run)


def test_what_they_cannot_learn_from_is_refused(tmp_path):
    net = tiny.model()
    kto = KTOSettings(output_dir=str(tmp_path / "run"), per_device_train_batch_size=4, **COMMON)
    right = [replace(example, label=True) for example in EXAMPLES]
    with pytest.raises(UserError, match="right and wrong"):
        KTOBaseline(net, kto, right, tiny.tokenizer(), default_lora(net))
    dpo = DPOSettings(output_dir=str(tmp_path / "run"), **COMMON)
    with pytest.raises(UserError, match="none of the 4 examples has a revision"):
        DPOBaseline(net, dpo, EXAMPLES, tiny.tokenizer(), default_lora(net))
    reft = ReFTSettings(
        output_dir=str(tmp_path / "run"), per_device_train_batch_size=4, num_generations=2, grader="label", **COMMON
    )
    with pytest.raises(UserError, match="can be graded"):
        ReFTBaseline(net, reft, EXAMPLES, tiny.tokenizer(), default_lora(net))


@pytest.mark.parametrize("method", ["kto", "dpo", "sft"])
def test_examples_that_are_too_long_are_all_named_and_none_is_cut_or_dropped(tmp_path, method, capsys):
    """Whether the completion is too long, or the prompt alone, which TRL would drop."""
    net, options = tiny.model(), {"per_device_train_batch_size": 2, "max_length": 64, **COMMON}
    long = [
        replace(EXAMPLES[0], revision="It is 1."),
        replace(EXAMPLES[1], completion="so " * 30, revision="It is 3."),
        replace(EXAMPLES[2], prompt="why " * 30, revision="It is 3."),
        replace(EXAMPLES[3], revision="It is 4, I think."),
    ]

    def trainer(**more):
        args = {"output_dir": str(tmp_path / "run"), **options, **more}
        if method == "sft":
            settings = SFTSettings(target="all-completions", engine="trl", save_strategy="no", **args)
            return SFTBaseline(net, settings, long, tiny.tokenizer(), default_lora(net))
        kinds = {"kto": (KTOBaseline, KTOSettings), "dpo": (DPOBaseline, DPOSettings)}
        make, settings = kinds[method]
        return make(net, settings(**args), long, tiny.tokenizer(), default_lora(net))

    with pytest.raises(UserError, match="max_length 64") as caught:
        trainer()
    if method != "sft":  # which names the first one
        assert "'e1'" in str(caught.value)
        assert "'e2'" in str(caught.value)
    assert "'e0'" not in str(caught.value)
    net = tiny.turning("dynamic", limit=64)
    capsys.readouterr()
    rows = trainer(max_length=512).train_dataset
    assert "2 of 4 rows are longer than 64 tokens" in capsys.readouterr().out
    texts = {"kto": ["completion_ids"], "dpo": ["chosen_ids", "rejected_ids"], "sft": ["input_ids"]}[method]
    assert len(rows) == 4
    assert max(len(row[text]) for row in rows for text in texts) > 64
    note_long_rows(tiny.model(), rows, texts)
    assert "longer" not in capsys.readouterr().out


def test_an_answer_that_cannot_be_graded_has_no_reward_and_is_counted():
    reward = Correctness(get_grader("number"))
    unclear = [{"content": "#### 3,5"}]  # 3.5, or 35
    assert reward(["#### 4", "#### 5"], ["#### 4"] * 2) == [1.0, 0.0]
    assert reward([unclear, "no idea"], ["#### 35"] * 2) == [None, 0.0], "no answer at all is a wrong one"
    assert (reward.answers, reward.ungraded) == (4, 1)


def test_rewards_read_numbers_as_labels_do(tmp_path):
    args = ReFTSettings(output_dir=str(tmp_path), per_device_train_batch_size=8, report_to="none")
    assert args.extraction == SamplingSettings().extraction == ExtractionSettings().extraction


def test_a_question_of_several_examples_is_one_row_that_names_the_first():
    twice = [EXAMPLES[0], replace(EXAMPLES[0], id="again"), EXAMPLES[1]]
    rows = question_rows(twice, "messages")
    assert [(row["answer"], row["example_at"]) for row in rows] == [(EXAMPLES[0].answer, 0), (EXAMPLES[1].answer, 2)]


def test_run_yaml_tells_the_whole_setting(tmp_path):
    net = tiny.model()
    args = KTOSettings(output_dir=str(tmp_path / "run"), per_device_train_batch_size=2, **{**COMMON, "max_steps": 1})
    KTOBaseline(net, args, EXAMPLES, tiny.tokenizer(), default_lora(net)).train()
    settings = RunDir.open(tmp_path / "run").settings()
    assert settings["training"]["max_steps"] == 1
    assert settings["data"]["examples"] == 4
    assert json.dumps(settings)


@pytest.mark.parametrize(
    ("right", "wrong", "weights"), [(10, 40, (4.0, 1.0)), (40, 10, (1.0, 4.0)), (5, 5, (1.0, 1.0))]
)
def test_kto_weighs_the_rarer_kind_up_unless_told_otherwise(tmp_path, right, wrong, weights):
    labels = [True] * right + [False] * wrong
    args = KTOSettings(output_dir=str(tmp_path))
    balance(args, labels)
    assert (args.desirable_weight, args.undesirable_weight) == weights
    told = KTOSettings(output_dir=str(tmp_path), desirable_weight=2.0)
    balance(told, labels)
    assert (told.desirable_weight, told.undesirable_weight) == (2.0, 1.0)
    equal = KTOSettings(output_dir=str(tmp_path), desirable_weight=1.0, undesirable_weight=1.0)
    balance(equal, labels)
    assert (equal.desirable_weight, equal.undesirable_weight) == (1.0, 1.0)
    one = KTOSettings(output_dir=str(tmp_path), undesirable_weight=0.5)
    balance(one, labels)
    assert (one.desirable_weight, one.undesirable_weight) == (1.0, 0.5)


def test_kto_tells_the_weights_that_it_has_chosen(tmp_path, capsys):
    balance(KTOSettings(output_dir=str(tmp_path)), [True] * 10 + [False] * 25)
    assert "--desirable_weight 2.5 --undesirable_weight 1" in capsys.readouterr().err


def test_kto_and_dpo_train_the_token_ids_of_every_other_method(tmp_path, tokenizer):
    """TRL reads prompt and reply together: names of special tokens become tokens, and a reply begins in the prompt."""
    end = tokenizer.eos_token
    said = [f"I say {end} now", end, "\nIt is 4.", "\n\n  5"]
    made = [
        Example(f"s{at}", f"What is {end} + {at}?", text, at % 2 == 0, None, "No.", revision=f"{text} {at}")
        for at, text in enumerate(said)
    ]
    encoder = ConditionEncoder(tokenizer)
    trainers = {
        "completion_ids": (KTOBaseline, KTOSettings),
        "rejected_ids": (DPOBaseline, DPOSettings),
        "chosen_ids": (DPOBaseline, DPOSettings),
    }
    for name, (make, settings) in trainers.items():
        net = tiny.model()
        args = settings(output_dir=str(tmp_path / name), per_device_train_batch_size=2, **COMMON)
        rows = make(net, args, made, tokenizer, default_lora(net)).train_dataset
        for row, one in zip(rows, made, strict=True):
            text = one.revision if name == "chosen_ids" else one.completion
            assert row["prompt_ids"] == encoder.prompt_ids(one.prompt)
            assert row[name] == encoder.completion_ids(text)


def test_reft_refuses_a_prompt_that_trl_would_read_as_other_tokens(tmp_path):
    net, tokenizer = tiny.model(), tiny.tokenizer()
    named = replace(EXAMPLES[1], id="named", prompt=f"What is {tokenizer.eos_token}?")
    args = ReFTSettings(output_dir=str(tmp_path / "run"), num_generations=2, per_device_train_batch_size=2, **COMMON)
    with pytest.raises(UserError, match="'named'"):
        ReFTBaseline(net, args, [EXAMPLES[0], named], tokenizer, default_lora(net))
    args.chat_template_date = "2024-07-26"
    with pytest.raises(UserError, match="--chat_template_date"):
        ReFTBaseline(net, args, EXAMPLES, tokenizer, default_lora(net))


@pytest.mark.parametrize("size", [2, 3])
def test_no_row_of_kto_is_its_own_partner(tmp_path, size):
    made = examples(7)  # 7 % 2 = 7 % 3 = 1
    made = [replace(one, completion=f"{one.completion}, says {at}") for at, one in enumerate(made)]
    net = tiny.model()
    args = KTOSettings(output_dir=str(tmp_path), **{**COMMON, "per_device_train_batch_size": size})
    rows = KTOBaseline(net, args, made, tiny.tokenizer(), default_lora(net)).train_dataset
    pairs = list(zip(rows["completion_ids"], rows["KL_completion_ids"], strict=True))
    assert len(pairs) == 7
    assert all(own != other for own, other in pairs)
    assert pairs[-1][1] == pairs[-2][0]


def test_the_warm_up_of_reinforcement_has_the_runs_optimizer_and_device(tmp_path, monkeypatch):
    seen = []

    class Seen(SFTBaseline):
        def __init__(self, model, args, *more):
            seen.append(args)
            super().__init__(model, args, *more)

    monkeypatch.setattr(reft, "SFTBaseline", Seen)
    chosen = {"optim": "sgd", "optim_args": "momentum=0.5", "weight_decay": 0.1, "max_grad_norm": 0.3, "use_cpu": True}
    shared = {"num_generations": 2, "per_device_train_batch_size": 2, "sft_epochs": 0.0, "grader": "number"}
    args = ReFTSettings(output_dir=str(tmp_path), **{**COMMON, **shared, **chosen})
    net = tiny.model()
    ReFTBaseline(net, args, EXAMPLES, tiny.tokenizer(), default_lora(net))
    (warm,) = seen
    assert {name: getattr(warm, name) for name in chosen} == {name: getattr(args, name) for name in chosen}
    assert warm.weight_decay == 0.1


@pytest.mark.parametrize(
    ("baseline", "settings", "column"),
    [(SFTBaseline, SFTSettings, "input_ids"), (KTOBaseline, KTOSettings, "prompt_ids"),
     (DPOBaseline, DPOSettings, "prompt_ids")],
)  # fmt: skip
@pytest.mark.parametrize("day", ["2024-07-26", None])
def test_trls_rows_have_the_day_that_is_set_or_recorded(baseline, settings, column, day, tmp_path):
    tokenizer = tiny.own_tokenizer()
    tokenizer.chat_template = "{{ strftime_now('%d %b %Y') }}" + tokenizer.chat_template
    more = {"engine": "trl"} if settings is SFTSettings else {}
    args = settings(output_dir=str(tmp_path), chat_template_date=day, per_device_train_batch_size=2, **COMMON, **more)
    net = tiny.model()
    trainer = baseline(net, args, [*REVISED, *EXAMPLES[:1]], tokenizer, default_lora(net))
    recorded = trainer.record["training"]["chat_template_date"]
    assert recorded == (day or date.today().isoformat())
    shown = date.fromisoformat(recorded).strftime("%d %b %Y")
    assert len(trainer.train_dataset)
    for row in trainer.train_dataset:
        assert tokenizer.decode(row[column]).startswith(shown)
