"""Every recipe in configs/, yours too, is one `fit` takes: known keys, values of their type."""

import runpy
import sys
from pathlib import Path

import pytest

import {{ cookiecutter.__package_name }} as package

CONFIGS = Path(__file__).parents[1] / "configs"
RECIPES = sorted(path for path in CONFIGS.rglob("*") if path.suffix in (".yaml", ".yml"))


def read_as_fit_does(recipe: Path) -> int:
    """Return the exit status of `fit` that only reads a recipe, with base.yaml under it."""
    before = sys.argv
    sys.argv = [package.__name__, "fit", "--config", str(recipe), "--print_config"]
    try:
        runpy.run_module(package.__name__, run_name="__main__")
    except SystemExit as end:
        return int(end.code or 0)
    finally:
        sys.argv = before
    raise AssertionError("the command line did not exit")


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.relative_to(CONFIGS).as_posix())
def test_a_recipe_fits_the_signatures(recipe, capsys):
    status = read_as_fit_does(recipe)
    assert status == 0, f"{recipe}: {capsys.readouterr().err}"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("data: {batch_sise: 64}", "unknown setting batch_sise"),
        ("trainer: {max_epochs: many}", "trainer.max_epochs is 'many'; expected"),
    ],
)
def test_a_mistake_in_a_recipe_is_found(text, said, tmp_path, capsys):
    recipe = tmp_path / "mistake.yaml"
    recipe.write_text(text)
    assert read_as_fit_does(recipe) == 2
    assert said in capsys.readouterr().err
