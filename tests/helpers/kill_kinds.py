"""The commands whose kills are tried: how each is started and goes on, and what it must end with."""

import hashlib
import json
import multiprocessing

from helpers.kills import Tally, by_operation, by_rank, launched, of_run, tried
from helpers.training import examples
from nlft import cli
from nlft.data.records import write_examples
from nlft.experiments import staged
from nlft.experiments.demo import write_problems
from nlft.runs.run_dir import RunDir
from nlft.training import kept_conditions
from nlft.training.steering import Steering

TRAINING = {"per_device_train_batch_size": 3, "gradient_accumulation_steps": 2, "num_train_epochs": 3, "lora_r": 2}
TRAINING |= {"save_strategy": "steps", "save_steps": 2, "use_cpu": True, "dtype": "float32", "logging_steps": 1}
TRAINING |= {"learning_rate": 1e-2, "lora_dropout": 0.1, "activation_checkpointing": False, "disable_tqdm": True}
OWN = {
    "train": {"watch": 2, "watch_share": 1.0, "watch_every": 2},
    "sft": {"target": "answer", "logging_steps": 3},
    "kto": {},
    "reft": {"sft_steps": 3, "sft_epochs": 0, "max_steps": 4, "num_generations": 2, "max_completion_length": 5},
}
OWN["reft"] |= {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 1}


def words_of(name, file, model, out, **settings):
    words = [word for key, value in settings.items() for word in (f"--{key}", *([] if value is None else [str(value)]))]
    return [name, str(file), "--model_name_or_path", model, "--output_dir", str(out), *words]


def command(*where, **settings):
    return cli.main(words_of(*where, **settings))


def steered(run):
    """Ask for a save after step 3 and for another rate at step 5, once each, as a user does who watches the run."""
    for request in run.pending_requests():
        run.remove_request(request)  # the killed run was asked, and the user asks again
    take = Steering.take_requests

    def asking(self, step):
        known = {line["control"] for line in run.controls(superseded=True)}  # a resume takes them again
        if step == 4 and "save" not in known:
            run.write_request("save", None, "page")
        if step == 5 and "learning_rate" not in known:
            run.write_request("learning_rate", 0.5, "page")
        take(self, step)

    Steering.take_requests = asking  # in a forked process


def trained(name, folder, model):
    write_examples(folder / "examples.jsonl", examples())

    def start(out):
        if name == "train":
            steered(RunDir(out))
        return command(name, folder / "examples.jsonl", model, out, **{**TRAINING, **OWN[name]}, resume=None)

    return start, of_run


VARIANTS = {
    "bf16": {"dtype": "bfloat16", "save_strategy": "epoch", "eval_strategy": "epoch", "watch": 0},
    "dora": {"use_dora": "true", "optim": "adafactor", "scheme": "cut", "watch": 0},
}


def varied(name, folder, model):
    """A training with other settings. Held-out examples are evaluated where the settings say so."""
    write_examples(folder / "examples.jsonl", examples())
    write_examples(folder / "held-out.jsonl", examples(15)[12:])
    settings = {**TRAINING, **VARIANTS[name]}
    if settings["save_strategy"] != "steps":
        del settings["save_steps"]  # which has no effect then, and is refused
    if "eval_strategy" in settings:
        settings["eval_file"] = folder / "held-out.jsonl"

    def start(out):
        return command("train", folder / "examples.jsonl", model, out, **settings, resume=None)

    return start, of_run


STEERING = {3: ("scheme", "cut"), 4: ("learning_rate", 0.5), 5: ("pause", None), 6: ("scheme", "nlft")}


def steered_without_save(name, folder, model):
    """A training with a request before most steps, each of which must be answered once and for all."""
    write_examples(folder / "examples.jsonl", examples())

    def start(out):
        run, take = RunDir(out), Steering.take_requests
        for request in run.pending_requests():
            run.remove_request(request)

        def asking(self, step):
            if step in STEERING and step not in {line["step"] for line in run.controls(superseded=True)}:
                run.write_request(*STEERING[step], "page")
                if STEERING[step][0] == "pause":
                    run.write_request("resume", None, "page")
            take(self, step)

        Steering.take_requests = asking  # in a forked process
        return command("train", folder / "examples.jsonl", model, out, **{**TRAINING, "watch": 2}, resume=None)

    def look(folder):
        lines, run = RunDir(folder).controls(), RunDir(folder)
        assert len({line["id"] for line in lines}) == len(lines), "a request was answered twice"
        assert not list(run.pending_requests())
        assert [(line["step"], line["control"]) for line in lines if line["control"] not in ("pause", "resume")] == [
            (step, control) for step, (control, _) in STEERING.items() if control != "pause"
        ]
        return of_run(folder)

    return start, look


