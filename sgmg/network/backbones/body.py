"""What `Backbone` asks of any network below it."""

from torch import nn

Channels = tuple[int, int, int, int]
STRIDES = (4, 8, 16, 32)  # pixels between the cells of the four maps


class BackboneBody(nn.Module):
    """A network that maps frames [B, T, 3, H, W] to four maps [B*T, C, h, w]."""

    @property
    def recompute_blocks(self) -> list[nn.Module]:
        """Blocks whose activations training may drop and compute again in the backward pass.

        A block must give the same output whenever it runs on the same input, so one that keeps
        running statistics is left out. By default there are none.
        """
        return []

    def published_name(self, name: str) -> str:
        """Published name (below `backbone.0.body.`) of the `state_dict` entry `name`."""
        return name
