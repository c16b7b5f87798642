"""PNG masks as the benchmarks exchange them: `<video>/<expression>/<frame>.png`, folder or zip."""

import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Size = tuple[int, int]  # height, width in pixels
Labels = NDArray[np.uint8]

ANNOTATIONS = "Annotations"  # the folder that servers of the benchmarks look for


@dataclass(frozen=True)
class MaskFolder:
    """The masks of a system, each a PNG of one channel; a zip is read without being unpacked.

    Attributes:
        root: Folder, or place in a zip, that the names of the masks start from.
    """

    root: Path | zipfile.Path

    @classmethod
    def open(cls, path: Path) -> "MaskFolder":
        """Find the masks in a folder or zip, at its top or in its `Annotations`.

        Raises:
            ValueError: `path` is neither a folder nor a zip.
        """
        root: Path | zipfile.Path
        if path.is_dir():
            root = path
        else:
            try:
                root = zipfile.Path(path)
            except (OSError, zipfile.BadZipFile) as error:
                raise ValueError(f"{path} is no folder and no zip of masks ({error})") from None
        annotations = root / ANNOTATIONS
        return cls(annotations if annotations.is_dir() else root)

    def has_folder(self, name: str) -> bool:
        """Whether there is a folder such as `<annotator>/<video>`."""
        return (self.root / name).is_dir()

    def read(self, name: str, size: Size) -> Labels:
        """Read a mask.

        Args:
            name: Such as `<video>/<expression>/<frame>.png`.
            size: Height and width that the mask must have, in pixels.

        Returns:
            Palette entries or grey levels [H, W], 0 for background.

        Raises:
            ValueError: The mask is missing, broken, of another size, or in colours.
        """
        labels, _ = self.read_with_bytes(name, size)
        return labels

    def read_with_bytes(self, name: str, size: Size) -> tuple[Labels, bytes]:
        """Read a mask as `read` does, and the bytes of its file."""
        try:
            data = (self.root / name).read_bytes()
            labels = np.asarray(Image.open(BytesIO(data), formats=["PNG"]))
        except (FileNotFoundError, KeyError):  # KeyError: from a zip
            raise ValueError(
                f"{self.root} has no {name}; every frame and expression needs one"
            ) from None
        except (OSError, SyntaxError, zipfile.BadZipFile) as error:
            # Pillow 12.3 raises SyntaxError where the chunks of a PNG are broken
            raise ValueError(
                f"{self.root}: {name} is no PNG mask ({error}); write it again"
            ) from None
        if labels.shape != size:
            raise ValueError(
                f"{self.root}: {name} is {labels.shape}, must be {size}, one value a pixel"
            )
        return labels.astype(np.uint8), data

    def write(self, name: str, labels: Labels) -> None:
        """Write values [H, W]: 0 and 255, or labels of objects.

        Raises:
            ValueError: The masks are in a zip, which is only read.
        """
        if not isinstance(self.root, Path):
            raise ValueError(f"{self.root} is in a zip: masks are written to folders only")
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(labels).save(path)


def write_submission(masks: MaskFolder, expected: Iterable[tuple[str, Size]], out: Path) -> int:
    """Write the zip that a benchmark's server takes: the expected masks and no others.

    Args:
        masks: Folder or zip that holds the masks, and may hold more.
        expected: Name and size of every mask.
        out: Zip to write; it appears only once it is complete.

    Returns:
        Number of masks.

    Raises:
        ValueError: A mask is expected twice, or cannot be read, as in `MaskFolder.read`.
    """
    unfinished = out.with_name(f"{out.name}.partial")
    with zipfile.ZipFile(unfinished, "w") as archive:
        for name, size in expected:
            member = f"{ANNOTATIONS}/{name}"
            if member in archive.NameToInfo:
                raise ValueError(f"{name} is expected twice: names of expressions must differ")
            _, data = masks.read_with_bytes(name, size)
            archive.writestr(member, data)
        count = len(archive.NameToInfo)
    unfinished.replace(out)
    return count
