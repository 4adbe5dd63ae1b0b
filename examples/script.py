"""What does an article propose, and on which conditions?

python examples/script.py datasets/articles/ceasefire.md [--bundle bundles/model] [--intent proposal]
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path

import communique


def main() -> int:
    """Prints the sentences with one intent, then how many there are of each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("article", type=Path)
    parser.add_argument("--intent", default="proposal")
    parser.add_argument("--bundle", help="a bundle's folder; default: the model in the installed wheel")
    asked = parser.parse_args()
    try:
        classifier = communique.load(asked.bundle)
        sentences = classifier.read(asked.article.read_text(encoding="utf-8"))
    except (communique.CommuniqueError, OSError, UnicodeDecodeError) as error:
        print(error, file=sys.stderr)
        return 2
    if asked.intent not in classifier.classes_:
        print(f"no intent {asked.intent!r}; this model has {', '.join(classifier.classes_)}", file=sys.stderr)
        return 2

    for sentence in sentences:
        if asked.intent in sentence.intents:
            text = " ".join(sentence.text.split())  # a sentence may run over several lines
            print(f"{sentence.probabilities[asked.intent]:.2f}  {sentence.start:>6}  {text}")
    counts = Counter(intent for sentence in sentences for intent in sentence.intents)
    print(f"{len(sentences)} sentences:", ", ".join(f"{name} {counts[name]}" for name in classifier.classes_))
    return 0


if __name__ == "__main__":
    sys.exit(main())
