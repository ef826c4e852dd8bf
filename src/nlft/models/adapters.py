"""Choose the layers of a new LoRA adapter from the model's structure, and say what an adapter adapts.

The paper's code adapts gate_proj, up_proj and down_proj, so the default is the whole MLP of each decoder layer, under
whatever names: with the experts of a mixture, without their router.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from peft import LoraConfig, PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from nlft.errors import UserError
from nlft.models.quantising import entries
from nlft.models.settings import ModelOptions

_MLP_CLASS = re.compile(r"(MLP|FFN|FeedForward|Experts?|MoE|MoeBlock)\d*$")
_MLP_NAME = re.compile(r"(^|_)(mlp|ffn?|feed_?forward|moe|experts?)(_|$)")
# What mixes tokens, and what is no weight matrix of the layer's own. `adapter`: Zamba2's own LoRA in its MLP.
_OTHER_NAME = re.compile(r"attn|attention|mixer|mamba|ssm|conv|recurrent|temporal|lstm|delta|norm|rotary|adapter")
_ROUTER_NAME = re.compile(r"(^|_)(gate|router)$")
_EXPERTS_DIM = 3  # fused experts: (experts, out, in), or (experts, in, out)


@dataclass(frozen=True)
class Targets:
    """Layers to adapt, by the ends of their names, as PEFT matches them.

    Attributes:
        modules: ends of the names of linear layers, in the model's order.
        parameters: ends of the names of weights that are no linear layer's: those of fused experts.
    """

    modules: list[str]
    parameters: list[str]


@dataclass
class Adapted:
    """What an adapter adapts.

    Attributes:
        layers: how many layers of each name are adapted. Names of experts end with their weight's name.
        weights: entries of the adapted weights.
        mlp_weights: how many of them are in the MLPs.
        all_mlp_weights, all_weights: entries in all MLPs, and in the whole model without the adapter.
        trained: entries that training changes.
    """

    layers: dict[str, int] = field(default_factory=dict)
    weights: int = 0
    mlp_weights: int = 0
    all_mlp_weights: int = 0
    all_weights: int = 0
    trained: int = 0

    def record(self) -> dict[str, Any]:
        """Return the content of `adapted` in run.yaml. Shares are of entries, from 0 to 1."""
        return {
            "layers": self.layers,
            "share_of_mlp": round(self.mlp_weights / max(self.all_mlp_weights, 1), 4),
            "share_of_all": round(self.weights / max(self.all_weights, 1), 4),
            "trained_parameters": self.trained,
        }

    def line(self) -> str:
        """Say it in one line for the start of a training."""
        names = ", ".join(f"{name} ({count})" for name, count in self.layers.items())
        shares = (
            f"{_percent(self.mlp_weights, self.all_mlp_weights)} of the MLPs' weights, " if self.mlp_weights else ""
        )
        whole = _percent(self.weights, self.all_weights)
        return f"adapter on {names}: {shares}{whole} of all; {self.trained:,} parameters are trained"


def default_targets(model: PreTrainedModel) -> Targets:
    """Return the layers that a new adapter gets if the user names none.

    These are the linear layers and the fused experts of the MLPs. A model without MLPs (Mamba) is adapted where its
    layers read their input.

    Raises:
        UserError: no layer was found.
    """
    found = mlp_weights(model) or _layer_inputs(model)
    if not found:
        raise UserError(
            f"no layers to adapt were found in {type(model).__name__}.\n"
            "  Name them with --lora_target_modules, or train all weights with --use_peft false."
        )
    linear = [name for name, module in found if module is not None]
    experts = [name for name, module in found if module is None]
    if _are_renamed(model, linear):
        experts = [f"{name}.weight" for name in linear] + experts
        linear = []
    modules = {name for name, _ in model.named_modules()}
    parameters = {name for name, _ in model.named_parameters()}
    return Targets(_short_ends(linear, modules), _short_ends(experts, parameters, least=2))


def lora(model: PreTrainedModel, options: ModelOptions | None = None, **settings: Any) -> LoraConfig:
    """Make a LoRA configuration for the model.

    Args:
        options: which layers to adapt, with TRL's fields too; None: the default ones.
        settings: other fields of PEFT's `LoraConfig`.

    Raises:
        UserError: a setting does not work on the default layers.
    """
    modules = target_names(getattr(options, "lora_target_modules", None))
    parameters = getattr(options, "lora_target_parameters", None)
    if not modules:
        targets = default_targets(model)
        modules, parameters = targets.modules, parameters or targets.parameters or None
        _check_experts(model, targets, settings)
    return LoraConfig(
        target_modules=modules,
        target_parameters=parameters,
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in model.modules()),
        task_type="CAUSAL_LM",
        **settings,
    )


def adapted(model: PreTrainedModel | PeftModel) -> Adapted | None:
    """Find what the model's adapter adapts. None without an adapter that wraps layers."""
    if not isinstance(model, PeftModel):
        return None
    base = model.get_base_model()
    wrapped = _wrapped_weights(base)
    if not wrapped:
        return None
    of_adapter = {id(p) for name, p in model.named_parameters() if model.base_model.prefix in name}
    in_mlps = {id(weight): entries(weight) for weight in _mlp_tensors(base) if id(weight) not in of_adapter}
    result = Adapted(
        all_mlp_weights=sum(in_mlps.values()),
        all_weights=sum(entries(p) for p in model.parameters() if id(p) not in of_adapter),
        trained=sum(p.numel() for p in model.parameters() if p.requires_grad),
    )
    seen = set()
    for name, weight in wrapped:
        result.layers[name] = result.layers.get(name, 0) + 1
        if id(weight) not in seen:
            seen.add(id(weight))
            result.weights += entries(weight)
            result.mlp_weights += entries(weight) if id(weight) in in_mlps else 0
    return result


