"""`nlft export`: what is written for other programs says what the trained model says, or is refused."""

import json
import re
import shlex
import shutil
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from gguf import GGUFReader
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from tokenizers import Tokenizer, decoders, models, normalizers, processors
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

from helpers import tiny
from helpers.exporting import EXAMPLES, KINDS, SIZES, network, tokenizer
from nlft.cli import main
from nlft.core.conditions import ConditionEncoder
from nlft.data.records import write_examples
from nlft.errors import NLFTError, UserError
from nlft.exporting import comparing, gguf_file, gguf_model, gguf_tokenizer, llama_server, mlx
from nlft.exporting.ollama import NotSayable, ollama_form
from nlft.exporting.replies import encode_replies, scored
from nlft.models.ends import answer_ends

SYSTEM_FIRST = (
    "{% if messages[0]['role'] != 'system' %}<|system|>Be kind.<|end|>\n{% endif %}"
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def sentencepiece():
    """A tokenizer as Gemma's: a mark for spaces, merges of characters, bytes for characters that it lacks."""
    pieces = ["<pad>", "<s>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>", "<unk>"]
    pieces += [f"<0x{byte:02X}>" for byte in range(256)]
    merges = [("i", "n"), ("▁", "in"), ("a", "r"), ("P", "ar"), ("i", "s"), ("Par", "is"), ("2", "0")]
    pieces += [*"▁abcdefghijklmnopqrstuvwxyzPNK.?!\n20", *(a + b for a, b in merges)]
    vocabulary = {piece: id for id, piece in enumerate(dict.fromkeys(pieces))}
    core = Tokenizer(models.BPE(vocabulary, merges, byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    core.normalizer = normalizers.Replace(" ", "▁")
    core.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    core.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    made = PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="<|end|>",
        unk_token="<unk>",
        additional_special_tokens=pieces[3:6],
    )
    made.chat_template = tiny.CHAT_TEMPLATE
    return made


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run's adapter on a small Llama, the base beside it, and a file of examples."""
    folder = tmp_path_factory.mktemp("trained")
    network("llama").save_pretrained(folder / "base")
    tokenizer().save_pretrained(folder / "base")
    put_on(folder / "base", LoraConfig(r=4, lora_alpha=8, target_modules="all-linear"), folder / "run")
    write_examples(folder / "examples.jsonl", EXAMPLES)
    return folder


def put_on(base, config, folder):
    """Save an adapter of `base` whose every weight changes something."""
    torch.manual_seed(1)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
    with torch.no_grad():
        for weight in (p for p in model.parameters() if p.requires_grad):
            weight.add_(torch.randn_like(weight), alpha=0.2)
    model.save_pretrained(folder / "adapter")
    return model


def export(trained, out, *more, to="gguf", run="run"):
    told = [str(trained / run), "--to", to, *(["--out", str(out)] if out else []), *map(str, more)]
    if to in ("gguf", "ollama"):
        told += ["--verify_file", str(trained / "examples.jsonl")]
    return main(["export", *told])


@pytest.mark.parametrize("kind", KINDS)
def test_a_gguf_file_says_what_the_model_says(kind, tmp_path):
    model, own = network(kind), sentencepiece() if kind == "gemma3" else tokenizer()
    encoder = ConditionEncoder(own)
    ends = answer_ends(model, encoder)
    path = tmp_path / "model.gguf"
    gguf_file.write_gguf(model, own, ends, path, outtype="f32", name="tiny", converter="own")
    replies = [scored(model, reply) for reply in encode_replies(EXAMPLES, encoder)]
    with llama_server.serving(path, context=256) as server:
        found = comparing.compare(server, model, own, replies, ends, "f32")
        assert found.mean < 3e-4
        assert found.ends == ("<|end|>",)
        # 🙂 is four tokens of one byte: the server tells of the whole character alone.
        assert (found.tokens, found.untold) == (sum(len(r.ids) for r in replies) - found.untold, found.untold)
        assert found.untold >= 3
        worse = [replace(replies[0], log_probs=replies[0].log_probs - 0.03)]
        with pytest.raises(NLFTError, match=r"0\.03.* on average \(tolerance 0\.001"):
            comparing.compare(server, model, own, worse, ends, "f32")


def test_an_export_is_loaded_again_compared_and_ends_with_the_line_that_serves_it(trained, tmp_path, capsys):
    assert export(trained, tmp_path / "out", "--outtype", "q8_0") == 0
    told = capsys.readouterr().out
    path = tmp_path / "out" / "run-q8_0.gguf"
    assert told.splitlines()[-1].startswith(f"next: llama-server -m {path}")
    mean, largest = comparing.TOLERANCES["q8_0"]
    assert f"tolerance {mean:g}" in told
    assert f"tolerance {largest:g}" in told
    assert "<|end|>" in told
    assert float(re.search(r"training has moved them by ([\d.]+)", told)[1]) > 0.1
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    read = GGUFReader(path)
    types = {t.name: t.tensor_type.name for t in read.tensors}
    # 48 numbers in a row are no whole number of blocks of 32.
    assert (types["blk.0.attn_q.weight"], types["blk.0.ffn_down.weight"]) == ("Q8_0", "F16")
    assert types["blk.0.attn_norm.weight"] == "F32"
    assert bytes(read.fields["tokenizer.chat_template"].parts[-1]).decode() == tiny.CHAT_TEMPLATE


def wrong_permutation(patch):
    patch.setattr(gguf_model, "pairs_from_halves", lambda values, heads: values)


def wrong_end(patch):
    patch.setattr(gguf_tokenizer, "_add_ends", lambda writer, tokenizer, ends: writer.add_eos_token_id(5))


def unknown_end(patch):
    from nlft.exporting import run

    add = gguf_tokenizer._add_ends
    patch.setattr(run, "answer_ends", lambda *given: answer_ends(*given) | {4})
    patch.setattr(gguf_tokenizer, "_add_ends", lambda writer, own, ends: add(writer, own, ends - {4}))


def altered_template(patch):
    add = gguf_file.add_tokenizer

    def altered(writer, own, ends, rows):
        add(writer, tokenizer(own.chat_template.replace("|>{{ m.content }}", "|>\n{{ m.content }}")), ends, rows)

    patch.setattr(gguf_file, "add_tokenizer", altered)


def wrong_split(patch):
    patch.setattr(gguf_tokenizer, "pre_tokenizer_name", lambda told: "smollm")


def lost_adapter(patch):
    from nlft.exporting import run

    patch.setattr(run, "merged_model", lambda whole, adapter: whole.unload())


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (wrong_permutation, r"tokens differ by [\d.]+ on average \(tolerance 0.001\)"),
        (lost_adapter, r"model \+ adapter by [\d.]+ on average \(tolerance 0.001\)"),
        (wrong_end, r"end of a text is '<\|system\|>'"),
        (unknown_end, r"ends at <\|assistant\|> in transformers, and llama.cpp writes on"),
        (altered_template, "the prompt of 'a' has 16 tokens in transformers and 17 in llama.cpp"),
        (wrong_split, "the text .* has 4"),
    ],
)
def test_a_file_that_is_not_the_trained_model_is_refused_and_leaves_nothing(
    trained, tmp_path, capsys, monkeypatch, fault, told
):
    fault(monkeypatch)
    assert export(trained, tmp_path / "out", "--outtype", "f32", "--verify_replies", 1) == 1
    assert re.search(told, capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


def test_without_llama_cpp_the_file_is_written_and_named_unverified(trained, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(llama_server, "is_installed", lambda: False)
    assert export(trained, tmp_path / "out", "--outtype", "bf16") == 0
    told = capsys.readouterr().out
    assert "NOT verified" in told
    assert "nlft[gguf]" in told
    assert (tmp_path / "out" / "run-bf16.gguf").is_file()


def test_a_converter_that_fails_is_named_with_its_words(trained, tmp_path, capsys):
    converter = tmp_path / "convert_hf_to_gguf.py"
    converter.write_text("import sys\nsys.exit('Model TinyForCausalLM is not supported')\n")
    assert export(trained, tmp_path / "out", "--converter", converter) == 1
    told = capsys.readouterr().err
    assert "TinyForCausalLM" in told
    assert "--converter own" in told
    assert not (tmp_path / "out").exists()


def test_a_file_by_a_converter_is_compared_as_well(trained, tmp_path, capsys):
    converter = tmp_path / "convert_hf_to_gguf.py"
    converter.write_text(
        "import sys\nopen(sys.argv[sys.argv.index('--outfile') + 1], 'w').write('GGUF, but not really')\n"
    )
    assert export(trained, tmp_path / "out", "--converter", converter) == 1
    told = capsys.readouterr().err
    assert "does not load" in told
    assert "--converter own" in told
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("config", "word"),
    [
        (lambda: tiny.FAMILIES["gpt2"](), "gpt2"),
        (lambda: LlamaConfig(**SIZES, hidden_act="gelu"), "gelu"),
        (lambda: LlamaConfig(**SIZES, rope_parameters={"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0}), "yarn"),
        (lambda: Qwen2Config(**SIZES, use_sliding_window=True), "use_sliding_window"),
        (lambda: Gemma3TextConfig(**SIZES, query_pre_attn_scalar=256), "query_pre_attn_scalar"),
        (lambda: Gemma3TextConfig(**SIZES, query_pre_attn_scalar=8, final_logit_softcapping=30.0), "softcapping"),
    ],
)
def test_a_model_that_llama_cpp_would_compute_otherwise_is_refused_by_name(config, word):
    with pytest.raises(UserError, match=word):
        gguf_model.family_of(config())


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda told: told.update(normalizer={"type": "Lowercase"}), "Lowercase"),
        (lambda told: told.update(pre_tokenizer={"type": "Whitespace"}), "Whitespace"),
        (lambda told: told["model"].update(byte_fallback=True), "BPE"),
        (lambda told: told["model"].update(type="Unigram"), "Unigram"),
        (lambda told: told["model"].update(ignore_merges=True), "ignore_merges"),
        (lambda told: told["model"].update(end_of_word_suffix="</w>"), "</w>"),
    ],
)
def test_a_tokenizer_that_llama_cpp_would_split_otherwise_is_refused(change, word):
    told = json.loads(tokenizer().backend_tokenizer.to_str())
    assert gguf_tokenizer.pre_tokenizer_name(told) == "gpt-2"
    change(told)
    with pytest.raises(UserError, match=re.escape(word)):
        gguf_tokenizer.pre_tokenizer_name(told)


BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}


