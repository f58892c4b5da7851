"""Programs about runs, each `python -m <package> NAME`; training needs none."""
