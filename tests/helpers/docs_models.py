"""Tries nlft on a tiny random model of each family, and writes the table of docs/MODELS.md with `--write`."""

import sys
import tempfile
from pathlib import Path

import torch
from peft import PeftModel
from transformers import PreTrainedModel

from helpers import architectures
from nlft.core.conditions import IGNORE_INDEX, Rows, pad_rows
from nlft.core.logprobs import enable_scoring, score
from nlft.errors import NLFTError
from nlft.models.adapters import adapted, lora
from nlft.models.loading import wrap

PAGE = Path(__file__).parents[2] / "docs" / "MODELS.md"
BEGIN, END = "<!-- generated: models -->\n", "<!-- end -->"
SCORES = 1e-6  # nats, times the largest log-probability if that is over 1
MERGE = 1e-4  # nats; a right merge rounds weights otherwise, a wrong one is over 1e-2 away


def rows(seed: int = 0) -> Rows:
    """Three ragged rows of random tokens."""
    numbers = torch.Generator().manual_seed(seed)

    def ids(count: int) -> list[int]:
        return torch.randint(6, architectures.VOCAB, (count,), generator=numbers).tolist()

    return pad_rows([(ids(7), ids(5)), (ids(3), ids(11)), (ids(12), ids(1))], pad_token_id=0)


def plain(model: torch.nn.Module, batch: Rows) -> torch.Tensor:
    """The model's own logits, their log-softmax in float64, the labels' entries in row-major order."""
    logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits.double()
    labels = batch.labels[:, 1:]
    found = logits.log_softmax(-1)[:, :-1].gather(2, labels.clamp(min=0)[..., None])[..., 0]
    return found[labels != IGNORE_INDEX]


def row(family: str) -> str:
    """A family's row of the table."""
    model = architectures.model(family)
    name = f"| {type(model).__name__} | `{family}` | "
    try:
        adapter, scores = trained(model)
    except NLFTError as error:
        return name + f"refused: {str(error).splitlines()[0].split(' (')[0]} | | |"
    found = adapted(adapter)
    layers = ", ".join(f"`{layer}`" for layer in found.layers)
    share = f"{found.mlp_weights / found.all_mlp_weights:.0%} of the MLP" if found.mlp_weights else "no MLP"
    merged = "right" if differs_when_merged(family, adapter) < MERGE else "no"
    return name + f"{scores} | {layers} ({share}) | {merged} |"


def trained(model: PreTrainedModel) -> tuple[PeftModel, str]:
    """The model after two steps with the default adapter; whether its scores were right before and after."""
    adapter = wrap(model, lora(model, r=4, lora_alpha=8))
    enable_scoring(adapter)
    before = scores_are_right(adapter)
    adapter.enable_input_require_grads()
    if adapter.get_base_model().supports_gradient_checkpointing:
        adapter.gradient_checkpointing_enable()
    weights = {name: p for name, p in adapter.named_parameters() if p.requires_grad}
    start = {name: p.detach().clone() for name, p in weights.items()}
    optimizer = torch.optim.AdamW(weights.values(), lr=1e-2)
    adapter.train()
    for _ in range(2):
        loss = -score(adapter, rows()).logp.sum()
        assert loss.isfinite()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    still = [name for name, p in weights.items() if torch.equal(p, start[name])]
    assert still == [], f"{type(model).__name__}: not trained: {still}"
    adapter.eval()
    right = before and scores_are_right(adapter)
    return adapter, "right" if right else "WRONG"


@torch.no_grad()
def scores_are_right(model: torch.nn.Module) -> bool:
    scored, own = score(model, rows()), plain(model, rows())
    return bool((scored.logp[scored.mask].double() - own).abs().max() <= SCORES * max(1.0, float(own.abs().max())))


@torch.no_grad()
def differs_when_merged(family: str, adapter: PeftModel) -> float:
    """The largest change of a log-probability when the saved adapter is loaded, and then merged into the model.

    A saved adapter must come back as it was.
    """
    own = plain(adapter, rows())
    with tempfile.TemporaryDirectory() as folder:
        adapter.save_pretrained(folder)
        again = PeftModel.from_pretrained(architectures.model(family), folder)
    assert (plain(again, rows()) - own).abs().max() < SCORES, f"{family}: another model after loading"
    return float((plain(again.merge_and_unload(), rows()) - own).abs().max())


def table() -> str:
    head = ["| class | family | scores | default adapter | merge |", "|---|---|---|---|---|"]
    return "\n".join([*head, *(row(family) for family in architectures.FAMILIES), ""])


def page_with_table() -> str:
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    return before + BEGIN + table() + END + rest.partition(END)[2]


if __name__ == "__main__" and "--write" in sys.argv:
    PAGE.write_text(page_with_table(), encoding="utf-8")
