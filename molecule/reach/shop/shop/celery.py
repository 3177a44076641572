"""The application's tasks."""

from celery import Celery

app = Celery("shop")


@app.task(name="shop.weigh")
def weigh(text: str) -> int:
    """Return the length of a text."""
    return len(text)
