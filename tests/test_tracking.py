"""trackio gets the metrics, the map, replies and alerts; a tracker that is missing or fails stops no run."""

import json
import sqlite3
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub import errors
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK, TrackioCallback

from helpers.training import examples, nlft_trainer
from helpers.waiting import until
from nlft.core.schemes.nlft import NLFTSettings
from nlft.core.schemes.strike import StrikeSettings
from nlft.training.trackers import cure_of, warn_failed, without_missing_trackers
from nlft.training.tracking import TrackioReport

SHORT = {"max_steps": 2, "watch": 2, "watch_every": 0, "report_to": ["trackio"]}


@pytest.fixture
def trackio(monkeypatch, tmp_path):
    """trackio with its files in the test's folder, and no server."""
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    for name in ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL"):
        monkeypatch.delenv(name, raising=False)
    package = pytest.importorskip("trackio", reason="trackio is not installed")
    monkeypatch.setattr("nlft.training.tracking.REPLY_TOKENS", 4)
    # An earlier test may have imported it: then every module of it has the folders of that time.
    for module in [module for name, module in sys.modules.items() if name.split(".")[0] == "trackio"]:
        for name, place in (("TRACKIO_DIR", "."), ("MEDIA_DIR", "media"), ("TRACES_DIR", "traces")):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, tmp_path / "trackio" / place)
    return package


def stored(folder: Path) -> tuple[list[dict], list[tuple], list[tuple]]:
    """The logged metrics, traces and alerts of all runs in trackio's files."""
    metrics, traces, alerts = [], [], []
    for file in folder.rglob("*.db"):
        with sqlite3.connect(file) as base:
            tables = {name for (name,) in base.execute("select name from sqlite_master where type = 'table'")}
            if "metrics" in tables:
                metrics += [json.loads(text) for (text,) in base.execute("select metrics from metrics")]
            if "traces" in tables:
                traces += [
                    (key, json.loads(turns))
                    for key, turns in base.execute("select key, messages from traces order by key")
                ]
            if "alerts" in tables:
                alerts += list(base.execute("select title, text, level from alerts"))
    return metrics, traces, alerts


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_trackio_has_metrics_the_map_replies_before_and_after_and_alerts(trackio, tmp_path):
    bare = [
        replace(e, judgment="It is not as I want it.\nCorrection: none." if not e.label else None) for e in examples()
    ]
    trainer = nlft_trainer(tmp_path / "run", data=bare, saliency=StrikeSettings(), run_name="one", **SHORT)
    trainer.train()
    # trackio's own thread writes its files, on a busy machine also after `finish`.
    until(lambda: all((found := stored(tmp_path / "trackio"))[1:]) and any("map" in line for line in found[0]))
    metrics, traces, alerts = stored(tmp_path / "trackio")
    assert {"train/loss", "map"} <= {name for line in metrics for name in line}
    page = next((tmp_path / "trackio").rglob("*.html")).read_text(encoding="utf-8")
    assert "Saliency map" in page
    assert [key for key, _ in traces] == ["replies/after"] * 2 + ["replies/before"] * 2
    assert all(turns[0]["content"].startswith("What is ") and turns[-1]["role"] == "assistant" for _, turns in traces)
    assert [title for title, _, _ in alerts] == ["Nothing is struck"]
    alone = nlft_trainer(tmp_path / "alone", data=bare, saliency=StrikeSettings(), **{**SHORT, "report_to": []})
    alone.train()
    ours, theirs = (p / "adapter" / "adapter_model.safetensors" for p in (tmp_path / "run", tmp_path / "alone"))
    assert ours.read_bytes() == theirs.read_bytes(), "to be asked for replies changes no training"


class Fake:
    """trackio as the reports call it."""

    context_vars = SimpleNamespace(current_run=SimpleNamespace(get=lambda: None))

    class AlertLevel:
        WARN = "warn"

    def __init__(self):
        self.alerts = []

    def alert(self, title, text, level):
        self.alerts.append(title)


def reporting(trainer, tmp_path):
    """The trainer's report, on a package that only collects alerts."""
    report = object.__new__(TrackioReport)
    report._trackio, report._space_id, report.trainer, report.failed = Fake(), None, trainer, False
    report._alerted, report._gated, report._summed = set(), (0.0, 0.0), (0.0, 0.0)
    return report


