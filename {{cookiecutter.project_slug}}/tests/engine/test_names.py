"""Names of classes in pictures: any script, any length, never a formula; different ones differ."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from {{ cookiecutter.__package_name }}.engine.contract import Best
from {{ cookiecutter.__package_name }}.engine.monitor.curves import draw_curves
from {{ cookiecutter.__package_name }}.engine.monitor.names import (
    drawable,
    listed,
    shortened,
    width,
)
from {{ cookiecutter.__package_name }}.pictures import draw_predictions

SENTENCES = [f"what is seen here is {what} in the evening" for what in ("a cat", "a cow", "no cat")]


def drawn(names: tuple[str, ...]) -> np.ndarray:
    """Return the pixels of predictions: one wrong and one right image of each class."""
    labels = torch.arange(len(names)).repeat(2)
    predicted = torch.cat([torch.arange(len(names)).roll(1), torch.arange(len(names))])
    sure = torch.nn.functional.one_hot(predicted, len(names)).float()
    images = torch.zeros(len(labels), 8, 8, 3, dtype=torch.uint8)
    return pixels_of(draw_predictions(images, labels, sure, names))


def pixels_of(figure: Figure) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a missing glyph warns
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
    return np.asarray(canvas.buffer_rgba())


@pytest.mark.parametrize(
    "names",
    [
        ("$a$", "$\\frac{$", "$^_$", "5$ to 9$"),
        ("naïve", "Ωμέγα", "Привет", "עברית"),
        ("鳥", "魚", "한국", "ねこ"),
        (
            "\N{DOG FACE}",
            "\N{CAT FACE}",
            "\N{FAMILY}\N{ZERO WIDTH JOINER}x\N{VARIATION SELECTOR-16}",
        ),
        ("two\nlines", "a\ttab", "  spaces  ", "undecodable \udcff"),
        tuple(f"{'very ' * 50}long name {i}" for i in range(4)),
        ("", " ", "\N{ZERO WIDTH SPACE}"),
    ],
    ids=["formulas", "scripts", "CJK", "emoji", "odd spaces", "long", "empty"],
)
def test_any_names_are_drawn_and_told_apart(names, capsys):
    told = drawable(names, 22)
    assert len(set(told.names)) == len(names)
    assert max(map(width, told.names)) <= 22
    assert drawn(names).std() > 1
    said = capsys.readouterr().out
    assert said.count("\n") == bool(told.note)


def test_a_formula_is_drawn_as_it_is_written():
    assert drawable(["$x^2$", "$y$"], 22).names == ("$x^2$", "$y$")
    assert (drawn(("$x^2$", "b")) != drawn(("$x_2$", "b"))).any()
    rows = [{"step": 0, "epoch": 0, "val/$x": 1.0}, {"step": 1, "epoch": 1, "val/$x": 2.0}]
    assert pixels_of(draw_curves(rows, Best("val/$x_{$", "min"))).std() > 1


@pytest.mark.parametrize("epochs", [2, 3, 30, 300])
def test_the_axis_of_epochs_has_whole_numbers(epochs):
    rows = [{"step": i, "epoch": i, "val/loss": 1.0} for i in range(epochs)]
    axes = draw_curves(rows, Best("val/loss", "min")).axes[0]
    assert all(tick == int(tick) for tick in axes.get_xticks())


@pytest.mark.parametrize(
    ("low", "high"), [(0.9, 1), (1e-3, 2), (1e-7, 5e4), (1e-4, 1.1e-4), (1, 9e6)]
)
def test_the_axis_of_any_loss_has_short_numbers(low, high):
    rows = [{"step": i, "epoch": i, "val/loss": loss} for i, loss in enumerate((high, low))]
    figure = draw_curves(rows, Best("val/loss", "min"))
    pixels_of(figure)
    bottom, top = sorted(figure.axes[0].get_ylim())
    ticks = zip(figure.axes[0].get_yticks(), figure.axes[0].get_yticklabels(), strict=True)
    said = [label.get_text() for tick, label in ticks if bottom <= tick <= top]
    assert len(said) > 1 and all(0 < len(text) <= 6 for text in said), said


@pytest.mark.parametrize(
    ("predicted", "title"),
    [
        ((0, 1), "0 errors in 2 validation images, the least confident first"),
        ((0, 0), "1 error in 2 validation images, the most confident first, then correct ones, "),
    ],
)
def test_the_title_says_which_images_come_first(predicted, title):
    images = torch.zeros(2, 8, 8, 3, dtype=torch.uint8)
    sure = torch.nn.functional.one_hot(torch.tensor(predicted), 2).float()
    figure = draw_predictions(images, torch.tensor([0, 1]), sure, ("a", "b"))
    assert figure.get_suptitle().startswith(title)


def test_long_names_are_cut_in_the_middle():
    assert shortened(["short", "abcdefghijklmnopqrstuvwxyz"], 9) == ["short", "abcd…wxyz"]


@pytest.mark.parametrize("most", [12, 22, 30])
def test_names_that_differ_in_the_middle_show_where(most):
    short = shortened(SENTENCES, most)
    assert len(set(short)) == 3 and max(map(len, short)) <= most
    assert all("c" in name for name in short)
    assert (drawn((SENTENCES[0], "b")) == drawn((SENTENCES[0], "b"))).all()


def test_as_many_names_are_listed_as_fit():
    names = ("moon", "night", "red fox", "snow")
    assert listed(names[:3], 20) == "moon, night, red fox" and listed((), 20) == ""
    assert listed(names, 20) == "moon, night +2"
    assert listed(("hedgehog", "owl"), 9) == "hed…og +1" and listed(("hedgehog",), 6) == "hed…og"


def test_names_that_differ_in_two_places_get_a_number():
    names = [f"{'x' * 40}{a}{'y' * 40}{b}{'z' * 40}" for a in "12" for b in "34"]
    short = shortened(names, 22)
    assert len(set(short)) == 4 and max(map(len, short)) <= 22


def test_without_a_font_a_name_is_a_mark_and_its_number_and_is_listed_once(monkeypatch):
    monkeypatch.setattr(font_manager, "findSystemFonts", list)
    told = drawable(["cat", "水", "火山"], 22)
    assert told.names == ("cat", "□ (1)", "□□ (2)")
    assert told.note.startswith("no installed font has all characters of 2 names: (1) 水, (2) 火山")
    many = drawable([chr(0x4E00 + i) for i in range(50)], 22)
    assert "and 40 more" in many.note


def font(path: Path, family: str, text: str) -> str:
    """Write a font with a square for each character of a text."""
    pen = TTGlyphPen(None)
    pen.moveTo((100, 0))
    for corner in ((100, 700), (800, 700), (800, 0)):
        pen.lineTo(corner)
    pen.closePath()
    square, names = pen.glyph(), [f"u{ord(c):X}" for c in text]
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder([".notdef", *names])
    builder.setupCharacterMap(dict(zip(map(ord, text), names, strict=True)))
    builder.setupGlyf(dict.fromkeys([".notdef", *names], square))
    builder.setupHorizontalMetrics(dict.fromkeys([".notdef", *names], (900, 100)))
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": family, "styleName": "Regular"})
    builder.setupOS2(sTypoAscender=800)
    builder.setupPost()
    builder.save(path)
    return str(path)


def test_installed_fonts_with_the_characters_are_used(tmp_path, monkeypatch):
    water = font(tmp_path / "a.ttf", "Water Regular", "水")
    both = font(tmp_path / "b.ttf", "Fire And Water", "水火")
    (tmp_path / "broken.ttf").write_bytes(b"no font")
    known = list(font_manager.fontManager.ttflist)
    monkeypatch.setattr(font_manager.fontManager, "ttflist", known)
    files = [water, str(tmp_path / "broken.ttf"), both]
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: files)
    told = drawable(["水", "火"], 22)
    assert told == (("水", "火"), ["DejaVu Sans", "Fire And Water"], None)
    assert drawn(("水", "火")).std() > 1
