"""The named clip styles."""

import pytest

from shards.stream.augment import Augmentation
from shards.stream.sampling import ClipSampling
from shards.stream.styles import STYLES, named_style


def test_an_unknown_style_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"unknown clip style 'a2dd'; choose one of image, .*a2d"):
        named_style("a2dd")


def test_a2d_alone_supervises_its_target_frame() -> None:
    supervised = [name for name, style in STYLES.items() if style.supervise == "target_frame"]
    assert supervised == ["a2d"]
    assert named_style("a2d").sampling.anchors == "annotated"


def test_full_size_styles_pad_as_published() -> None:
    pad_to = {name: style.pad_to for name, style in STYLES.items()}
    assert pad_to.pop("synthetic") == pad_to.pop("synthetic-image") == 16
    assert set(pad_to.values()) == {32}


def test_no_clip_runs_backwards_where_expressions_tell_motion() -> None:
    for name in ("mevis", "synthetic", "image", "synthetic-image"):
        assert named_style(name).sampling.reverse == 0.0
    assert named_style("youtube-vos").sampling == ClipSampling(reverse=0.3)
    assert named_style("youtube-vos").augmentation == Augmentation.video()
