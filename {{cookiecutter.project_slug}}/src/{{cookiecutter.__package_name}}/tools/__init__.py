"""Programs about runs, each `python -m <package>.tools.NAME`. Training does not need them."""
