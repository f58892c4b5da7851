"""The words of the texts that tests write."""

WORDS = (
    *("the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog"),
    *("while", "rain", "falls", "on", "grey", "hills"),
)
