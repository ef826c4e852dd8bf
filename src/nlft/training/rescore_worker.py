"""Score a watched example again with another judgment or label. The page's server starts this as a separate process.

    run_module("nlft.training.rescore_worker", RUN, MODEL, FILE)

FILE is the file that the run was trained on; by default the one that run.yaml names. Each line of the input is a JSON
object with `example` (the index among the watched examples), `id`, `label` and `judgment`. Each line of the output
answers one input line. It has `error`; or the scheme, its current settings, and the scores' arrays in base64. The
first line of the output answers no input. It has `ready` and the `adapter` that was loaded, or `error`.
"""

import base64
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, Protocol

from safetensors import SafetensorError

from nlft.core.conditions import ConditionEncoder, EncodedExample
from nlft.core.logprobs import enable_scoring
from nlft.core.prompts import ChatTemplateSettings, Templates
from nlft.core.saliency import TAG_NAMES
from nlft.core.schemes.registry import get_scheme
from nlft.data.encoding import condition_readers, encode_examples
from nlft.data.records import Example
from nlft.data.relabelling import with_label
from nlft.data.training_file import read_training_file, refuse_other_replies
from nlft.errors import NLFTError, UserError, display_path
from nlft.models.loading import ModelSettings, load_model, load_tokenizer
from nlft.models.saved_adapters import WEIGHTS
from nlft.progress import quiet_libraries
from nlft.runs.checkpoints import newest_weights
from nlft.runs.controls import state_of
from nlft.runs.run_dir import RunDir, TokenScores
from nlft.streams import outliving_readers
from nlft.training.pivots import choose_pivots, rules_of, with_pivots
from nlft.training.watching import score_alone


class RescoreModel:
    """A run's model with its newest adapter, the watched examples, and the templates of the run's prompts."""

    def __init__(self, run: RunDir, model: str, file: Path | None) -> None:
        """
        Args:
            model: folder or hub name of the base model. If the run has saved an adapter, it is loaded on this model.

        Raises:
            UserError: the model or the examples cannot be read, or do not belong to the run.
        """
        self.run, self.base = run, model
        record = run.settings()
        self.data = record.get("data", {})
        self.file = file or Path(self.data.get("file") or "")
        self.examples = watched_records(run, self.file, self.data)
        self._loaded: tuple[Path | None, int] | None = None
        self._load()
        tokenizer = load_tokenizer(self._settings(self.adapter))
        training = record["training"]
        listed = training.get("strike_words") or ()
        self.encoder = ConditionEncoder(tokenizer, recorded_templates(record), training.get("max_length"), listed)

    @property
    def adapter(self) -> Path | None:
        """The loaded adapter, or None."""
        return self._loaded[0] if self._loaded else None

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Answer one request.

        Raises:
            NLFTError: the example cannot be encoded with this label and judgment, or is not the run's.
        """
        self._load()
        known = self.examples[request["example"]]
        if known.id != request["id"] or self.run.settings().get("data", {}) != self.data:
            raise NLFTError("the run was started again with other examples.\n  Start `nlft map` again, too.")
        example = replace(with_label(known, request["label"]), judgment=request["judgment"])
        state = state_of(self.run.settings(), self.run.controls())
        assert state is not None
        scheme = get_scheme(state.scheme)
        settings = scheme.settings(**state.settings)
        readers = condition_readers(scheme.name, scheme.needs(settings))
        (encoded,) = encode_examples([example], self.encoder, **readers)
        assert self.model is not None, "_load has loaded it"
        if "hold" in scheme.needs(settings) and self.adapter is None:
            raise NLFTError("the run has saved no adapter yet, and its scheme compares the model with and without it.")
        examples = self._encoded(example, encoded, chosen="pivots" in scheme.needs(settings))
        encoded = examples[0]
        plan = scheme.plan(examples, self.encoder.tokenizer, settings)
        scores = score_alone(self.model, encoded, self.encoder.tokenizer.pad_token_id, scheme, settings, plan)
        about = {"scheme": scheme.name, "settings": asdict(settings), "tag_names": list(TAG_NAMES)}
        return {**about, "arrays": packed(scores)}

    def _encoded(self, example: Example, encoded: EncodedExample, *, chosen: bool) -> list[EncodedExample]:
        """Encode the training file with an edited example in place of its own. What is struck follows from all.

        Args:
            chosen: the scheme strikes chosen tokens. The run has recorded those of the other examples.

        Returns:
            The edited example, then the others.
        """
        file = read_training_file(self.file, self.data)
        others = [one for one in file if one.id != example.id]
        rest = encode_examples(others, self.encoder) if others else []
        if not chosen:
            return [encoded, *rest]
        recorded = dict(zip((one.id for one in file), self.run.settings()["pivots"], strict=True))
        assert self.model is not None, "_load has loaded it"
        pivots, _ = choose_pivots(self.model, self.encoder, [example], [encoded], rules_of(file))
        return [*with_pivots([encoded], pivots), *with_pivots(rest, [recorded[one.id] for one in others])]

    def _load(self) -> None:
        """Load the model with the run's newest adapter, unless it is already loaded."""
        found = newest_adapter(self.run)
        newest = (found, _written(found) if found else 0)
        if newest == self._loaded:
            return
        self._loaded = self.model = None  # free memory first; after a failure, the next request tries again
        settings = self._settings(found)
        self.model = load_model(settings, trainable=False)
        enable_scoring(self.model)
        self._loaded = newest

    def _settings(self, adapter: Path | None = None) -> ModelSettings:
        names = {f.name for f in fields(ModelSettings)} - {"model_name_or_path", "adapter"}
        kept = {name: value for name, value in self.run.settings().get("model", {}).items() if name in names}
        return ModelSettings(model_name_or_path=self.base, adapter=str(adapter) if adapter else None, **kept)