@pytest.mark.parametrize(
    ("first", "name"),
    [
        ([], "gpt-2"),
        ([{"type": "Digits", "individual_digits": True}], "smollm"),
        ([{"type": "Digits", "individual_digits": False}], None),
        ([{"type": "Split", "pattern": {"Regex": gguf_tokenizer._QWEN2}, "behavior": "Isolated"}], "qwen2"),
        ([{"type": "Split", "pattern": {"Regex": gguf_tokenizer._LLAMA3}, "behavior": "Isolated"}], "llama-bpe"),
        ([{"type": "Split", "pattern": {"Regex": "\\d"}, "behavior": "Isolated"}], None),
    ],
)
def test_each_known_way_to_split_has_llama_cpps_name(first, name):
    own = {**BYTES, "use_regex": not first or first[0]["type"] != "Split"}
    told = {"model": {"type": "BPE", "ignore_merges": name == "llama-bpe"}, "normalizer": None}
    told["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [*first, own]}
    if name is None:
        with pytest.raises(UserError, match=first[0]["type"]):
            gguf_tokenizer.pre_tokenizer_name(told)
    else:
        assert gguf_tokenizer.pre_tokenizer_name(told) == name


def spoken(template, messages):
    """Run a Modelfile's TEMPLATE: a loop over messages with a choice by role, as Go's text/template does."""
    start, body, end = re.fullmatch(
        r"(.*?)\{\{ range \.Messages \}\}(.*)\{\{ end \}\}\{\{ end \}\}(.*)", template, re.S
    ).groups()
    parts = dict(re.findall(r'\{\{ (?:else )?if eq \.Role "(\w+)" \}\}(.*?)(?=\{\{ else if|\Z)', body, re.S))
    return start + "".join(parts[m["role"]].replace("{{ .Content }}", m["content"]) for m in messages) + end


TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": " two\n lines "},
    {"role": "assistant", "content": "Yes."},
    {"role": "user", "content": "Why?"},
]


