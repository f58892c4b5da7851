"""The runs that test_resume.py kills: their data, their flags, and what each does when it dies.

An epoch has STEPS steps. Another task has a file of this name of its own.
"""

import csv
import json
import random
from pathlib import Path

from some_words import WORDS

EPOCHS, STEPS = 4, 8
LENGTH = ("--trainer.max_epochs", str(EPOCHS), "--trainer.log_every_n_steps", "1")
TABLE = ("--config=configs/table.yaml", "--data.vocabulary=200", "--data.batch_size=8")
TWICE = ("--trainer.devices", "2", "--trainer.accelerator", "cpu")
HALF_AN_EPOCH = "--trainer.val_check_interval=0.5"
MASKS = "--data.masking=0.15"
ENCODER = ("--model.pretrained=false", "--model.lora_rank=2", "--model.layer_decay=0.9")
VARIANTS = {
    "classes": (1, TABLE),
    "numbers of pairs": (1, TABLE),
    "masked tokens": (1, (*TABLE, MASKS)),
    "accumulating, validating twice an epoch": (
        1,
        (*TABLE, MASKS, "--data.batch_size=4", "--data.global_batch_size=8", HALF_AN_EPOCH),
    ),
    "two processes": (2, (*TABLE, MASKS, "--data.batch_size=4", *TWICE)),
    "an encoder of transformers, LoRA": (1, (*TABLE, *ENCODER)),
}
SIMPLE, TWO_PROCESSES = "classes", "two processes"
PLAIN, SETTINGS = (
    "classes",
    ["--model.ema=0.9", "--data.sampler=balanced"],
)  # these change the run PLAIN
VARIANTS |= {name: (1, (*TABLE, name)) for name in SETTINGS}
EACH = ("step", "save", "validation", "last batch")
KILLS = [(name, what) for name in list(VARIANTS)[:5] for what in EACH]
KILLS += [("classes", "from outside"), ("masked tokens", "from outside")]
KILLS += [("accumulating, validating twice an epoch", "save")]
KILLS += [("two processes", what) for what in ("from outside", "SIGTERM", "save")]
KILLS += [("an encoder of transformers, LoRA", what) for what in ("step", "last batch", "save")]
KILLS += [(setting, what) for setting in SETTINGS for what in (*EACH, "from outside")]
BERT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
BERT |= {"intermediate_size": 64, "max_position_embeddings": 128}


def write_data(folder: Path) -> None:
    """Write texts of two classes, rated pairs, and an encoder's configuration.

    64 rows are for training, so an epoch has 8 steps of 8.
    """
    draw = random.Random(0)

    def words() -> str:
        return " ".join(draw.choices(WORDS, k=draw.randint(2, 30)))

    with (folder / "texts.csv").open("w") as texts, (folder / "pairs.csv").open("w") as pairs:
        single, both = csv.writer(texts), csv.writer(pairs)
        single.writerow(["text", "label", "split"])
        both.writerow(["text1", "text2", "label", "split"])
        for i in range(84):
            split = "train" if i < 64 else "val"
            single.writerow([words(), ("red", "blue")[i % 2], split])
            both.writerow([words(), words(), f"{draw.random():.2f}", split])
    (folder / "bert").mkdir()
    (folder / "bert" / "config.json").write_text(json.dumps({"model_type": "bert", **BERT}))


def arguments(name: str, data: Path) -> tuple[int, list[str]]:
    """Return the number of processes of a variant, and its command."""
    processes, flags = VARIANTS[name]
    file = data / ("pairs.csv" if "pairs" in name else "texts.csv")
    network = [f"--model.network={data / 'bert'}"] if "encoder" in name else []
    return processes, ["fit", *flags, *network, f"--data.options.path={file}", *LENGTH]


def on_gpus(devices: int, mode: str) -> list[str]:
    """Return a command for GPUs: compiled, in bfloat16, with CUDA graphs on one GPU."""
    flags = ["fit", "--config=configs/synthetic.yaml", "--data.options.rows=256"]
    flags += ["--model.network=tiny_encoder", f"--data.batch_size={32 // devices}"]
    flags += ["--model.compile", mode, "--trainer.devices", str(devices)]
    return [*flags, *LENGTH, "--trainer.accelerator", "cuda"]
