"""Programs about runs, each `python -m <package>.engine.tools.NAME`; training needs none."""
