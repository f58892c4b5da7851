"""The command line, and the parts of this project: python -m <package> --help lists the verbs."""

import sys

from .engine import main

if __name__ == "__main__":
    sys.exit(
        main(
            task=".classifier:TextClassifier",
            data=".data:TextData",
            inputs=".engine.text.inputs:find",
            read=".engine.text.read:read",
            read_flags={"truncate": "cut texts that are too long, and say so in the answer"},
            several=".engine.text.read:several",
            pictures=".pictures:draw",
            look=".pictures:look",
            links={
                "data.num_classes": "model.num_classes",
                "data.vocab_size": "model.vocab_size",
                "data.padding_id": "model.padding_id",
                "data.objective": "model.objective",
                "data.class_counts": "model.class_counts",
                "data.metrics": "model.metrics",
            },
        )
    )
