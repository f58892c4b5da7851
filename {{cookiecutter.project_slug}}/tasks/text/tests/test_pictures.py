"""The pictures show every kind of result, and texts in any script."""

from pathlib import Path

import torch
from matplotlib import font_manager
from matplotlib.figure import Figure

from {{ cookiecutter.__package_name }}.engine.monitor.confusion import (
    confusion_of,
    draw_confusion,
)
from {{ cookiecutter.__package_name }}.pictures import (
    draw_numbers,
    draw_predictions,
)

CLASSES = ("de", "日本語", "$x_1$")


def words_in(figure: Figure, file: Path) -> list[str]:
    """Save a figure, as the end of a run does, and return what is written in it."""
    figure.savefig(file, dpi=110)
    assert file.stat().st_size > 1000
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def test_errors_come_first_then_the_least_confident(tmp_path):
    labels = torch.tensor([0, 1, 2, 0])
    probabilities = torch.tensor([[0.9, 0.1, 0], [0.8, 0.2, 0], [0, 0.4, 0.6], [0.2, 0.7, 0.1]])
    figure = draw_predictions(["right", "$wrong$", "字", "x" * 500], labels, probabilities, CLASSES)
    words = words_in(figure, tmp_path / "predictions.png")
    assert words[0].startswith("de, 80% sure, not ") and words[1].endswith("70% sure, not de")
    assert words[2].endswith("60% sure") and words[3] == "de, 90% sure"
    assert words[4] == "$wrong$" and "…" in words[5] and words[7] == "right"


def test_texts_without_a_font_are_marks_without_a_number(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(font_manager, "findSystemFonts", list)
    labels, probabilities = torch.tensor([0, 0]), torch.tensor([[0.9, 0.1]] * 2)
    figure = draw_predictions(["水 flows", "火 burns"], labels, probabilities, ("a", "b"))
    words = words_in(figure, tmp_path / "predictions.png")
    assert words[2:] == ["□ flows", "□ burns"]
    said = capsys.readouterr().out
    assert "predictions.png: no installed font has all characters. Install a font" in said


def test_texts_begin_after_the_longest_prediction_and_fit(tmp_path):
    labels, probabilities = torch.tensor([0, 1, 1]), torch.tensor([[0.1, 0.9]] * 3)
    starts = []
    for classes in (("a", "b"), ("a very long name of a class", "a class with a longer name")):
        figure = draw_predictions(["The quick fox. " * 50] * 3, labels, probabilities, classes)
        words_in(figure, tmp_path / f"{len(starts)}.png")
        drawn, width = figure.axes[0].texts, figure.bbox.width
        ends = [text.get_window_extent().x1 / width for text in drawn]
        starts.append(drawn[3].get_position()[0])
        assert max(ends[:3]) < starts[-1] < max(ends[:3]) + 0.03
        assert 0.8 < ends[3] < 1
    assert starts[0] < 0.2 < starts[1]


def test_the_table_has_room_for_long_names(tmp_path):
    classes = "a very long name of a class", "W" * 30
    figure = draw_confusion(torch.tensor([[1, 0], [1, 0]]), classes, "texts")
    words_in(figure, tmp_path / "confusion.png")
    (axes,) = figure.axes
    assert axes.get_tightbbox().x0 >= 0 and axes.get_position().width > 0.2


def test_the_table_counts_each_label_and_prediction(tmp_path):
    counts = confusion_of(torch.tensor([0, 1, 1, 0]), torch.tensor([0, 1, 0, 0]), len(CLASSES))
    figure = draw_confusion(counts, CLASSES, "texts")
    assert sorted(words_in(figure, tmp_path / "confusion.png")) == ["1", "1", "2"]
    assert figure.axes[0].get_title() == "1 error in 4 texts"


def test_numbers_are_drawn_as_points(tmp_path):
    figure = draw_numbers(torch.tensor([1.0, 2.0]), torch.tensor([1.5, 2.5]))
    words_in(figure, tmp_path / "numbers.png")
    assert figure.axes[0].get_title() == "2 validation texts, mean absolute error 0.5"
    assert figure.axes[0].get_aspect() == 1  # so that distances to the line can be compared
    assert figure.axes[0].collections[0].get_offsets().tolist() == [[1.5, 1.0], [2.5, 2.0]]