@pytest.mark.parametrize("template", [tiny.CHAT_TEMPLATE, SYSTEM_FIRST])
def test_ollamas_template_renders_as_the_chat_template_does(template):
    own = tokenizer(template)
    form = ollama_form(own, {}, adds_bos=False)
    assert form.default_system == ("Be kind." if template == SYSTEM_FIRST else None)
    assert spoken(form.template, TALK) == own.apply_chat_template(TALK, tokenize=False, add_generation_prompt=True)
    whole = [*([{"role": "system", "content": form.default_system}] if form.default_system else []), TALK[1]]
    wanted = own.apply_chat_template([TALK[1]], tokenize=False, add_generation_prompt=True)
    assert spoken(form.template, whole) == wanted


@pytest.mark.parametrize(
    "template",
    [
        tiny.CHAT_TEMPLATE.replace("{{ m.content }}", "{{ m.content | trim }}"),
        tiny.CHAT_TEMPLATE.replace("<|end|>", "{% if loop.index > 2 %}!{% endif %}<|end|>"),
        tiny.CHAT_TEMPLATE.replace("<s>", "<s>{% if messages[0].role == 'user' %}?{% endif %}"),
        tiny.CHAT_TEMPLATE.replace(
            "<s>", "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}"
        ),
        tiny.CHAT_TEMPLATE.replace("<|end|>", "{{ '{{' }}<|end|>"),
    ],
)
def test_a_chat_template_that_ollama_cannot_say_is_left_out(template):
    with pytest.raises(NotSayable):
        ollama_form(tokenizer(template), {}, adds_bos=False)


