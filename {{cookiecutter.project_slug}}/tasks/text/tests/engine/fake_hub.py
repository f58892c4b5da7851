"""A hub on 127.0.0.1 with the endpoints that huggingface_hub asks, and tiny models to put in it."""

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha1
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForMaskedLM, AutoModelForSequenceClassification

SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "vocab_size": 100,
    "max_position_embeddings": 40,
}
OF_TYPE = {  # what differs from SMALL
    "bert": SMALL,
    "roberta": SMALL | {"type_vocab_size": 1, "pad_token_id": 1},
    "electra": SMALL | {"embedding_size": 16},
    "distilbert": {
        "dim": 32,
        "n_layers": 2,
        "n_heads": 2,
        "hidden_dim": 64,
        "vocab_size": 100,
        "max_position_embeddings": 40,
    },
    "deberta-v2": SMALL
    | {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 16},
    "modernbert": SMALL
    | {"num_hidden_layers": 4, "local_attention": 8, "pad_token_id": 0}
    | dict.fromkeys(("bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id")),
}


def config(kind: str, **options: Any) -> Any:
    """Return the configuration of a tiny encoder of a model type."""
    return AutoConfig.for_model(kind, **OF_TYPE[kind] | options)


def write_model(
    folder: Path, kind: str = "bert", head: str = "classes", seed: int = 1, **options: Any
) -> Any:
    """Write a tiny encoder with random weights into a folder, as a hub has it; return the model."""
    of_head = {"classes": AutoModelForSequenceClassification, "masked": AutoModelForMaskedLM}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = of_head[head].from_config(config(kind, **options), dtype=torch.float32)
        for name, weight in model.named_parameters():
            if name.endswith("bias"):
                torch.nn.init.normal_(weight)  # as after training
    model.save_pretrained(folder)
    return model


class FakeHub(ThreadingHTTPServer):
    """Serves the folders in `root`, such as root/org/name, each at one commit.

    `status` maps names to the HTTP status that they get, `cut` has the files that break off, and
    `asked` counts the requests for each path.
    """

    def __init__(self, root: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.root, self.asked = root, Counter[str]()
        self.status: dict[str, int] = {}
        self.cut: set[str] = set()
        self.endpoint = f"http://127.0.0.1:{self.server_port}"

    def commit(self, name: str) -> str:
        return sha1(name.encode()).hexdigest()

    def split(self, path: str) -> tuple[str, list[str]]:
        """Return the name of the model that a path begins with, and the rest of the path."""
        parts = path.split("/")
        for n in (1, 2):
            if self.root.joinpath(*parts[:n], "config.json").is_file():
                return "/".join(parts[:n]), parts[n:]
        return "", []

    def info(self, verb: str, name: str) -> Any:
        """Return what the hub says of a model: its commit, or the list of its files."""
        if verb == "revision":
            return {"id": name, "sha": self.commit(name), "siblings": []}
        return [
            {
                "type": "file",
                "path": file.name,
                "size": len(content),
                "oid": sha1(content).hexdigest(),
            }
            for file in (self.root / name).iterdir()
            for content in (file.read_bytes(),)
        ]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FakeHub

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        hub, path = self.server, self.path.partition("?")[0].strip("/")
        hub.asked[f"{self.command} {path}"] += 1
        name, rest = hub.split(path.removeprefix("api/models/"))
        status = hub.status.get(name, 200 if name else 404)
        if status != 200:
            self.refuse(status, {403: "GatedRepo", 404: "RepoNotFound"}.get(status, ""))
        elif rest[1] not in ("main", hub.commit(name)):
            self.refuse(404, "RevisionNotFound")
        elif rest[0] == "resolve" and not (hub.root / name / rest[2]).is_file():
            self.refuse(404, "EntryNotFound")
        elif rest[0] == "resolve":
            self.send_file(hub.root / name / rest[2], hub.commit(name))
        else:
            self.send(
                {"Content-Type": "application/json"}, json.dumps(hub.info(rest[0], name)).encode()
            )

    do_HEAD = do_GET

    def send_file(self, file: Path, commit: str) -> None:
        content = file.read_bytes()
        headers = {"X-Repo-Commit": commit, "Content-Length": str(len(content))}
        headers["ETag"] = f'"{sha1(content).hexdigest()}"'
        if file.name in self.server.cut:
            content, self.close_connection = content[: len(content) // 2], True
        self.send(headers, content)

    def refuse(self, status: int, code: str) -> None:
        self.send({"X-Error-Code": code}, b"no", status)

    def send(self, headers: dict[str, str], content: bytes, status: int = 200) -> None:
        self.send_response(status)
        for key, value in ({"Content-Length": str(len(content))} | headers).items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)


@contextmanager
def fake_hub(root: Path) -> Iterator[FakeHub]:
    hub = FakeHub(root)
    thread = Thread(target=hub.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()
