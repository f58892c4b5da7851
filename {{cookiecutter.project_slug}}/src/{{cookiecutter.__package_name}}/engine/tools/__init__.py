"""The verbs other than training, one module each: `python -m <package> NAME`."""
