"""On a real model, SmolLM2-135M-Instruct: scores, tags on a planted mistake, and the command from end to end."""

import json
from pathlib import Path

import pytest
import torch

from helpers.real import first_layers, smollm2
from nlft import cli
from nlft.collect.judging import judge_with_rules
from nlft.collect.rules import judge_by_rules
from nlft.core.batches import BatchBuilder
from nlft.core.condition_scores import score_batch
from nlft.core.conditions import ConditionEncoder, pad_rows
from nlft.core.logprobs import enable_scoring, score
from nlft.core.saliency import Tag
from nlft.core.schemes.nlft import NLFTSettings, nlft_weights
from nlft.data.problems import make_splits
from nlft.data.records import Example, completion_text, read_examples, read_questions
from nlft.models.loading import ModelSettings, load_model, load_tokenizer
from nlft.runs.run_dir import RunDir

GSM8K = Path(__file__).parents[2] / "shared" / "data" / "gsm8k"


@pytest.fixture(scope="module")
def folder():
    return str(smollm2())


@pytest.fixture(scope="module")
def loaded(folder):
    settings = ModelSettings(model_name_or_path=folder, dtype="float32")
    model = load_model(settings, trainable=False).eval()
    enable_scoring(model)
    return model, load_tokenizer(settings)


def planted():
    """Right worked answers with one number changed, and what the rules say of them."""
    return judge_with_rules(
        [
            Example(
                id=i,
                prompt=f"Tom has {a} apples and gives away {b}. How many apples are left?",
                completion=f"Tom has {a} - {b} = {said} apples left.\n#### {said}",
                label=said == a - b,
                answer=f"Tom has {a} - {b} = {a - b} apples left.\n#### {a - b}",
            )
            for i, (a, b, said) in enumerate([(64, 35, 34), (52, 17, 41), (80, 26, 64), (47, 19, 28), (90, 12, 68)])
        ]
    )


def test_scores_equal_the_full_softmax(loaded):
    model, tokenizer = loaded
    encoder = ConditionEncoder(tokenizer)
    encoded = [
        encoder.encode(
            id=e.id,
            prompt=e.prompt,
            completion=completion_text(e),
            label=e.label,
            answer=e.answer,
            judgment=e.judgment,
        )
        for e in planted()
    ]
    rows = pad_rows([(e.base, e.completion) for e in encoded], tokenizer.pad_token_id)
    with torch.no_grad():
        scored = score(model, rows)
        logits = model(input_ids=rows.input_ids, attention_mask=rows.attention_mask).logits.double()
    labels = rows.labels[:, 1:]
    plain = logits.log_softmax(-1)[:, :-1].gather(2, labels.clamp(min=0)[..., None])[..., 0][labels != -100]
    torch.testing.assert_close(scored.logp[scored.mask].double(), plain, atol=1e-4, rtol=1e-5)


def test_the_tags_find_planted_mistakes_and_leave_the_right_steps_alone(loaded):
    model, tokenizer = loaded
    encoder = ConditionEncoder(tokenizer)
    builder = BatchBuilder(tokenizer.pad_token_id, needs=frozenset({"standard", "judge", "band"}))
    wrong = [e for e in planted() if not e.label]
    found, stray = 0, 0
    for example in wrong:
        encoded = encoder.encode(
            id=example.id,
            prompt=example.prompt,
            completion=completion_text(example),
            label=False,
            answer=example.answer,
            judgment=example.judgment,
        )
        with torch.no_grad():
            scored = score_batch(model, builder.batch(builder([encoded])), builder.needs)
        tags = nlft_weights(scored.conditions, NLFTSettings()).tag[0].tolist()
        tokens = [tokenizer.decode(t) for t in encoded.completion]
        text = "".join(tokens)
        begin = text.index("= ") + 2  # the wrong result, up to the space behind it
        end = text.index(" ", begin)
        at = 0
        hits = set()
        for token, tag in zip(tokens, tags, strict=True):
            if tag == Tag.SALIENT:
                hits.add(begin <= at < end)
                stray += at < begin - 4  # before the equals sign everything is right
            at += len(token)
        found += True in hits
    assert len(wrong) == 4
    assert found >= 3, f"the mistake was tagged in {found} of 4"
    assert stray <= 2, f"{stray} tokens of right text were tagged"


@pytest.mark.parametrize("layers", [6, pytest.param(30, marks=pytest.mark.long)])
def test_the_commands_work_on_it_from_end_to_end(layers, tmp_path, capsys):
    train, test = make_splits(train=6, test=4, seed=3)
    for name, questions in (("train", train), ("test", test)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(q.as_record()) + "\n" for q in questions))
    model = ["--model_name_or_path", first_layers(layers, tmp_path / "model")]
    examples, run = tmp_path / "examples.jsonl", tmp_path / "run"
    short = ["--max_new_tokens", "48"]

    def nlft(*argv):
        code = cli.main([str(a) for a in argv])
        assert code == 0, capsys.readouterr().err

    nlft("sample", tmp_path / "train.jsonl", *model, *short, "--out", examples)
    nlft("judge", examples)
    assert all(e.judgment for e in read_examples(examples) if not e.label)
    small = ["--max_steps", "3", "--per_device_train_batch_size", "2", "--activation_checkpointing", "false"]
    nlft("train", examples, *model, *small, "--answer_weight", "1", "--output_dir", run, "--save_strategy", "no")
    nlft("evaluate", tmp_path / "test.jsonl", *model, *short, "--adapter", run)
    nlft("map", run, "--html", tmp_path / "map.html")
    losses = [e["nlft/answer_loss"] for e in RunDir(run).events() if "loss" in e]
    assert len(losses) == 3
    assert losses[-1] < losses[0]
    found = json.loads((run / "evaluation.json").read_text())["questions"]
    assert len(found) == 4
    assert all(q["output"] for q in found)


@pytest.mark.skipif(not GSM8K.is_dir(), reason="GSM8K is not beside the project (../shared/data/gsm8k)")
def test_gsm8k_can_be_read_and_its_own_answers_are_right_by_the_rules():
    questions = read_questions(GSM8K / "train.jsonl")
    assert len(questions) == 7473
    assert not any("<<" in q.answer for q in questions)
    found = [judge_by_rules(q.prompt, q.answer, q.answer) for q in questions[:1000]]
    assert found == [None] * 1000
