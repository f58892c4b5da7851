"""A toy: find the bright rectangles of an image. Boxes are padded to three, with a mask."""

import sys
from typing import Any, NamedTuple

import torch
from sklearn.metrics import average_precision_score
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, l1_loss
from torchvision.ops import box_iou, nms

from .engine import Best, Data, Facts, Splits, Task, Uniforms, digest, main

SIDE, MOST, CELLS = 24, 3, 6  # pixels; boxes of an image; cells in a row, each 4 pixels wide
CELL = SIDE // CELLS
FOUND = 5  # boxes that are predicted for an image


class Scenes(NamedTuple):
    """image: float32 (n, 1, 24, 24); box: float32 (n, 3, 4), left top right bottom, in pixels;
    there: bool (n, 3), which of the boxes are."""

    image: Tensor
    box: Any  # a Tensor, or None in a request
    there: Any  # a Tensor, or None in a request
    row: Tensor


class BoxTask(Task):
    best = Best("val/map", "max")
    inputs = ("image",)

    def __init__(self, width: int = 16, learning_rate: float = 0.01) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.network = nn.Sequential(
            *(nn.Conv2d(1, width, 5, stride=2, padding=2), nn.ReLU()),
            *(nn.Conv2d(width, width, 5, stride=2, padding=2), nn.ReLU()),
            nn.Conv2d(width, 5, 3, padding=1),
        )

    def forward(self, batch: Scenes) -> Tensor:
        """Return (n, 6, 6, 5) for each cell: a logit, and a box as offsets from its middle."""
        return self.network(batch.image).permute(0, 2, 3, 1)

    def loss(self, outputs: Tensor, batch: Scenes) -> dict[str, Tensor]:
        objects, boxes = self._errors(outputs, batch)
        return {"object": objects.mean(), "box": boxes.sum() / batch.there.sum().clamp(min=1)}

    def totals(self, outputs: Tensor, batch: Scenes) -> dict[str, tuple[Tensor, Tensor]]:
        real = batch.row >= 0
        objects, boxes = self._errors(outputs, batch)
        return {
            "loss": ((objects.mean((1, 2)) * real).sum(), real.sum()),
            "box": ((boxes * real[:, None]).sum(), (batch.there & real[:, None]).sum()),
        }

    def _errors(self, outputs: Tensor, batch: Scenes) -> tuple[Tensor, Tensor]:
        """Return the errors of the cells (n, 6, 6), and of the boxes that are there (n, 3)."""
        middle = (batch.box[..., :2] + batch.box[..., 2:]) / 2
        column, line = (middle / CELL).long().clamp(max=CELLS - 1).unbind(2)
        image = torch.arange(len(outputs), device=outputs.device)[:, None]
        wanted = torch.zeros_like(outputs[..., 0])
        wanted = wanted.index_put((image, line, column), batch.there.float(), accumulate=True)
        objects = binary_cross_entropy_with_logits(
            outputs[..., 0], wanted.clamp(max=1), reduction="none"
        )
        offsets = (batch.box - self._middles(outputs)[line, column]) / CELL
        boxes = l1_loss(outputs[image, line, column, 1:], offsets, reduction="none").mean(2)
        return objects, boxes * batch.there

    def _middles(self, outputs: Tensor) -> Tensor:
        """Return where each cell is, twice: (6, 6, 4)."""
        place = (torch.arange(CELLS, device=outputs.device) + 0.5) * CELL
        line, column = torch.meshgrid(place, place, indexing="ij")
        return torch.stack([column, line, column, line], 2)

    def predict(self, outputs: Tensor) -> Tensor:
        """Return (n, 5, 5): a box and its score, which is -1 where there are fewer."""
        found = torch.full((len(outputs), FOUND, 5), -1.0, device=outputs.device)
        boxes = (outputs[..., 1:] * CELL + self._middles(outputs)).flatten(1, 2)
        scores = outputs[..., 0].sigmoid().flatten(1)
        for i in range(len(outputs)):
            kept = nms(boxes[i], scores[i], 0.5)[:FOUND]
            found[i, : len(kept)] = torch.cat([boxes[i, kept], scores[i, kept, None]], 1)
        return found

    def target(self, batch: Scenes) -> Tensor | None:
        if batch.box is None or batch.there is None:
            return None
        return torch.cat([batch.box, batch.there[..., None]], 2)

    def scores(self, predictions: Tensor, targets: Tensor) -> dict[str, float]:
        """The average precision of boxes that overlap by half with one that is there."""
        scores, hits = [], []
        for found, true in zip(predictions, targets, strict=True):
            free = true[true[:, 4] > 0]
            for box in found[found[:, 4] >= 0]:
                overlap = box_iou(box[None, :4], free[:, :4])[0]
                hit = bool(len(free)) and float(overlap.max()) > 0.5
                scores.append(float(box[4]))
                hits.append(hit)
                if hit:
                    free = free[torch.arange(len(free)) != int(overlap.argmax())]
        recalled = sum(hits) / max(int(targets[..., 4].sum()), 1)
        return {"map": recalled * average_precision_score(hits, scores) if any(hits) else 0.0}

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.network.parameters(), self.hparams["learning_rate"])


class BoxData(Data):
    def __init__(self, batch_size: int = 32, eval_batch_size: int = 48) -> None:
        super().__init__(batch_size, eval_batch_size)
        self.splits = Splits(*(scenes(n, seed) for seed, n in enumerate((640, 150, 150))))

    def augment(self, batch: Scenes, uniforms: Uniforms) -> Scenes:
        """Mirror half of the images, and their boxes with them."""
        mirrored = uniforms(1) < 0.5
        image = torch.where(mirrored[..., None, None], batch.image.flip(3), batch.image)
        left, top, right, bottom = batch.box.unbind(2)
        flipped = torch.stack([SIDE - right, top, SIDE - left, bottom], 2)
        return batch._replace(image=image, box=torch.where(mirrored[..., None], flipped, batch.box))

    def facts(self) -> Facts:
        rows, content = self.splits.rows, digest(self.splits)
        return Facts("scenes", rows, content, unit="images", shapes={"image": (1, SIDE, SIDE)})


def scenes(n: int, seed: int) -> Scenes:
    generator = torch.Generator().manual_seed(seed)
    size = torch.randint(4, 9, (n, MOST, 2), generator=generator)
    corner = (torch.rand(n, MOST, 2, generator=generator) * (SIDE + 1 - size)).long()
    there = torch.arange(MOST) < torch.randint(1, MOST + 1, (n, 1), generator=generator)
    box = torch.cat([corner, corner + size], 2)
    place = torch.arange(SIDE)
    inside = [
        (place >= box[..., None, i]) & (place < box[..., None, i + 2]) & there[..., None]
        for i in (0, 1)
    ]
    image = (inside[1][..., :, None] & inside[0][..., None, :]).any(1).float()[:, None]
    return Scenes(image, box.float(), there, torch.arange(n))


def read(requests: list[list], facts: Facts) -> tuple[Scenes, dict[int, str]]:
    image = torch.tensor(requests, dtype=torch.float32).view(-1, 1, SIDE, SIDE)
    return Scenes(image, None, None, torch.arange(len(requests))), {}


if __name__ == "__main__":
    sys.exit(main(task=BoxTask, data=BoxData, read=read))