def newest_adapter(run: RunDir) -> Path | None:
    """Return the folder of the run's adapter that was saved last, or None if there is no adapter yet."""
    return newest_weights(run, [WEIGHTS])


def _written(folder: Path) -> int:
    return (folder / WEIGHTS).stat().st_mtime_ns


def watched_records(run: RunDir, file: Path, data: Mapping[str, Any]) -> list[Example]:
    """Read the watched examples from the file, because the run directory does not have the prompts' chat messages.

    Args:
        data: what the run recorded about the file.

    Raises:
        UserError: the file cannot be read, lacks a watched example, or has another one with its id.
    """
    if not file.is_file():
        raise UserError(f"{display_path(file)}: the run's training file is missing.\n  Give its new place with --data.")
    examples, watched = read_training_file(file, data), run.watched()
    refuse_other_replies(file, examples, data, watched)
    found = {example.id: example for example in examples}
    missing = [str(one.id) for one in watched if one.id not in found]
    if missing:
        names = ", ".join(missing)
        raise UserError(f"{display_path(file)}: has no example {names}.\n  Name the run's file with --data.")
    return [found[one.id] for one in watched]


def recorded_templates(record: dict[str, Any]) -> Templates:
    """Return the templates of the run's prompts."""
    training = record["training"]
    return Templates(
        standard=training["standard_prompt_template"],
        judge=training["judge_prompt_template"],
        judge_shows_correction=training["judge_shows_correction"],
        system_prompt=training["system_prompt"],
        inputs=ChatTemplateSettings(
            training.get("chat_template_kwargs"), training.get("chat_template_date")
        ).template_inputs(),
    )


def packed(scores: TokenScores) -> dict[str, str]:
    """Encode the arrays as little-endian bytes in base64. Leave out arrays that are None."""
    found = {f.name: getattr(scores, f.name) for f in fields(scores)}
    return {name: base64.b64encode(a.tobytes()).decode() for name, a in found.items() if a is not None}


class Answering(Protocol):
    """What a worker process asks for each answer."""

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Answer one request."""
        ...


def answers(rescorer: Answering, lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    """Yield an answer for each line. A faulty request gets an `error`; the process and the other requests go on."""
    for line in lines:
        try:
            yield rescorer.answer(json.loads(line))
        except (NLFTError, LookupError, TypeError, ValueError, OSError, RuntimeError, SafetensorError) as error:
            yield {"error": str(error)}


@outliving_readers("stderr")
def serve(load: Callable[[], tuple[Answering, dict[str, Any]]]) -> None:
    """Answer the lines of the input until the input ends. It ends when the server ends.

    Args:
        load: loads the model. Its second result goes into the first line of the output.
    """
    out, sys.stdout = sys.stdout, sys.stderr  # output of libraries must not mix with the answers
    quiet_libraries()

    def say(line: dict[str, Any]) -> None:
        out.write(json.dumps(line) + "\n")
        out.flush()

    try:
        model, about = load()
    except (NLFTError, LookupError, OSError, RuntimeError, SafetensorError) as error:
        say({"error": str(error)})
        return
    say({"ready": True, **about})
    for line in answers(model, iter(sys.stdin)):
        say(line)


def main(argv: list[str]) -> None:
    """Score edited feedback of the run that the arguments name."""
    run, model, *file = argv

    def load() -> tuple[Answering, dict[str, Any]]:
        rescorer = RescoreModel(RunDir.open(run), model, Path(file[0]) if file else None)
        return rescorer, {"adapter": rescorer.adapter and str(rescorer.adapter.relative_to(rescorer.run.path))}

    serve(load)
