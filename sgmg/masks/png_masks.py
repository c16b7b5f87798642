"""PNG masks as the benchmarks exchange them: `<video>/<expression>/<frame>.png`, folder or zip."""

import zipfile
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Size = tuple[int, int]  # height, width in pixels
Tree = Path | zipfile.Path
TREE = "Annotations"


def open_tree(path: Path) -> Tree:
    """Find the masks in a folder or zip, there or in its `Annotations`; nothing is unpacked.

    Raises:
        ValueError: It is neither.
    """
    try:
        root = path if path.is_dir() else zipfile.Path(path)
    except (OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is no folder and no zip of masks ({error})") from None
    return root / TREE if (root / TREE).is_dir() else root


def read_mask(tree: Tree, name: str, size: Size) -> tuple[NDArray[np.uint8], bytes]:
    """Read a mask.

    Args:
        tree: From `open_tree`.
        name: Such as `<video>/<expression>/<frame>.png`.
        size: It must have.

    Returns:
        Palette entries or grey levels [H, W], 0 for background, and the file's bytes.

    Raises:
        ValueError: It is missing, broken, of another size, or in colours.
    """
    try:
        data = (tree / name).read_bytes()
        labels = np.asarray(Image.open(BytesIO(data), formats=["PNG"]))
    except (FileNotFoundError, KeyError):
        raise ValueError(f"{tree} has no {name}; every frame and expression needs one") from None
    except (OSError, SyntaxError, zipfile.BadZipFile) as error:
        raise ValueError(f"{tree}: {name} is no PNG mask ({error}); write it again") from None
    if labels.shape != size:
        raise ValueError(f"{tree}: {name} is {labels.shape}, must be {size}, one value a pixel")
    return labels.astype(np.uint8), data


def write_mask(folder: Path, name: str, labels: NDArray[np.uint8]) -> None:
    """Write values [H, W]: 0 and 255, or labels."""
    path = folder / TREE / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(labels).save(path)


def write_submission(tree: Tree, expected: Iterable[tuple[str, Size]], out: Path) -> int:
    """Write the zip that a benchmark's server takes: these masks and no others.

    Args:
        tree: Where they are.
        expected: Name and size of every mask.
        out: Zip to write; it appears only once it is complete.

    Returns:
        Number of masks.

    Raises:
        ValueError: A mask is expected twice, or as in `read_mask`.
    """
    unfinished = out.with_name(f"{out.name}.partial")
    with zipfile.ZipFile(unfinished, "w") as archive:
        for name, size in expected:
            if f"{TREE}/{name}" in archive.NameToInfo:
                raise ValueError(f"{name} is expected twice: names of expressions must differ")
            archive.writestr(f"{TREE}/{name}", read_mask(tree, name, size)[1])
    unfinished.replace(out)
    return len(archive.NameToInfo)
