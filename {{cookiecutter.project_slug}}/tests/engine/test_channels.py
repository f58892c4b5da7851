"""Images with any number of channels: training, evaluation and the service agree."""

import io
import json
from functools import partial
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch
from PIL import Image
from predicted import predict_as_in_the_evaluation
from served import check_answers, list_of_test_files
from tiff_written import tiff
from torch import nn

import {{ cookiecutter.__package_name }} as package
from {{ cookiecutter.__package_name }} import networks
from {{ cookiecutter.__package_name }}.classifier import ImageClassifier
from {{ cookiecutter.__package_name }}.data import SOURCES, ImageData, digits
from {{ cookiecutter.__package_name }}.engine.cli.project import (
    Project,
    data_with_flags,
)
from {{ cookiecutter.__package_name }}.engine.errors import UserError
from {{ cookiecutter.__package_name }}.engine.images.batch import in_memory
from {{ cookiecutter.__package_name }}.engine.images.folder import folder
from {{ cookiecutter.__package_name }}.engine.images.input_layer import input_layer
from {{ cookiecutter.__package_name }}.engine.images.read import read
from {{ cookiecutter.__package_name }}.engine.images.shown import as_rgb
from {{ cookiecutter.__package_name }}.engine.images.splits import ImageSplits
from {{ cookiecutter.__package_name }}.engine.tools import serve
from {{ cookiecutter.__package_name }}.networks import build_network
from {{ cookiecutter.__package_name }}.pictures import draw_predictions

PROJECT = Project(package.__name__, ImageClassifier, ImageData, read)


def trainer_for(steps: int) -> L.Trainer:
    quiet = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    quiet += ("use_distributed_sampler",)
    return L.Trainer(accelerator="cpu", max_steps=steps, **dict.fromkeys(quiet, False))


def npy(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, pixels)
    return file.getvalue()


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels.squeeze()).save(file, "PNG")
    return file.getvalue()


FORMS = {
    "grey.png": (1, np.uint8, png),
    "grey.npy": (1, np.uint16, lambda pixels: npy(pixels[..., 0])),
    "two.npy": (2, np.uint8, npy),
    "rgb.npy": (3, np.uint8, npy),
    "rgba.png": (4, np.uint8, png),
    "four.tif": (4, np.uint16, partial(tiff, compressed=True, differences=True)),
    "eight.tif": (8, np.uint8, partial(tiff, planar=True)),
}


def write(root: Path, form: str) -> int:
    """Write two classes, which differ in their last channel; return the number of channels."""
    channels, kind, content = FORMS[form]
    for number, name in enumerate(("dark", "light")):
        (root / name).mkdir(parents=True)
        for i in range(10):
            noise = np.random.default_rng(100 * number + i).integers(0, 120, (20, 26, channels))
            noise[..., -1] += 120 * number
            noise = noise.astype(kind) * (10 if kind is np.uint16 else 1)
            (root / name / f"{i}{Path(form).suffix}").write_bytes(content(noise))
    return channels


