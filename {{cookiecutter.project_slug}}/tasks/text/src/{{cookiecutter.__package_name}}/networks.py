"""The networks: the file to change first.

Every network takes three tensors (n, length): the tokens' ids, int32; each token's segment, uint8,
0 in a row's first text and 1 in its second, or None if rows have one text; and a mask, bool, which
is false for the padding after a row's end. It returns logits (n, outputs), or (n, length, outputs)
if `per_token`: what each token is, for masked-language modelling. A network that can't read rows of
any length has the most tokens as `positions`.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention

from .engine import UserError
from .engine.errors import hint
from .engine.model.checks import check_built
from .engine.text.encoders import load_encoder
from .objectives import ObjectiveName

POSITIONS = 512  # the longest row that the tiny encoder can read, in tokens


class Attention(nn.Module):
    """Each token's mix of all real tokens of its row, by several heads (Vaswani et al., 2017)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.queries_keys_values = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)

    def forward(self, values: Tensor, mask: Tensor) -> Tensor:
        """Return (n, length, width) for `values` of the same shape and a mask (n, length)."""
        n, length, width = values.shape
        parts = self.queries_keys_values(values).view(n, length, 3, self.heads, -1)
        query, key, value = parts.permute(2, 0, 3, 1, 4)  # each (n, heads, length, width / heads)
        mixed = scaled_dot_product_attention(query, key, value, attn_mask=mask[:, None, None, :])
        return self.output(mixed.transpose(1, 2).reshape(n, length, width))


class Block(nn.Module):
    """Attention, then two layers for each token alone. Both add to what they get.

    Each is normalized before, not after, so that training needs less care (Xiong et al., 2020).
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.token_norm = nn.LayerNorm(width)
        self.token = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, values: Tensor, mask: Tensor) -> Tensor:
        values = values + self.dropout(self.attention(self.attention_norm(values), mask))
        return values + self.dropout(self.token(self.token_norm(values)))


class Embedding(nn.Module):
    """The sum of three learned vectors of each token: of its id, its position and its segment."""

    def __init__(self, vocab_size: int, width: int, dropout: float) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocab_size, width)
        self.positions = nn.Parameter(torch.empty(POSITIONS, width))
        self.segments = nn.Embedding(2, width)
        self.dropout = nn.Dropout(dropout)
        for weight in self.parameters():
            nn.init.normal_(weight, std=0.02)

    def forward(self, tokens: Tensor, segments: Tensor | None) -> Tensor:
        segments = torch.zeros_like(tokens) if segments is None else segments.int()
        positions = self.positions[: tokens.shape[1]]
        return self.dropout(self.tokens(tokens) + positions + self.segments(segments))


class Neighbours(nn.Module):
    """Adds to each token what it makes of the tokens beside it: a convolution over three tokens.

    It reads parts of words together. Attention alone learns this only from many more texts.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.convolution = nn.Conv1d(width, width, 3, padding=1)

    def forward(self, values: Tensor, mask: Tensor) -> Tensor:
        real = values * mask[:, :, None]  # what is beside a row's end must not matter
        return values + gelu(self.convolution(real.transpose(1, 2)).transpose(1, 2))


class Encoder(nn.Module):
    """Embedding, blocks, and a head on the mean of a row's real tokens, or on each token.

    In training, a share `hidden` of the tokens is left out of attention and mean, so that each part
    of a text has to be enough to recognize it.
    """

    def __init__(
        self,
        vocab_size: int,
        outputs: int,
        per_token: bool,
        dropout: float,
        hidden: float,
        width: int,
        heads: int,
        depth: int,
    ) -> None:
        super().__init__()
        self.per_token, self.hidden = per_token, hidden
        self.positions = POSITIONS  # data.max_length may not be higher
        self.embedding = Embedding(vocab_size, width, dropout)
        self.neighbours = Neighbours(width)
        self.blocks = nn.ModuleList(Block(width, heads, dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, outputs)

    def forward(self, tokens: Tensor, segments: Tensor | None, mask: Tensor) -> Tensor:
        values = self.neighbours(self.embedding(tokens, segments), mask)
        if self.training and self.hidden:
            mask = mask & some_of(mask, 1 - self.hidden)
        for block in self.blocks:
            values = block(values, mask)
        values = self.norm(values)
        return self.head(values if self.per_token else mean_of_real(values, mask))


def mean_of_real(values: Tensor, mask: Tensor) -> Tensor:
    """Return the mean of each row's real tokens: (n, width) of `values` (n, length, width)."""
    real = mask[:, :, None].to(values.dtype)
    return (values * real).sum(1) / real.sum(1)


def some_of(mask: Tensor, share: float) -> Tensor:
    """Return a random share of the places in a mask (n, length); the first is always among them."""
    chosen = torch.rand(mask.shape, device=mask.device) < share
    return chosen | (torch.arange(mask.shape[1], device=mask.device) == 0)


def tiny_encoder(vocab_size: int, outputs: int, per_token: bool, dropout: float) -> nn.Module:
    """One block of width 64: 100,000 weights and 64 for each token of the vocabulary.

    It learns from scratch on a laptop.
    """
    hidden = 0.0 if per_token else min(6 * dropout, 0.9)
    return Encoder(vocab_size, outputs, per_token, dropout, hidden, width=64, heads=4, depth=1)


NETWORKS: dict[str, Callable[[int, int, bool, float], nn.Module]] = {
    "tiny_encoder": tiny_encoder,
}
DROPOUT = 0.1  # of NETWORKS


def build_network(
    name: str,
    num_outputs: int,
    vocab_size: int,
    padding_id: int = 0,
    objective: ObjectiveName = "classes",
    dropout: float | None = None,
    pretrained: bool = False,
) -> nn.Module:
    """Return the network with this name, with random weights.

    The name is a key of NETWORKS, or an encoder of transformers: a name on the hub, such as
    bert-base-uncased, a folder, or a type such as bert. Its vocabulary is that of the data, or of
    the weights that are loaded later if it is `pretrained`. Raises UserError for unknown names.
    """
    if name in NETWORKS:
        share = DROPOUT if dropout is None else dropout
        network = NETWORKS[name](vocab_size, num_outputs, objective == "masked", share)
        check_built(name, network)
        return network
    sizes = num_outputs, vocab_size, objective, padding_id
    try:
        return load_encoder(name, *sizes, dropout, pretrained)
    except UserError as error:  # perhaps a misspelled key of NETWORKS
        raise UserError(f"{error}{hint(name, NETWORKS)}") from None
