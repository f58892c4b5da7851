"""Which files and folders are taken for images, by their names, and which belong to a system."""

from typing import IO

from PIL import Image

_KNOWN = """.jpg .jpeg .jpe .jfif .mpo .png .apng .webp .avif .avifs .bmp .dib .gif .tif .tiff .ppm
    .pgm .pbm .pnm .pfm .jp2 .j2k .jpc .jpf .jpx .j2c .tga .icb .vda .vst .pcx .dcx .ico .cur .icns
    .dds .psd .qoi .sgi .rgba .ras .xbm .xpm"""
# Pillow opens these too, but other files have the same extensions: a look at the content decides.
_UNSURE = """.rgb .bw .im .iim .fit .fits .fli .flc .pcd .pxr .msp .gbr .blp .ftc .ftu .spider
    .img"""
# What NAS, macOS, Windows and Linux put beside files. Hidden names need no mention.
_SIDE_FOLDERS = """@eaDir #recycle #snapshot @recycle @recently-snapshot @tmp @sharesnap @__thumb
    @transcode ~snapshot __MACOSX $RECYCLE.BIN lost+found"""
_SIDE_FILES = "Thumbs.db ehthumbs.db ehthumbs_vista.db desktop.ini Picasa.ini"

EXTENSIONS = frozenset(_KNOWN.split()) | {".npy"}
UNSURE = frozenset(_UNSURE.split())
SIDE_FOLDERS = frozenset(_SIDE_FOLDERS.lower().split()) | {
    "system volume information",
    "network trash folder",
    "temporary items",
}
SIDE_FILES = frozenset(_SIDE_FILES.lower().split()) | {"icon\r"}


def is_side(name: str) -> bool:
    """Return whether a name is hidden, or of a file or folder that a system puts beside others."""
    return name.startswith(".") or name.lower() in SIDE_FOLDERS or name.lower() in SIDE_FILES


def is_image(path: str, file: IO[bytes] | None = None) -> bool:
    """Return whether a file is taken for an image: by its extension, or by its content.

    The content is that of the open `file`, if one is given.
    """
    extension = extension_of(path)
    if extension in UNSURE:
        try:
            with Image.open(file or path) as image:
                return image.format != "EPS"
        except Exception:  # decoders raise exceptions of many types
            return False
    return extension in EXTENSIONS


def extension_of(name: str) -> str:
    """Return the last extension, with its dot, in lower case; "" if there is none."""
    start = name.rfind(".")
    return name[start:].lower() if start >= 0 else ""