@pytest.mark.parametrize("form", FORMS)
def test_a_run_is_evaluated_predicts_and_is_served_with_the_channels_it_was_trained_on(
    form, call, tmp_path, monkeypatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    channels, run = write(tmp_path / "images", form), tmp_path / "run"
    options = {"channels": channels, "image_size": [12, 16], "workers": 0}
    options |= {"loader": "mapped" if form == "eight.tif" else "streaming"}
    flags = ["--config", "configs/imagefolder.yaml", f"--data.options.path={tmp_path / 'images'}"]
    flags += [f"--data.{key}={value}" for key, value in options.items()]
    flags += ["--data.batch_size=4", "--model.network=small_cnn", "--trainer.max_epochs=1"]
    assert call("fit", *flags, folder=run) == 0
    assert call("predict", "--run", str(run)) == 0
    record = json.loads((run / "run.json").read_text())
    assert record["data"]["shapes"]["images"] == [channels, 12, 16]
    assert record.get("initialized", "").startswith("normalization: ") == (channels != 3)
    assert (run / "predictions.png").stat().st_size > 5000
    served = serve.ServedRun(PROJECT, run)
    source = {"source": "folder", "options": {"path": str(tmp_path / "images")}}
    data = data_with_flags(ImageData)(**options, **source)
    assert check_answers(served, data, run / "predictions.csv") == 2
    predict_as_in_the_evaluation(call, run, list_of_test_files(data, run / "files.txt"))
    if channels > 4:
        with pytest.raises(serve.BadRequest, match=f"has 3 channels; expected {channels}"):
            served.answer(png(np.zeros((9, 9, 3), np.uint8)))


def test_images_kept_decoded_are_decoded_again_for_other_channels(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write(tmp_path / "images", "rgba.png")
    for channels in (1, 4, None, 1):
        data = data_with_flags(ImageData)(
            source="folder",
            options={"path": str(tmp_path / "images")},
            channels=channels,
            image_size=8,
            batch_size=4,
            loader="mapped",
        )
        images = next(iter(data.train_dataloader())).images
        assert images.shape[1] == data.num_channels == (channels or 3)


def bands(channels: int = 5) -> ImageSplits:
    """Images in memory, with a value of its own in each channel."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 20, (60, 8, 8, channels), dtype=torch.uint8, generator=generator)
    pixels += (torch.arange(channels) * 20).byte()
    pixels[..., 0] = 7
    parts = [in_memory(pixels[i : i + 20], torch.arange(20) % 2) for i in (0, 20, 40)]
    return ImageSplits(*parts, classes=("one", "other"))


def test_images_in_memory_keep_their_channels_and_normalize_with_their_own_mean(
    monkeypatch, call, tmp_path, capsys
):
    monkeypatch.setitem(SOURCES, "bands", bands)
    flags = ["--config", "configs/digits.yaml", "--data.source=bands", "--data.batch_size=4"]
    assert call("fit", *flags, "--trainer.max_steps=2", folder=tmp_path) == 0
    assert "normalization: mean 7.0 " in capsys.readouterr().out
    saved = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    pixels = bands().train.images.double()
    assert torch.allclose(saved["network.normalize.mean"].flatten(), pixels.mean((0, 2, 3)).float())
    deviations = saved["network.normalize.std"].flatten()
    assert deviations[0] == 1  # of a channel that never changes
    assert torch.allclose(deviations[1:], pixels.std((0, 2, 3))[1:].float(), rtol=1e-3)


def test_rgb_keeps_the_normalization_of_imagenet():
    mean = build_network("small_cnn", 10).normalize.mean.flatten().tolist()
    model = ImageClassifier("small_cnn", 10, small_images=True)
    trainer_for(1).fit(model, datamodule=ImageData("digits"))
    assert model.network.normalize.mean.flatten().tolist() == mean
    assert mean == pytest.approx([123.675, 116.28, 103.53])


def test_a_fit_in_a_notebook_measures_the_channels_too():
    data = ImageData("digits", channels=1)
    model = ImageClassifier("small_cnn", 10, data.num_channels, small_images=True)
    trainer_for(1).fit(model, datamodule=data)
    measured = data.splits.train.images[:: 1077 // 256 + 1].float().mean()
    assert model.network.normalize.mean.item() == pytest.approx(measured.item(), rel=1e-4)


def test_images_in_memory_become_grey_or_rgb():
    grey, colours = ImageData("digits", channels=1), digits()
    assert grey.facts().shapes["images"] == (1, 8, 8) and grey.num_channels == 1
    for part in ("train", "val", "test"):
        own = getattr(colours, part).images[:, :1]
        assert torch.equal(getattr(grey.splits, part).images, own)
    assert ImageData("digits", channels=3).facts() == ImageData("digits").facts()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"channels": 5}, r"channels is 5, and the images of the source 'digits' have 3: leave it"),
        ({"channels": 0}, r"data\.channels is 0; expected 1 \(grey\), 3 \(RGB\) or another"),
        ({"channels": 1, "decoder": "gpu"}, r"data\.decoder is gpu.*data\.channels is 1: leave"),
    ],
)
def test_channels_that_can_not_be_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        ImageData("digits", **settings)


def test_a_source_of_files_that_does_not_take_the_channels_is_named(tmp_path, monkeypatch):
    write(tmp_path, "grey.png")
    monkeypatch.setitem(SOURCES, "mine", lambda path: folder(path))
    monkeypatch.setitem(SOURCES, "told", lambda path, channels=3: folder(path, channels=channels))
    with pytest.raises(UserError, match="'mine' reads its files with 3: give it a parameter"):
        ImageData("mine", {"path": str(tmp_path)}, channels=1)
    assert ImageData("told", {"path": str(tmp_path)}, channels=1).num_channels == 1
    assert ImageData("told", {"path": str(tmp_path)}).num_channels == 3


@pytest.mark.parametrize(
    "name", ["small_cnn", "resnet18", "mobilenet_v3_small", "densenet121", "googlenet", "swin_t"]
)
def test_a_network_for_rgb_takes_other_channels_with_its_other_layers_unchanged(name):
    plain = build_network(name, 7).body
    for channels in (1, 5):
        network = build_network(name, 7, channels=channels).eval()
        images = torch.randint(0, 256, (2, channels, 32, 32), dtype=torch.uint8)
        assert network(images).shape == (2, 7)
        shapes = {key: value.shape for key, value in network.body.state_dict().items()}
        first, layer = input_layer(network.body)
        differing = [key for key, t in plain.state_dict().items() if t.shape != shapes[key]]
        assert differing == [f"{first}.weight"] and shapes.keys() == plain.state_dict().keys()
        outputs = [
            conv(torch.randn(4, conv.in_channels, 32, 32)).std().item()
            for conv in (input_layer(plain)[1], layer)
        ]
        assert outputs[0] == pytest.approx(outputs[1], rel=0.3)


def test_a_network_without_a_convolution_is_told_what_the_data_are(monkeypatch):
    for_rgb = nn.Sequential(nn.Flatten(), nn.Linear(192, 10))
    monkeypatch.setitem(networks.NETWORKS, "mine", lambda num_classes, small_images: for_rgb)
    model, data = ImageClassifier("mine", 10, 1), ImageData("digits", channels=1)
    with pytest.raises(UserError, match=r"'mine' can't take the data's images \(1, 8, 8\)"):
        trainer_for(1).fit(model, datamodule=data)


@pytest.mark.parametrize("channels", [1, 6])
def test_weights_for_rgb_give_the_same_outputs_for_equal_or_repeated_channels(channels, tmp_path):
    torch.manual_seed(1)
    trained = build_network("resnet18", 10, small_images=True).body.eval()
    torch.save(trained.state_dict(), tmp_path / "weights.pth")
    settings = {"small_images": True, "pretrained": str(tmp_path / "weights.pth")}
    model = ImageClassifier("resnet18", 10, channels, **settings)
    model.trainer = trainer_for(1)
    told = model.initialize()
    assert "weights of weights.pth; conv1's weights of red, green and blue are" in told
    colours = torch.randn(2, 3, 16, 16)
    if channels == 1:
        colours = colours[:, :1].expand(2, 3, 16, 16)
    given = colours[:, :1] if channels == 1 else colours.repeat(1, 2, 1, 1)
    torch.testing.assert_close(model.network.body.eval()(given), trained(colours))


def test_a_run_on_other_channels_is_no_start_for_these(tmp_path):
    torch.save(build_network("small_cnn", 10, channels=5).body.state_dict(), tmp_path / "five.pth")
    model = ImageClassifier("small_cnn", 10, 8, pretrained=str(tmp_path / "five.pth"))
    with pytest.raises(UserError, match=r"does not fit the network: 0\.weight is"):
        model.initialize()


@pytest.mark.parametrize("channels", range(1, 9))
def test_pictures_show_images_of_any_number_of_channels(channels):
    pixels = np.random.default_rng(0).integers(0, 20, (6, 9, 7, channels)).astype(np.uint8)
    images = torch.from_numpy(pixels)
    shown = as_rgb(images)
    assert shown.shape == (6, 9, 7, 3) and shown.dtype == torch.uint8
    if channels < 3:
        assert all(torch.equal(shown[..., i], images[..., 0]) for i in range(3))
    if channels == 3:
        assert torch.equal(shown, images)
    if channels == 4:  # nearly transparent
        assert shown.min() >= 235
    if channels > 4:
        assert shown.max() == 255 and torch.equal(shown.argmax(), images[..., :3].argmax())
    figure = draw_predictions(images, torch.arange(6) % 2, torch.rand(6, 2), ("one", "other"))
    assert len(figure.axes[0].images) == 6


def test_the_random_numbers_of_an_rgb_network_are_as_before():
    torch.manual_seed(5)
    ours = build_network("resnet18", 10).body.state_dict()
    torch.manual_seed(5)
    before = networks.resnet18(10, False).state_dict()
    assert all(torch.equal(ours[key], value) for key, value in before.items())