def with_frozen(name, folder, model):
    """A training whose conditions are scored once, into a cache beside the run. Each scored batch is a moment."""
    write_examples(folder / "examples.jsonl", examples())
    score = kept_conditions.score_conditions

    def start(out):
        def scoring(*args, advance, **options):
            def told(*rows):
                (out.parent / "cache-scored").write_text("")
                advance(*rows)

            return score(*args, advance=told, **options)

        kept_conditions.score_conditions = scoring  # in a forked process
        settings = {**TRAINING, "watch": 0, "condition_logprobs": "frozen", "condition_cache": out.parent / "cache"}
        return command("train", folder / "examples.jsonl", model, out, **settings, resume=None)

    return start, of_cached


def of_cached(folder):
    """What a run and its cache of scores must end with."""
    kept = [path for path in (folder.parent / "cache").iterdir() if path.suffix != ".tmp"]  # those go after a day
    files = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in kept}
    assert files
    return {**of_run(folder), "cache": files}


def in_two_processes(name, folder, model):
    write_examples(folder / "examples.jsonl", examples())
    settings = {**TRAINING, "per_device_train_batch_size": 1, "watch": 2, "watch_share": 1.0}

    def start(out):
        return words_of("train", folder / "examples.jsonl", model, out, **settings, resume=None)

    return start, of_run


def in_stages(name, folder, model):
    verb = "compare" if name == "dpo" else name  # DPO is an arm, and no command
    write_problems(folder / "problems", 12, 4)
    write_examples(folder / "examples.jsonl", examples())  # DPO needs quotes to replace
    own = {
        "tune": {"arms": "base nlft sft-answer kto reft", "batch_size": 8, "limit": 6, "test_share": 0.25},
        "compare": {
            "arms": "base nlft sft-completion",
            "sizes": "4",
            "seeds": "0",
            "comparisons": "nlft:sft-completion",
        },
        "dpo": {"arms": "base dpo", "sizes": "8", "seeds": "0", "comparisons": "dpo:base"},
        "rounds": {"rounds": 2, "patience": 2, "samples_per_question": 2, "watch": 1, "held_out_share": 0.3},
    }[name]
    shared = {"max_new_tokens": 4, "max_steps": 4, "dtype": "float32", "keep_truncated": "true"}
    if name in ("compare", "dpo"):
        shared |= {"test_file": folder / "problems" / "test.jsonl"}
    if name == "rounds":
        shared |= {"use_cpu": None, "save_strategy": "steps", "save_steps": 1, "temperature": 1.0}
    words = [
        word
        for key, value in {**shared, **own}.items()
        for word in (f"--{key}", *([] if value is None else str(value).split()))
    ]

    def start(out):
        staged._processes = lambda: multiprocessing.get_context("fork")  # a fork server's imports take seconds
        file = str(folder / "examples.jsonl" if name == "dpo" else folder / "problems" / "train.jsonl")
        return cli.main([verb, file, "--model_name_or_path", model, "--output_dir", str(out), *words])

    return start, of_stages


def of_stages(folder):
    """What each stage and each run of a folder must end with."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.name in ("train.jsonl", "test.jsonl", "sampled.jsonl", "judged.jsonl", "examples.jsonl"):
            found[name] = path.read_text()
        elif path.name == "evaluation.json":
            found[name] = [one["output"] for one in json.loads(path.read_text())["questions"]]
        elif (
            path.name == "run.yaml" and path.parent.parent.name != "checkpoints" and (path.parent / "adapter").is_dir()
        ):
            found[name] = of_run(path.parent)
    assert found
    return found


MAKE = {**dict.fromkeys(OWN, trained), **dict.fromkeys(("tune", "compare", "rounds", "dpo"), in_stages)}
MAKE |= {**dict.fromkeys(VARIANTS, varied), "steered": steered_without_save}
MAKE |= {"frozen": with_frozen, "two processes": in_two_processes}
HOW = {
    "frozen": {"draw": by_operation, "within": "cache"},
    "dpo": {"draw": by_operation, "within": "/dpo"},  # the other arms have kills of their own
    "two processes": {"attempt": launched, "draw": by_rank, "within": "/run", "most": 3},
}


def kill(name, folder, model, kills, seed, **how) -> Tally:
    """Kill a command of `MAKE` again and again.

    Args:
        how: arguments of `tried` in place of the usual ones.
    """
    folder.mkdir(exist_ok=True)
    start, look = MAKE[name](name, folder, model)
    tally = tried(start, look, folder, kills=kills, seed=seed, **HOW.get(name, {}) | how)
    print(tally.line(name))
    return tally