def test_epochs_in_which_every_wrong_example_is_gated_raise_one_alert(tmp_path):
    def alerts(saliency):
        short = {"num_train_epochs": 2, "gradient_accumulation_steps": 1, "watch": 0}
        trainer = nlft_trainer(tmp_path / "run", data=examples(6), saliency=saliency, **short)
        report = reporting(trainer, tmp_path)
        report.on_train_begin = report.on_train_end = report.on_log = lambda *_, **__: None
        trainer.add_callback(report)
        trainer.train()
        return report._trackio.alerts

    loose = {"mistake_ratio": 1.0001, "mistake_floor": 0.0}
    assert alerts(NLFTSettings(gate_fraction=0.001, **loose)) == ["Everything is gated"]
    assert alerts(NLFTSettings(gate_fraction=1.0, **loose)) == []


def test_an_epoch_that_gates_a_part_of_its_wrong_examples_raises_no_alert(tmp_path):
    trainer = SimpleNamespace(_metrics={"train": {}})
    report = reporting(trainer, tmp_path)
    for gated, wrong in ((1.0, 2.0), (3.0, 4.0)):  # sums over the steps so far
        trainer._metrics["train"]["nlft/gated_fraction"] = (gated, wrong)
        report._count_gated()
    assert report._gated == (3.0, 4.0)


def test_a_new_phrase_in_most_replies_raises_an_alert(tmp_path):
    report = reporting(None, tmp_path)
    report._asked = examples()[:6]

    class State:
        is_world_process_zero, global_step = True, 3

    report._tell_habits(["It is small."] * 6, ["It is small."] * 6, State())
    assert report._trackio.alerts == []
    report._tell_habits(["It is small."] * 6, ["As an expert I say it is small."] * 6, State())
    assert report._trackio.alerts == ["A new habit"]


def test_a_missing_trackio_is_one_warning_with_the_cure_and_the_run_goes_on(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "trackio", None)  # an import of it fails
    with pytest.warns(UserWarning, match=r"pip install 'nlft\[trackio\]'") as found:
        trainer = nlft_trainer(tmp_path / "run", max_steps=1, watch=0, report_to=["trackio"])
    assert len([one for one in found if "nlft[trackio]" in str(one.message)]) == 1
    trainer.train()
    assert (tmp_path / "run" / "adapter" / "adapter_model.safetensors").is_file()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_a_trackio_that_fails_is_one_warning_and_the_run_goes_on(trackio, tmp_path, monkeypatch):
    def broken(*_, **__):
        raise ConnectionError("nobody answers")

    monkeypatch.setattr(trackio, "init", broken)
    trainer = nlft_trainer(tmp_path / "run", max_steps=1, watch=0, report_to=["trackio"])
    with pytest.warns(UserWarning, match="nobody answers") as found:
        trainer.train()
    assert len([one for one in found if "nobody answers" in str(one.message)]) == 1
    assert (tmp_path / "run" / "adapter" / "adapter_model.safetensors").is_file()


def hub(**places):
    """What stands for the hub: each place's `private`. Other places do not exist."""

    def info(name, repo_type="bucket"):
        kind = errors.BucketNotFoundError if repo_type == "bucket" else errors.RepositoryNotFoundError
        if isinstance(private := places.get(name.replace("/", "_"), kind), type):
            raise private("no", response=SimpleNamespace(headers={}, request=None))
        return SimpleNamespace(private=private)

    return info


@pytest.mark.parametrize(
    ("space", "settings", "places", "may"),
    [
        (None, {}, {}, True),
        (None, {"push_to_hub": True}, {}, False),
        (None, {"push_to_hub": True, "hub_private_repo": True}, {}, True),
        (None, {"push_to_hub": True, "trackio_static_space_id": False}, {}, True),
        ("ann/s", {}, {"ann_s": True}, False),  # its copy after the training would be public
        ("ann/s", {"hub_private_repo": True}, {"ann_s": True}, True),
        ("ann/s", {"hub_private_repo": True}, {"ann_s": False}, False),  # it exists, so the flag changes nothing
        ("ann/s", {"hub_private_repo": True}, {"ann_s": errors.HfHubHTTPError}, False),
        ("ann/s", {"trackio_static_space_id": False}, {"ann_s": True}, True),
        ("ann/s", {"trackio_static_space_id": "c", "hub_private_repo": True}, {"ann_s": True, "ann_c": False}, False),
        ("ann/s", {"trackio_static_space_id": "c"}, {"ann_s": True, "ann_c": True}, True),
        ("ann/s", {"trackio_bucket_id": "ann/b", "hub_private_repo": True}, {"ann_s": True, "ann_b": False}, False),
        ("ann/s", {"trackio_bucket_id": "ann/b", "hub_private_repo": True}, {"ann_s": True, "ann_b": True}, True),
    ],
)
def test_texts_go_only_to_places_that_the_hub_calls_private(tmp_path, monkeypatch, space, settings, places, may):
    monkeypatch.setattr(huggingface_hub, "repo_info", hub(**places))
    monkeypatch.setattr(huggingface_hub, "bucket_info", hub(**places))
    monkeypatch.setattr(huggingface_hub, "whoami", lambda: {"name": "ann"})
    report = reporting(None, tmp_path)
    report._space_id, report._static_space_id = space, None
    unset = {"push_to_hub": False, "hub_private_repo": None, "trackio_bucket_id": None, "trackio_static_space_id": None}
    args = SimpleNamespace(**{**unset, **settings})
    if may:
        assert report._may_hold_texts(args)
        return
    with pytest.warns(UserWarning, match="private"):
        assert not report._may_hold_texts(args)
    assert not report._may_hold_texts(args), "said once"


