"""python -m <package> fit|validate|test|predict --config configs/NAME.yaml"""

import sys

from .engine.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
