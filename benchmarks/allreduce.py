"""How long one all-reduce takes and how many bytes it moves, from 1 KB to 1 GB: `allreduce.py`.

    make bench WORKLOAD=allreduce ARGS="--devices 2"
    python3 benchmarks/allreduce.py --devices 2

Each size is a tensor of float32. The time is the median of several all-reduces, each from its call
until the device is done. The bandwidth of the bus counts 2 (n - 1) / n bytes a byte on n devices,
as NCCL's own tests do. With --cpu, processes reduce by gloo.
"""

import argparse
import functools
import socket
import statistics
import sys
import time
from pathlib import Path

import torch
from torch import distributed

HERE = Path(__file__).resolve().parent
SIZES = [2**power for power in range(10, 31, 2)]  # bytes: 1 KB to 1 GB
WARM_UP, TIMES = 5, 20


def main() -> int:
    asked = arguments()
    if not asked.cpu and torch.cuda.device_count() < asked.devices:
        found = torch.cuda.device_count()
        print(f"error: --devices {asked.devices}: torch finds {found} GPUs here.", file=sys.stderr)
        return 2
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    sizes = [size for size in SIZES if size <= asked.most]
    asked.out.mkdir(parents=True, exist_ok=True)
    out = asked.out / "allreduce.md"
    told = {"devices": asked.devices, "sizes": sizes, "port": port, "cpu": asked.cpu, "out": out}
    torch.multiprocessing.spawn(functools.partial(measure, **told), nprocs=asked.devices)
    print(f"{out.read_text()}\ntable: {out}")
    return 0


def measure(rank: int, devices: int, sizes: list[int], port: int, cpu: bool, out: Path) -> None:
    """Reduce tensors of each size; the first process writes a table."""
    device = torch.device("cpu") if cpu else torch.device("cuda", rank)
    if not cpu:
        torch.cuda.set_device(device)
    store = distributed.TCPStore("127.0.0.1", port, devices, rank == 0)
    group = {"rank": rank, "world_size": devices, "store": store}
    distributed.init_process_group("gloo" if cpu else "nccl", **group)
    on = "processes" if cpu else f"{torch.cuda.get_device_name(device)}s"
    lines = [f"**All-reduce of float32 on {devices} {on}, torch {torch.__version__}**", ""]
    lines += ["| bytes | µs | GB/s | GB/s of the bus |", "|--:|--:|--:|--:|"]
    for size in sizes:
        tensor = torch.ones(size // 4, device=device)
        each = [timed(tensor) for _ in range(WARM_UP + TIMES)]
        seconds = statistics.median(each[WARM_UP:])
        rate = size / seconds / 1e9
        bus = rate * 2 * (devices - 1) / devices
        lines.append(f"| {size:,} | {1e6 * seconds:,.0f} | {rate:.2f} | {bus:.2f} |")
    if rank == 0:
        out.write_text("\n".join(lines) + "\n")
    distributed.destroy_process_group()


def timed(tensor: torch.Tensor) -> float:
    """Return the seconds of an all-reduce that all processes begin at about the same time."""
    distributed.barrier()
    wait(tensor)
    begin = time.perf_counter()
    distributed.all_reduce(tensor, distributed.ReduceOp.MAX)  # of ones: they stay ones
    wait(tensor)
    return time.perf_counter() - begin


def wait(tensor: torch.Tensor) -> None:
    if tensor.is_cuda:
        torch.cuda.synchronize(tensor.device)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--devices", type=int, default=2)
    parser.add_argument("--most", type=int, default=SIZES[-1], help="bytes, at most")
    parser.add_argument("--cpu", action="store_true", help="processes instead of GPUs")
    parser.add_argument("--out", type=Path, default=HERE.parent / "build" / "bench")
    parser.add_argument("--project", help="ignored; make bench gives it to every program")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
