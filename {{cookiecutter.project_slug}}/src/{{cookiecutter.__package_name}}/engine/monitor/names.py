"""Names of classes as matplotlib can draw them: any script, any length, never as a formula.

Draw a name with `parse_math=False`, because matplotlib reads what is between dollar signs as a
formula.
"""

import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import cache
from itertools import chain, takewhile
from pathlib import Path
from typing import NamedTuple

from matplotlib import font_manager
from matplotlib.ft2font import FT2Font

INSTALL = (
    "Install a font that has them, such as Noto Sans CJK (Debian: apt install fonts-noto-cjk)."
)
MARK = "□"  # drawn for a character that no installed font has
USUAL = "DejaVu Sans"  # comes with matplotlib
INVISIBLE = {"Cf", "Me"}  # Unicode categories: joiners and other format characters
VARIANTS = range(0xFE00, 0xFE10)  # variation selectors, such as the one that asks for an emoji
MOST_NAMED = 10  # names that a note lists


class Drawable(NamedTuple):
    """Names to draw, the font families that have their characters, and a note for the user."""

    names: tuple[str, ...]
    families: list[str]
    note: str | None


def drawable(names: Sequence[str], most: int, numbered: bool = True) -> Drawable:
    """Return each name as it can be drawn, at most `most` columns wide; all stay different.

    A name with a character that no installed font has gets marks, and its number in `names`. If
    not `numbered`, no name gets a number, and different names may be drawn alike.
    """
    plain = [visible(name) for name in names]
    for same in _groups(names, plain) if numbered else ():
        for i in same:
            plain[i] += f" ({i})"
    needed = {character for name in plain for character in name}
    fonts = fonts_for(needed)
    known = set(map(chr, chain.from_iterable(map(characters, fonts))))
    boxed = [i for i, name in enumerate(plain) if not known.issuperset(name)]
    for i in boxed:
        marked = "".join(c if c in known else MARK for c in plain[i])
        number = f" ({i})" if numbered else ""
        plain[i] = shortened([marked], most - len(number))[0] + number
    short = shortened(plain, most) if numbered else [_cut(name, most) for name in plain]
    families = [USUAL, *(family_of(file) for file in fonts[1:])]
    return Drawable(tuple(short), families, _note(names, boxed))


def visible(name: str) -> str:
    """Return a name in one line, composed (NFC), without characters that only change others."""
    composed = unicodedata.normalize("NFC", " ".join(name.split()))
    return "".join(
        c for c in composed if unicodedata.category(c) not in INVISIBLE and ord(c) not in VARIANTS
    )


def shortened(names: Sequence[str], most: int) -> list[str]:
    """Return names of at most `most` columns, cut in the middle; different names stay different.

    Names that differ only in the middle show the part where they begin to differ.
    """
    short = [_cut(name, most) for name in names]
    for same in _groups(names, short):
        begin = _alike([names[i] for i in same])
        for i in same:
            short[i] = _from(names[i], begin, most)
    for same in _groups(names, short):
        for i in same:
            number = f" ({i})"
            short[i] = _cut(names[i], most - len(number)) + number
    return short


def listed(names: Sequence[str], most: int) -> str:
    """Return names in a line of at most `most` columns: those that fit, and how many more."""
    for count in range(len(names), 0, -1):
        more = f" +{len(names) - count}" if count < len(names) else ""
        line = ", ".join(names[:count]) + more
        if width(line) <= most:
            return line
    more = f" +{len(names) - 1}" if len(names) > 1 else ""
    return "".join(_cut(name, most - len(more)) for name in names[:1]) + more


def width(text: str) -> int:
    """Return how many columns a text takes; Chinese, Japanese and Korean letters take two."""
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


@cache
def characters(file: str) -> frozenset[int]:
    """Return the code points that a font file has; none if it can't be drawn from."""
    try:
        font = FT2Font(file)
        return frozenset(font.get_charmap()) if font.scalable else frozenset()
    except (OSError, RuntimeError, ValueError):
        return frozenset()


def fonts_for(needed: Iterable[str]) -> list[str]:
    """Return font files that have these characters, as far as installed fonts do.

    The first is matplotlib's own; each of the others adds at least one character.
    """
    usual = str(font_manager.findfont(USUAL))
    found, missing = [usual], {ord(c) for c in needed} - characters(usual)
    if not missing:
        return found
    files = [file for file in _installed() if "color" not in Path(file).name.lower()]
    while missing and files:
        best = max(files, key=lambda file: len(missing & characters(file)))
        if not (gained := missing & characters(best)):
            break
        found.append(best)
        missing -= gained
    return found


def family_of(file: str) -> str:
    """Return the family name of a font file, and make it known to matplotlib."""
    manager = font_manager.fontManager
    for entry in manager.ttflist:
        if entry.fname == file:
            return entry.name
    manager.addfont(file)
    return manager.ttflist[-1].name


def printable(name: str) -> str:
    """Return a name that any UTF-8 output takes: names of files may hold undecodable bytes."""
    return name.encode("utf-8", "replace").decode()


def _installed() -> list[str]:
    """Return all font files, regular ones first; matplotlib's own list may be out of date."""
    files = font_manager.findSystemFonts()
    return sorted(files, key=lambda file: ("regular" not in file.lower(), file))


def _groups(names: Sequence[str], short: Sequence[str]) -> list[list[int]]:
    """Return the indices of different names that look the same, in groups."""
    found = defaultdict(list)
    for i, text in enumerate(short):
        found[text].append(i)
    return [same for same in found.values() if len({names[i] for i in same}) > 1]


def _alike(names: Sequence[str]) -> int:
    """Return how many letters all names begin with."""
    columns = zip(*names, strict=False)
    return sum(1 for _ in takewhile(lambda letters: len(set(letters)) == 1, columns))


def _cut(name: str, most: int) -> str:
    """Cut the middle out of a name that is too wide."""
    if width(name) <= most:
        return name
    tail = _fitting(name[::-1], (most - 1) // 2)[::-1]
    return _fitting(name, most - 1 - width(tail)) + "…" + tail


def _from(name: str, begin: int, most: int) -> str:
    """Return the part of a name from `begin` on, with marks where something is left out."""
    rest = name[begin:]
    if width(rest) <= most - 1:
        return _fitting(name, max(most - 1 - width(rest), 0)) + "…" + rest
    return "…" + _fitting(rest, most - 2) + "…"


def _fitting(text: str, most: int) -> str:
    """Return the longest beginning of a text that takes at most `most` columns."""
    text = text[: max(most, 0)]  # no character takes less than one column
    while width(text) > most:
        text = text[:-1]
    return text


def _note(names: Sequence[str], boxed: Sequence[int]) -> str | None:
    if not boxed:
        return None
    shown = ", ".join(f"({i}) {printable(names[i])}" for i in boxed[:MOST_NAMED])
    others = f" and {len(boxed) - MOST_NAMED} more" if len(boxed) > MOST_NAMED else ""
    count = f"{len(boxed)} name{'' if len(boxed) == 1 else 's'}"
    return (
        f"no installed font has all characters of {count}: {shown}{others}. They are"
        f" drawn as {MARK} and a number. {INSTALL}"
    )
