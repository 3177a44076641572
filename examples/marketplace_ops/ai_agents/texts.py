"""What the agents do with texts: counting words. It stands for a model, which would be asked over the network."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from typing import Any

GOOD = {"excellent", "fast", "good", "great", "happy", "love", "perfect", "quick", "sturdy"}
BAD = {"bad", "broken", "damaged", "disappointed", "late", "poor", "slow", "terrible", "wrong"}
# Too common to say anything.
STOP = set(
    "a an and are as at but for from in is it its of on or that the this to was we with".split()
)
# A description with so many words or more is long enough.
ENOUGH = 8
TITLE = 80


def words(text: str) -> list[str]:
    """A text's words, in small letters."""
    return re.findall(r"[a-z0-9]+", text.lower())


def sentiment(text: str) -> tuple[int, str]:
    """The good words less the bad ones, and what that is called."""
    found = words(text)
    score = sum(word in GOOD for word in found) - sum(word in BAD for word in found)
    return score, "positive" if score > 0 else "negative" if score < 0 else "neutral"


def keywords(text: str) -> list[str]:
    """The five commonest words that say something; of equals the one that comes first in the alphabet."""
    counted = Counter(word for word in words(text) if word not in STOP)
    return [word for word, _ in sorted(counted.items(), key=lambda each: (-each[1], each[0]))[:5]]


def summary(text: str) -> str:
    """The first sentence."""
    return re.split(r"(?<=[.!?])\s", text.strip(), maxsplit=1)[0]


def rate(name: str, description: str) -> tuple[int, list[str]]:
    """0 to 100 for a product's description, and what it lacks."""
    found = words(description)
    lacks = {
        f"fewer than {ENOUGH} words": len(found) < ENOUGH,
        "no number, as of a size or a weight": not any(word.isdigit() for word in found),
        "doesn't name the product": not set(words(name)) & set(found),
        "no whole sentence": not description.strip().endswith((".", "!")),
    }
    missing = [text for text, is_missing in lacks.items() if is_missing]
    return 100 - 25 * len(missing), missing


def draft(name: str, description: str) -> tuple[str, str]:
    """A title with what is searched for, and a text of points."""
    more = [word for word in keywords(description) if word not in words(name)]
    title = " ".join([name, *more])
    while len(title) > TITLE and more:
        title = " ".join([name, *(more := more[:-1])])
    sentences = [part.strip() for part in re.split(r"(?<=[.!?])\s", description) if part.strip()]
    return title[:TITLE], "\n".join(f"- {sentence}" for sentence in sentences)


AGENTS: dict[str, Callable[[str], Any]] = {
    "keywords": keywords,
    "sentiment": lambda text: dict(zip(("score", "sentiment"), sentiment(text), strict=True)),
    "summary": summary,
}
