"""Settings of a conversation; no torch."""

from dataclasses import dataclass, field

from nlft.config import with_defaults
from nlft.core.prompts import SystemPromptSettings
from nlft.models.settings import AnswerSettings, SeedSettings, TemperatureSettings

BASE, RULE, TUNED = "base", "rule", "tuned"


@dataclass
@with_defaults(max_new_tokens=512)
class ChatSettings(AnswerSettings, TemperatureSettings, SeedSettings, SystemPromptSettings):
    """How one talks to the models, and where feedback on their replies goes."""

    model_name_or_path: str | None = field(
        default=None, metadata={"help": "Base model: a folder or a hub name (default: the one that was trained)."}
    )
    rule: str | None = field(
        default=None, metadata={"help": "Rule that the side `rule` has in its prompt (default: the rules of the run)."}
    )
    rules: str | None = field(
        default=None, metadata={"help": "File of rules for the side `rule`, .yaml (`nlft audit --rules_out`)."}
    )
    prompts: str | None = field(
        default=None, metadata={"help": "Held-out prompts to try: a file or dataset of questions or examples."}
    )
    blind: bool = field(
        default=False, metadata={"help": "Hide which side wrote which reply until you have chosen. Keeps the score."}
    )
    out: str | None = field(
        default=None,
        metadata={
            "help": "File for examples from your feedback, .jsonl (default: examples-next.jsonl beside the run)."
        },
    )
    score: str | None = field(
        default=None, metadata={"help": "File of blind choices, .jsonl (default: chat-choices.jsonl in the run)."}
    )
