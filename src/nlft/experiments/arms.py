"""Define arms: the ways to use one file of examples that a comparison compares."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, get_args

from nlft.errors import UserError, display_path
from nlft.files import read_json, write_whole

Method = Literal["none", "few-shot", "prompt", "sft", "kto", "dpo", "reft", "nlft", "ban"]
Kind = Literal["all", "right", "shuffled", "replaced", "random-spans", "swapped-spans", "no-spans", "revised"]
TRAINED = ("sft", "kto", "dpo", "reft", "nlft")
ALIASES: Mapping[str, str] = MappingProxyType({"sft-liked": "sft-completion"})
"""Other names of built-in arms: alias -> name."""


@dataclass(frozen=True)
class Arm:
    """One way to use the examples.

    Attributes:
        method: how the model is trained or prompted.
        settings: fields of that method's settings, in addition to the budget that all arms share. For nlft, `scheme`
            and `saliency` determine how tokens are weighted. For prompt, `prompt_template` has the slot `{prompt}`, and
            `liked_shots` right completions are shown as earlier turns. The slots `{rule}`, `{reworded}`, `{guide}` and
            `{words}` are filled from the plan's rules, see `experiments.rule_arms`. For ban, `words` are banned while
            decoding, and one answer goes back at most `tries` times.
        examples: which examples to use, see `experiments.arm_data.chosen_examples`.
    """

    name: str
    title: str
    method: Method
    settings: Mapping[str, Any] = field(default_factory=dict)
    examples: Kind = "all"

    @property
    def is_trained(self) -> bool:
        """Whether the arm trains the model. Arms that do not train only prompt the model."""
        return self.method in TRAINED


def few_shot(shots: int) -> Arm:
    """Return the arm that shows `shots` of the examples in the prompt."""
    return Arm("few-shot", f"{shots}-shot prompting", "few-shot", {"shots": shots})


def _ban_settings() -> dict[str, Any]:
    return {"words": ["{words}"], "tries": 50}


def struck(name: str, title: str, examples: Kind = "all", **settings: Any) -> Arm:
    """Return an arm that trains with `strike`."""
    return Arm(name, title, "nlft", {"scheme": "strike", "answer_weight": 0.0, **settings}, examples)


def _prompting(name: str, title: str, slot: str, **settings: Any) -> Arm:
    return Arm(name, title, "prompt", {"prompt_template": f"{{prompt}}\n\n{{{slot}}}", **settings})


BUILT_IN: Mapping[str, Arm] = MappingProxyType(
    {
        arm.name: arm
        for arm in (
            Arm("base", "prompted base", "none"),
            few_shot(4),
            Arm("sft-answer", "SFT on answers", "sft", {"target": "answer"}),
            Arm("sft-completion", "SFT on right completions", "sft", {"target": "completion"}),
            Arm("kto", "KTO", "kto"),
            Arm("dpo", "DPO, patched over original", "dpo", examples="replaced"),
            Arm("reft", "ReFT", "reft"),
            Arm("nlft", "NLFT", "nlft"),
            struck("strike", "strike and hold"),
            struck("strike-said", "strike where it was said only", saliency={"strike_at": "said"}),
            struck("strike-list", "strike, the rules' words too", strike_words=["{words}"]),
            Arm("ftpo", "FTPO at the same places", "nlft", {"scheme": "ftpo", "answer_weight": 0.0}),
            struck("strike-random", "strike at random places", "random-spans"),
            struck("strike-shuffled", "strike, judgments swapped", "swapped-spans"),
            struck("hold-only", "hold, nothing struck", "no-spans"),
            _prompting("rule", "the rule in the prompt", "rule"),
            _prompting("rule-reworded", "the rule, reworded", "reworded"),
            _prompting("rule-shots", "the rule and 2 liked replies", "guide", liked_shots=2),
            Arm("ban", "banned words, without training", "ban", _ban_settings()),
            Arm("sft-replaced", "SFT on patched replies", "sft", {"target": "completion"}, "replaced"),
            Arm("sft-revised", "SFT on revised replies", "sft", {"target": "completion"}, "revised"),
            Arm(
                "sft-revised-hold",
                "SFT on revised replies, and hold",
                "nlft",
                {"scheme": "uniform", "answer_weight": 0.0, "saliency": {"hold_weight": 1.0}},
                "revised",
            ),
            Arm("control", "NLFT, branch off", "nlft", {"saliency": {"branch_weight": 0.0}}),
            Arm("shuffled", "NLFT, judgments shuffled", "nlft", examples="shuffled"),
            Arm("uniform-right", "uniform on right completions", "nlft", {"scheme": "uniform"}, "right"),
        )
    }
)
"""The arms that every plan has, by name."""


def plan_arms(shots: int, extra: Mapping[str, Mapping[str, Any]]) -> dict[str, Arm]:
    """Return the arms of one plan, by name: the built-in arms and the arms that the plan defines.

    Args:
        shots: examples in the prompt of the few-shot arms.
        extra: the plan's `extra_arms`.

    Raises:
        UserError: an extra arm has a wrong definition.
    """
    own = {name: defined_arm(name, spec, shots) for name, spec in extra.items()}
    return {**BUILT_IN, "few-shot": few_shot(shots), **own}


def defined_arm(name: str, spec: Mapping[str, Any], shots: int = 4) -> Arm:
    """Make an arm from a definition in a plan's `extra_arms`.

    Args:
        shots: examples in the prompt, for a few-shot arm that does not set `shots`.

    Raises:
        UserError: the name is taken, or the definition has an unknown key or value.
    """
    allowed = {"title", "method", "settings", "examples"}
    kinds = get_args(Kind)
    problems = [f"{key!r} is not one of {', '.join(sorted(allowed))}" for key in spec.keys() - allowed]
    if name in BUILT_IN or name in ALIASES:
        problems.append("the name is built in; choose another one")
    if spec.get("method") not in get_args(Method):
        problems.append(f"method {spec.get('method')!r} is not one of {', '.join(get_args(Method))}")
    if spec.get("examples", "all") not in kinds:
        problems.append(f"examples {spec['examples']!r} is not one of {', '.join(kinds)}")
    settings = spec.get("settings", {})
    if not isinstance(settings, Mapping):
        problems.append(f"settings is {settings!r}, and must be a mapping, such as {{shots: 4}}")
        settings = {}
    if not isinstance(spec.get("title", name), str):
        problems.append(f"title is {spec['title']!r}, and must be text")
    if spec.get("method") == "few-shot":
        settings = {"shots": shots, **settings}
        problems += [f"{key!r} is not a setting of few-shot" for key in settings.keys() - {"shots"}]
        if not isinstance(settings["shots"], int) or settings["shots"] < 1:
            problems.append(f"shots is {settings['shots']!r}, and must be 1 or more")
    elif spec.get("method") == "prompt":
        known = {"prompt_template", "liked_shots"}
        problems += [f"{key!r} is not a setting of prompt" for key in settings.keys() - known]
        if "{prompt}" not in str(settings.get("prompt_template")):
            problems.append("prompt_template is missing, or lacks {prompt}")
        if not isinstance(settings.get("liked_shots", 1), int) or settings.get("liked_shots", 1) < 1:
            problems.append(f"liked_shots is {settings['liked_shots']!r}, and must be 1 or more")
    elif spec.get("method") == "ban":
        settings = {**_ban_settings(), **settings}
        problems += [f"{key!r} is not a setting of ban" for key in settings.keys() - _ban_settings().keys()]
        if not isinstance(settings["words"], list):
            problems.append("words is not a list")
        if not isinstance(settings["tries"], int) or settings["tries"] < 1:
            problems.append(f"tries is {settings['tries']!r}, and must be 1 or more")
    elif spec.get("method") == "none" and settings:
        problems.append("method none has no settings")
    if problems:
        raise UserError(f"extra_arms: {name}: {'; '.join(problems)}.\n  Correct `extra_arms` in the YAML file.")
    return Arm(name, **{"title": name, **spec, "settings": settings})


def record_arm(arm: Arm, out: Path) -> None:
    """Write the arm's definition to `out`/arm.json. No other definition may then reuse the folder's results.

    Raises:
        UserError: the folder holds the results of another definition of this arm.
    """
    definition = json.loads(json.dumps(asdict(arm)))
    path = out / "arm.json"
    if path.exists() and read_json(path, "remove it: the arm runs again") != definition:
        raise UserError(
            f"{display_path(out)}: holds results of another definition of {arm.name}.\n"
            "  Give the new arm another name, or remove that folder."
        )
    write_whole(path, json.dumps(definition, indent=1).encode())
