"""What a committed picture says of the numbers that it was drawn from."""

from pathlib import Path

from qstar.reports import figures


def drawn(file: Path) -> str:
    """The digest in a PNG; empty where it has none."""
    from PIL import Image  # comes with matplotlib

    with Image.open(file) as picture:
        return picture.info.get(figures.DRAWN, "")
