import pytest

from preprocess.synthetic.settings import SyntheticSettings


def test_impossible_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="side is 32 pixels"):
        SyntheticSettings(side=32)
    with pytest.raises(ValueError, match="one alone needs no words"):
        SyntheticSettings(shapes=1)
    with pytest.raises(ValueError, match="at least one frame"):
        SyntheticSettings(num_frames=0)
