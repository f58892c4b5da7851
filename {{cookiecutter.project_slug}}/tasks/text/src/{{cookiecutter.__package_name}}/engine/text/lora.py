"""LoRA: beside each matrix of the blocks, learn the product of two narrow ones (by peft).

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", 2021. All linear layers of the
blocks get such a product, not only those of the attention: that comes closer to training all
weights (Dettmers et al., "QLoRA", 2023, section 4).
"""

import copy

from torch import nn

from ..errors import UserError


def add_lora(network: nn.Module, rank: int, alpha: float) -> nn.Module:
    """Add trainable products to the linear layers of the blocks, in place; return the network.

    They start at 0: the network computes the same as before. Embeddings and blocks don't learn
    otherwise; what comes after the blocks, the head included, learns as usual. The weights of such
    a layer get names of their own: LAYER.base_layer.weight, LAYER.lora_A.default.weight.

    Args:
        network: with its blocks in one or several nn.ModuleList.
        rank: columns of the first matrix of each product.
        alpha: each product is multiplied by alpha / rank.

    Raises UserError if the network has no blocks, or the rank is too small.
    """
    from peft import LoraConfig, inject_adapter_in_model

    if rank < 1:
        raise UserError(f"model.lora_rank is {rank}; expected at least 1, or 0 for no LoRA.")
    names = [name for name, _ in network.named_parameters()]
    parts = dict(network.named_modules())
    blocks = tuple(f"{name}." for name, part in parts.items() if isinstance(part, nn.ModuleList))
    layers = [
        name
        for name, part in parts.items()
        if isinstance(part, nn.Linear) and name.startswith(blocks)
    ]
    if not layers:
        raise UserError(
            f"model.lora_rank is {rank}, but {type(network).__name__} has no linear layer inside"
            " an nn.ModuleList: put its blocks into one, or set model.lora_rank to 0."
        )
    last = max(i for i, name in enumerate(names) if name.startswith(blocks))
    after = [name for name in names[last + 1 :] if "embedding" not in name]
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=layers)  # type: ignore[arg-type]
    inject_adapter_in_model(config, network)
    for name, weight in network.named_parameters():
        if name in after:
            weight.requires_grad_(True)
    return network


def merged(network: nn.Module) -> nn.Module:
    """Return a copy whose matrices include the products: plain layers, with their first names."""
    from peft.tuners.lora import LoraLayer

    network = copy.deepcopy(network)
    for name, part in list(network.named_modules()):
        if isinstance(part, LoraLayer):
            part.merge()  # type: ignore[attr-defined]
            above, _, last = name.rpartition(".")
            setattr(network.get_submodule(above), last, part.get_base_layer())
    return network