def test_the_modelfile_has_template_stops_system_and_greedy_parameters(trained, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(llama_server, "is_installed", lambda: False)
    assert export(trained, tmp_path / "out", "--outtype", "f32", to="ollama") == 0
    told = capsys.readouterr().out
    text = (tmp_path / "out" / "Modelfile").read_text()
    assert text.startswith('FROM ./run-f32.gguf\nTEMPLATE """<s>{{ range .Messages }}')
    assert 'PARAMETER stop "<|end|>"\n' in text
    assert "PARAMETER num_ctx 512\nPARAMETER temperature 0\nPARAMETER repeat_penalty 1\n" in text
    assert told.splitlines()[-1] == f"next: ollama create run -f {tmp_path / 'out' / 'Modelfile'} && ollama run run"


def test_an_mlx_adapter_changes_each_layer_as_the_trained_one_does(trained, tmp_path, capsys):
    config = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "down_proj"])
    config.rank_pattern, config.alpha_pattern = {"down_proj": 2}, {"down_proj": 12}
    model = put_on(trained / "base", config, trained / "patterns")
    assert export(trained, tmp_path / "out", to="mlx-adapter", run="patterns") == 0
    told = capsys.readouterr().out.splitlines()[-1]
    assert told.startswith(f"next: mlx_lm.generate --model {trained / 'base'} --adapter-path {tmp_path / 'out'}")
    read = load_file(tmp_path / "out" / "adapters.safetensors")
    given = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert given["lora_parameters"]["keys"] == ["mlp.down_proj", "self_attn.q_proj"]
    assert given["num_layers"] == 2
    x = torch.randn(3, 48)
    layer = model.base_model.model.model.layers[1].mlp.down_proj
    a, b = (read[f"model.layers.1.mlp.down_proj.lora_{name}"] for name in "ab")
    assert a.shape == (48, given["lora_parameters"]["rank"])
    theirs = given["lora_parameters"]["scale"] * (x @ a) @ b
    torch.testing.assert_close(theirs, layer(x) - layer.base_layer(x), rtol=1e-4, atol=1e-4)


def test_an_mlx_adapter_that_is_another_is_refused_and_leaves_nothing(trained, tmp_path, capsys, monkeypatch):
    right = mlx._transposed
    monkeypatch.setattr(mlx, "_transposed", lambda *given: {n: t * 2 for n, t in right(*given).items()})
    assert export(trained, tmp_path / "out", to="mlx-adapter") == 1
    assert "model.layers.0" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_vllms_line_serves_the_adapter_where_it_is(trained, capsys):
    assert export(trained, None, to="vllm") == 0
    words = shlex.split(capsys.readouterr().out.splitlines()[-1].removeprefix("next: "))
    assert words[:3] == ["vllm", "serve", str(trained / "base")]
    assert f"run={trained / 'run' / 'adapter'}" in words
    assert words[words.index("--max-lora-rank") + 1] == "8"
    assert "--tokenizer" not in words


