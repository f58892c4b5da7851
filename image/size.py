"""Print the size of each part of an image, on disk and compressed with zstd.

python image/size.py torch-universal:2.11.0-cu130
"""

import re
import subprocess
import sys
import tarfile

import zstandard

MATHEMATICS = "nvidia/.*/lib(cublas|cusparse|cusolver|cufft|curand)"
SCIENCE = "scipy|numpy|pandas|sklearn|scikit_learn|matplotlib|fontTools|PIL|pillow"
COMPILER = r"libexec/gcc|lib/gcc|include|lib/[^/]+/[^/]+\.a$|bin/.*(gcc|g\+\+|cpp|c\+\+|-(as|ld))"
PACKAGES = {  # part: pattern for the start of a file's path in site-packages
    "cuBLAS, cuSPARSE, cuSOLVER, cuFFT, cuRAND": MATHEMATICS,
    "cuDNN": "nvidia/cudnn/",
    "NCCL, NVSHMEM": "nvidia/(nccl|nvshmem)/",
    "the rest of CUDA": "(nvidia|cuda)[/_-]",
    "PyTorch, torchvision": "(torch|torchvision|functorch|torchgen)[./-]",
    "Triton": "triton",
    "SciPy, NumPy, pandas, scikit-learn, matplotlib": SCIENCE,
    "OpenCV": "cv2|opencv",
    "wandb, TensorBoard": "wandb|tensorboard|grpc|google",
}
PARTS = [  # a file belongs to the first part whose pattern matches
    *((part, f"opt/venv/lib/[^/]+/site-packages/({path})") for part, path in PACKAGES.items()),
    ("every other Python package (JupyterLab, Lightning, uv ...)", "opt/venv/"),
    ("g++ and headers", f"usr/({COMPILER})"),
    ("Noto CJK fonts", "usr/share/fonts/"),
    ("Debian, Python and tools", ""),
]


def measure(image: str) -> dict[str, tuple[int, int]]:
    """Return each part's bytes on disk and compressed; each part is compressed separately."""
    created = subprocess.run(
        ["docker", "create", image], capture_output=True, text=True, check=True
    )
    name = created.stdout.strip()
    packers = {part: zstandard.ZstdCompressor(threads=-1).compressobj() for part, _ in PARTS}
    disk, packed = dict.fromkeys(packers, 0), dict.fromkeys(packers, 0)
    try:
        with (
            subprocess.Popen(["docker", "export", name], stdout=subprocess.PIPE) as export,
            tarfile.open(fileobj=export.stdout, mode="r|") as files,
        ):
            for member in (member for member in files if member.isfile()):
                part = next(part for part, path in PARTS if re.match(path, member.name))
                content = files.extractfile(member)
                while block := content.read(1 << 20):
                    disk[part] += len(block)
                    packed[part] += len(packers[part].compress(block))
    finally:
        subprocess.run(["docker", "rm", name], capture_output=True, check=True)
    return {part: (disk[part], packed[part] + len(packers[part].flush())) for part in disk}


def main(image: str) -> None:
    parts = measure(image)
    rows = sorted(parts.items(), key=lambda row: -row[1][1])
    rows.append(("**together**", tuple(map(sum, zip(*parts.values(), strict=True)))))
    print("| part | MB on disk | MB compressed |\n|---|---|---|")
    for part, (disk, packed) in rows:
        print(f"| {part} | {disk / 1e6:,.0f} | {packed / 1e6:,.0f} |")


if __name__ == "__main__":
    main(sys.argv[1])