def mlp_weights(model: PreTrainedModel) -> list[tuple[str, nn.Module | None]]:
    """Find the weights of the decoder layers' MLPs, without routers.

    Returns:
        Names in the model: of linear layers, with the layer; of fused experts' parameters, with None.
    """
    marked = list(_in_layers(model, _of_mlps))
    # OPT, XGLM and BERT have the MLP's layers directly in the decoder layer.
    return marked or list(_in_layers(model, _outside_attention))


def _in_layers(
    model: PreTrainedModel, walk: Callable[[nn.Module, str], Iterator[tuple[str, nn.Module | None]]]
) -> Iterator[tuple[str, nn.Module | None]]:
    layers = _decoder_layers(model)
    names = {id(module): name for name, module in model.named_modules()}
    for layer in layers or ():
        yield from walk(layer, names[id(layer)])


def _decoder_layers(model: PreTrainedModel) -> nn.ModuleList | None:
    """Return the text decoder's list of layers: the list with the most modules."""
    # ModernBERT calls its head a decoder.
    parts = [part.modules() for part in (model.get_decoder(), model)]
    lists = next(filter(None, ([m for m in modules if isinstance(m, nn.ModuleList)] for modules in parts)), [])
    return max(lists, key=lambda found: sum(1 for _ in found.modules()), default=None)


def _of_mlps(module: nn.Module, name: str) -> Iterator[tuple[str, nn.Module | None]]:
    for own, child in module.named_children():
        # The class goes first: Nemotron-H calls an MLP a mixer.
        if _MLP_CLASS.search(type(child).__name__) or (_MLP_NAME.search(own) and not _OTHER_NAME.search(own)):
            yield from _matrices(child, f"{name}.{own}")
        elif not _OTHER_NAME.search(own):
            yield from _of_mlps(child, f"{name}.{own}")


def _outside_attention(module: nn.Module, name: str) -> Iterator[tuple[str, nn.Module | None]]:
    for own, child in module.named_children():
        if not _OTHER_NAME.search(own):
            yield from _matrices(child, f"{name}.{own}")


def _matrices(module: nn.Module, name: str) -> Iterator[tuple[str, nn.Module | None]]:
    """Find linear layers and fused experts in a module, without routers."""
    own = name.rpartition(".")[2]
    if is_linear(module):
        # A router has one output for each expert. xLSTM's proj_up_gate has more outputs than inputs.
        if not (_ROUTER_NAME.search(own) and _sizes(module)[1] < _sizes(module)[0]):
            yield name, module
        return
    for parameter, weight in module.named_parameters(recurse=False):
        if weight.dim() == _EXPERTS_DIM and min(weight.shape) > 1:
            yield f"{name}.{parameter}", None
    for part, child in module.named_children():
        if is_linear(child) or not (_ROUTER_NAME.search(part) or _OTHER_NAME.search(part)):
            yield from _matrices(child, f"{name}.{part}")


