"""The processes of a host tokenize a data set once, and hold its tokens in memory once."""

import pytest
from killed import by_two_ranks

TOKENIZED = """
import os, torch
from pathlib import Path
from {package}.engine.text import token_cache
from {package}.engine.text.module import TextModule
from {package}.engine.text.splits import Texts, TextSplits
from {package}.engine.text.tokenizer import TextTokenizer

rank, calls = int(os.environ["RANK"]), []
encode = TextTokenizer.encode
TextTokenizer.encode = lambda *given: [calls.append(1), encode(*given)][1]


def texts(n):
    first = ["text number " + str(i) for i in range(n)]
    return Texts(first, first[::-1], [str(i % 2) for i in range(n)], first)


def places(tensor):  # the file and the place in it, of the page that holds a tensor
    address = tensor.data_ptr()
    for line in Path("/proc/self/maps").read_text().splitlines():
        low, high = (int(part, 16) for part in line.split()[0].split("-"))
        if low <= address < high:
            return line.split()[3:5]


source = TextSplits(*map(texts, (40, 20, 10)), classes=("0", "1"))
data = TextModule(source, "made", 8, 8, 64, None, 200, 0.0)
assert len(calls) == (3 if rank == 0 else 0), calls
batch = data.splits.train.batch
found = data.facts().fingerprint, data.tokenizer.digest, places(batch.tokens)
both = [None, None]
torch.distributed.init_process_group("gloo")
torch.distributed.all_gather_object(both, found)
assert both[0] == both[1] and found[2][1] != "0", both
os.write(1, b"same\\n")
"""


def test_tokens_are_made_once_and_mapped_by_the_processes_of_a_host(
    tmp_path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert by_two_ranks(tmp_path, TOKENIZED).count("same\n") == 2
    assert not list(tmp_path.glob("shared-data-*"))
