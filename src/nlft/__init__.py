"""Natural Language Fine-Tuning (arXiv 2412.20382) for any causal language model.

The names below are the public API. Each is imported from its module when it is first used, so `import nlft` is quick
and does not import torch. docs/API.md describes the names.
"""

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from nlft.auditing.run import audit as audit
    from nlft.auditing.settings import AuditSettings as AuditSettings
    from nlft.core.schemes.nlft import NLFTSettings as NLFTSettings
    from nlft.core.schemes.registry import register_scheme as register_scheme
    from nlft.core.schemes.scheme import Scheme as Scheme
    from nlft.core.schemes.strike import StrikeSettings as StrikeSettings
    from nlft.core.spans import Span as Span
    from nlft.data.records import (
        Example as Example,
    )
    from nlft.data.records import (
        Question as Question,
    )
    from nlft.data.records import (
        read_examples as read_examples,
    )
    from nlft.data.records import (
        read_questions as read_questions,
    )
    from nlft.data.records import (
        write_examples as write_examples,
    )
    from nlft.errors import (
        ConfigError as ConfigError,
    )
    from nlft.errors import (
        NLFTError as NLFTError,
    )
    from nlft.errors import (
        Problem as Problem,
    )
    from nlft.errors import (
        ProblemsError as ProblemsError,
    )
    from nlft.errors import (
        RecordsError as RecordsError,
    )
    from nlft.errors import (
        UserError as UserError,
    )
    from nlft.notebook.comparison import ComparisonResult as ComparisonResult
    from nlft.notebook.run import Run as Run
    from nlft.results.evaluate import evaluate as evaluate
    from nlft.results.settings import EvaluationSettings as EvaluationSettings
    from nlft.runs.run_dir import RunDir as RunDir
    from nlft.training.trainer import NLFTConfig as NLFTConfig
    from nlft.training.trainer import NLFTTrainer as NLFTTrainer

_MODULES = {
    "NLFTTrainer": "training.trainer",
    "NLFTConfig": "training.trainer",
    "read_examples": "data.records",
    "read_questions": "data.records",
    "write_examples": "data.records",
    "Example": "data.records",
    "Question": "data.records",
    "Span": "core.spans",
    "Scheme": "core.schemes.scheme",
    "NLFTSettings": "core.schemes.nlft",
    "StrikeSettings": "core.schemes.strike",
    "register_scheme": "core.schemes.registry",
    "evaluate": "results.evaluate",
    "EvaluationSettings": "results.settings",
    "audit": "auditing.run",
    "AuditSettings": "auditing.settings",
    "Run": "notebook.run",
    "ComparisonResult": "notebook.comparison",
    "RunDir": "runs.run_dir",
    "NLFTError": "errors",
    "UserError": "errors",
    "ProblemsError": "errors",
    "RecordsError": "errors",
    "ConfigError": "errors",
    "Problem": "errors",
}

__all__ = list(_MODULES)  # in the order of docs/API.md


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module 'nlft' has no attribute {name!r}")
    public = getattr(import_module(f"nlft.{_MODULES[name]}"), name)
    globals()[name] = public  # the next look-up finds the name without this function
    return public


def load_ipython_extension(ipython: object) -> None:
    """Add `%nlft_map RUN` to IPython: `%load_ext nlft` calls this."""
    from nlft.notebook.magic import register

    register(ipython)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