def _layer_inputs(model: PreTrainedModel) -> list[tuple[str, nn.Module | None]]:
    """Find the linear layers that read a decoder layer's input.

    Fused kernels of state-space models read the weights of the later layers past an adapter, which would learn nothing.
    """
    size = model.config.get_text_config().hidden_size
    return [
        (name, module)
        for name, module in _in_layers(model, _matrices_of_all)
        if module is not None and _sizes(module)[0] == size and not re.search(r"(^|[._])out", name)
    ]


def _matrices_of_all(module: nn.Module, name: str) -> Iterator[tuple[str, nn.Module | None]]:
    yield from ((f"{name}.{own}", child) for own, child in module.named_modules() if is_linear(child))


def is_linear(module: nn.Module) -> bool:
    """Whether a module is a linear layer, quantised or not."""
    sized = hasattr(module, "in_features") and hasattr(module, "out_features")
    return isinstance(module, nn.Linear | Conv1D) or (sized and not list(module.children()))


def _sizes(module: nn.Module) -> tuple[int, int]:
    """Return a linear layer's number of inputs and of outputs."""
    if isinstance(module, Conv1D):
        return int(module.nx), int(module.nf)
    return int(module.in_features), int(module.out_features)  # type: ignore[arg-type]


def _short_ends(names: list[str], others: set[str], least: int = 1) -> list[str]:
    """Shorten names to ends that match none of the others.

    Args:
        others: names among which PEFT looks; may have `names`.
        least: number of parts to keep at least.
    """
    wanted, ends = set(names), dict[str, None]()
    not_wanted = others - wanted
    for name in names:
        parts = name.split(".")
        for count in range(least, len(parts) + 1):
            end = ".".join(parts[-count:])
            if end in ends or not any(f".{other}".endswith(f".{end}") for other in not_wanted):
                break
        ends[end] = None
    return list(ends)


def _are_renamed(model: PreTrainedModel, names: list[str]) -> bool:
    """Whether PEFT would adapt other weights than these layers.

    In some mixtures, PEFT 0.21 takes a layer named gate_proj for an expert of transformers 4, and adapts the experts.
    """
    config = LoraConfig(target_modules=list(names))
    convert_peft_config_for_transformers(config, model, None)
    return set(config.target_modules or ()) != set(names)


def _check_experts(model: PreTrainedModel, targets: Targets, settings: dict[str, Any]) -> None:
    refused = [name for name in ("lora_dropout", "use_dora") if settings.get(name)]
    if targets.parameters and refused:
        raise UserError(
            f"the experts of {type(model).__name__} are fused, and PEFT adapts them without {' and '.join(refused)}.\n"
            f"  Leave out --{' and --'.join(refused)}, or name other layers with --lora_target_modules."
        )


def _wrapped_weights(base: nn.Module) -> list[tuple[str, Tensor]]:
    """Return the weights that an adapter adapts, with their layers' names."""
    found = []
    for name, module in base.named_modules():
        if not isinstance(module, BaseTunerLayer):
            continue
        inner, own = module.get_base_layer(), name.replace(".base_layer", "").rpartition(".")[2]
        parameter = getattr(module, "parameter_name", "weight")
        weight = getattr(inner, parameter, None)
        if isinstance(weight, Tensor):
            found.append((own if parameter == "weight" else f"{own}.{parameter}", weight))
    return found


def _mlp_tensors(base: PreTrainedModel) -> list[Tensor]:
    tensors = []
    for name, module in mlp_weights(base):
        if module is not None:
            tensors.append(module.weight)
        else:
            tensors.append(base.get_parameter(name))
    return [tensor for tensor in tensors if isinstance(tensor, Tensor)]


def _percent(part: int, whole: int) -> str:
    share = 100 * part / max(whole, 1)
    return f"{share:.0f}%" if share >= 1 else f"{share:.2g}%"


def target_names(names: list[str] | str | None) -> list[str] | str | None:
    """Return a list of names as the user gave it. TRL turns a list of one name into that name."""
    return [names] if isinstance(names, str) and names != "all-linear" else names
