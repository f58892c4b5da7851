"""The command line, and the parts of this project: python -m <package> --help lists the verbs."""

import sys

from .engine import main

if __name__ == "__main__":
    sys.exit(
        main(
            task=".classifier:ImageClassifier",
            data=".data:ImageData",
            inputs=".engine.images.inputs:find",
            read=".engine.images.read:read",
            pictures=".pictures:draw",
            look=".pictures:look",
            links={
                "data.num_classes": "model.num_classes",
                "data.num_channels": "model.num_channels",
                "data.class_counts": "model.class_counts",
                "data.objective": "model.objective",
            },
        )
    )
