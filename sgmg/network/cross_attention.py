"""Cross-attention of pixels with words, the middle of spectrum-guided cross-modal fusion (SCF)."""

from einops import rearrange
from torch import Tensor, nn


class CrossAttention(nn.Module):
    """Each pixel gathers the words that concern it and is multiplied by them."""

    def __init__(self, hidden: int, *, heads: int = 8) -> None:
        """Build the layer; one serves all levels.

        Args:
            hidden: Channels C of pixels and words, a multiple of `heads`.
            heads: Attention heads.
        """
        super().__init__()
        self.multihead_attn = nn.MultiheadAttention(hidden, heads, batch_first=True)

    def start_as_identity(self) -> None:
        """Let pixels pass nearly unchanged until words have learnt what to change."""
        nn.init.ones_(self.multihead_attn.out_proj.bias)

    def forward(self, visual: Tensor, words: Tensor, padding: Tensor, positions: Tensor) -> Tensor:
        """Fuse the maps of a clip with the words of an expression.

        Args:
            visual: [E, T, C, h, w], the frames that belong to each expression.
            words: [E, L, C].
            padding: [E, L] bool, True = pad; at least one word of each expression is not.
            positions: Of the words [E, L, C], such as their sine positions, added to the keys only.

        Returns:
            [E, T, C, h, w]: `visual` times what its attention gathered, no residual.

        Paper: spectrum-guided cross-modal fusion, the attention between the two spectral filters.
        """
        frames, height, width = visual.shape[1], *visual.shape[3:]
        pixels = rearrange(visual, "e t c h w -> e (t h w) c")
        gathered, _ = self.multihead_attn(
            pixels, words + positions, words, key_padding_mask=padding, need_weights=False
        )
        fused = pixels * gathered
        return rearrange(fused, "e (t h w) c -> e t c h w", t=frames, h=height, w=width)