def test_each_tracker_has_a_cure_that_helps_and_no_message_has_a_password(monkeypatch):
    found = {name: cure_of(name) for name in INTEGRATION_TO_CALLBACK}
    packages = {"flyte": "flytekit", "azure_ml": "azureml-sdk", "dagshub": "dagshub mlflow", "mlflow": "mlflow"}
    assert {name: found[name].removeprefix("pip install ") for name in packages} == packages
    assert "KUBEFLOW_TRAINER_SERVER_URL" in found["kubeflow"]
    monkeypatch.setenv("DISABLE_MLFLOW_INTEGRATION", "TRUE")
    monkeypatch.delenv("KUBEFLOW_TRAINER_SERVER_URL", raising=False)
    args = SimpleNamespace(report_to=["mlflow", "kubeflow"])
    with pytest.warns(UserWarning, match="--report_to") as said:
        without_missing_trackers(args)
    assert args.report_to == []
    first, second = (str(one.message) for one in said)
    assert "DISABLE_MLFLOW_INTEGRATION" in first
    assert "KUBEFLOW_TRAINER_SERVER_URL" in second
    with pytest.warns(UserWarning, match="http://log.example") as said:
        warn_failed("kubeflow", ConnectionError("no answer of http://ann:secret@log.example"))
    assert "--upgrade" not in str(said[0].message)


@pytest.mark.parametrize("name", ["wandb", "tensorboard"])
@pytest.mark.parametrize("event", ["setup", "on_log", "on_train_end"])
def test_any_tracker_that_fails_at_the_start_in_the_middle_or_at_the_end_is_one_warning(
    name, event, tmp_path, monkeypatch
):
    kind = INTEGRATION_TO_CALLBACK[name]
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "boards"))

    def broken(*_, **__):
        raise ConnectionError("nobody answers")

    for method in ("setup", "on_train_begin", "on_log", "on_train_end", "on_save"):
        if hasattr(kind, method):
            monkeypatch.setattr(kind, method, lambda *_, **__: None)
    monkeypatch.setattr(kind, "on_train_begin" if event == "setup" else event, broken)
    trainer = nlft_trainer(tmp_path / "run", max_steps=2, watch=0, report_to=[name])
    with pytest.warns(UserWarning, match="nobody answers") as found:
        trainer.train()
    told = [str(one.message) for one in found if "nobody answers" in str(one.message)]
    assert len(told) == 1
    assert f"nlft[{name}]" in told[0]
    assert (tmp_path / "run" / "adapter" / "adapter_model.safetensors").is_file()


@pytest.mark.parametrize("name", ["wandb", "tensorboard", "mlflow"])
def test_any_tracker_that_is_not_installed_is_one_warning(name, tmp_path, monkeypatch):
    def missing(*_):
        raise RuntimeError(f"requires {name} to be installed")

    monkeypatch.setattr(INTEGRATION_TO_CALLBACK[name], "__init__", missing)
    with pytest.warns(UserWarning, match=f"--report_to {name}") as found:
        trainer = nlft_trainer(tmp_path / "run", max_steps=1, watch=0, report_to=[name])
    assert len([one for one in found if f"--report_to {name}" in str(one.message)]) == 1
    assert trainer.args.report_to == []


def test_trackios_own_end_is_called_after_ours(tmp_path, monkeypatch):
    trainer = nlft_trainer(tmp_path / "run", watch=0, max_steps=1)
    report, called = reporting(trainer, tmp_path), []
    monkeypatch.setattr(report, "_finish", lambda *_: called.append("ours"))
    monkeypatch.setattr(TrackioCallback, "on_train_end", lambda *_, **__: called.append("theirs"))
    report.on_train_end(trainer.args, trainer.state, trainer.control)
    assert called == ["ours", "theirs"]