@pytest.mark.parametrize("to", ["vllm", "mlx-adapter"])
def test_an_end_that_the_base_does_not_name_is_told_with_what_to_do(trained, tmp_path, capsys, to):
    base = Path(shutil.copytree(trained / "base", tmp_path / "base"))
    for name in ("config.json", "generation_config.json"):
        given = json.loads((base / name).read_text()) if (base / name).is_file() else {}
        (base / name).write_text(json.dumps(given | {"eos_token_id": [3]}))
    other = deepcopy(tokenizer())
    other.eos_token = other.convert_ids_to_tokens(3)
    other.save_pretrained(base)
    out = None if to == "vllm" else tmp_path / "out"
    assert export(trained, out, "--model_name_or_path", base, to=to) == 0
    told = capsys.readouterr().out
    end = tokenizer().convert_tokens_to_ids("<|end|>")
    assert f"<|end|> (id {end})" in told
    assert "--to merged" in told
    assert {"vllm": f'"stop_token_ids": [{end}]', "mlx-adapter": "--extra-eos-token '<|end|>'"}[to] in told


def test_vllms_line_names_the_adapters_own_tokenizer_and_no_base_that_is_gone(trained, tmp_path, capsys):
    run = shutil.copytree(trained / "run", tmp_path / "run")
    other = deepcopy(tokenizer())
    other.chat_template = tiny.CHAT_TEMPLATE.replace("<s>", "<s><s>")
    other.save_pretrained(run / "adapter")
    assert main(["export", str(run), "--to", "vllm"]) == 0
    words = shlex.split(capsys.readouterr().out.splitlines()[-1])
    assert words[words.index("--tokenizer") + 1] == str(run / "adapter")
    assert export(trained, None, "--model_name_or_path", tmp_path / "gone", to="vllm") == 2
    assert str(tmp_path / "gone") in capsys.readouterr().err
    assert export(trained, None, "--model_name_or_path", "org/gone", to="vllm") == 0
    assert "NOT checked" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("config", "word"),
    [
        (LoraConfig(target_modules=["q_proj"], use_dora=True), "use_dora"),
        (LoraConfig(target_modules=["q_proj"], modules_to_save=["lm_head"]), "modules_to_save"),
        (LoraConfig(target_modules=["q_proj"], trainable_token_indices=[3]), "trainable_token_indices"),
        (LoraConfig(target_modules=["q_proj", "lm_head"]), "lm_head"),
        (LoraConfig(target_modules=["q_proj", "v_proj"], alpha_pattern={"v_proj": 99}), "alpha_pattern"),
        (LoraConfig(target_modules=["q_proj"], r=600), "600"),
    ],
)
def test_an_adapter_that_vllm_does_not_take_is_refused_with_what_to_do(trained, tmp_path, capsys, config, word):
    (tmp_path / "run" / "adapter").mkdir(parents=True)
    config.base_model_name_or_path = str(trained / "base")
    config.save_pretrained(tmp_path / "run" / "adapter")
    assert main(["export", str(tmp_path / "run"), "--to", "vllm"]) == 2
    told = capsys.readouterr().err
    assert word in told
    assert "--to merged" in told


def test_a_quantised_base_is_refused_before_anything_is_loaded(trained, tmp_path, capsys):
    base = tmp_path / "base"
    base.mkdir()
    config = json.loads((trained / "base" / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4}
    (base / "config.json").write_text(json.dumps(config))
    assert export(trained, tmp_path / "out", "--model_name_or_path", base) == 2
    assert "quantised" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_merged_export_and_a_merge_end_with_the_line_that_uses_the_result(trained, tmp_path, capsys):
    assert export(trained, tmp_path / "one", to="merged") == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith(f"next: vllm serve {tmp_path / 'one'}")
    named = ["--model_name_or_path", str(trained / "base"), "--adapter", str(trained / "run")]
    assert main(["merge", *named, "--out", str(tmp_path / "two")]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith(f"next: vllm serve {tmp_path / 'two'}")
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    assert all(torch.equal(one[name], weight) for name, weight in two.items())


def test_an_output_that_is_not_empty_and_replies_that_are_missing_are_named(trained, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    assert export(trained, tmp_path / "out") == 2
    assert "already exists" in capsys.readouterr().err
    assert main(["export", str(trained / "run"), "--out", str(tmp_path / "new")]) == 2
    assert "--verify_file" in capsys.readouterr().err
    assert Path(tmp_path / "out" / "mine.txt").read_text() == "mine"
