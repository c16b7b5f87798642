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
        # Pixels are multiplied by the output, whose other part is small with random weights.
        nn.init.ones_(self.multihead_attn.out_proj.bias)

    def forward(
        self, visual: Tensor, word_features: Tensor, word_padding: Tensor, word_positions: Tensor
    ) -> Tensor:
        """Fuse the maps of a clip with the words of an expression.

        Args:
            visual: Maps of the clip each expression is about, [E, T, C, h, w].
            word_features: [E, L, C].
            word_padding: [E, L] bool, True = pad; at least one word of each expression is not.
            word_positions: Sine positions [E, L, C], added to the keys only.

        Returns:
            [E, T, C, h, w]: `visual` times what its attention gathered, no residual.

        Paper: spectrum-guided cross-modal fusion, the attention between the two spectral filters.
        """
        _, num_frames, _, height, width = visual.shape
        pixels = rearrange(visual, "e t c h w -> e (t h w) c")
        gathered, _ = self.multihead_attn(
            query=pixels,
            key=word_features + word_positions,
            value=word_features,
            key_padding_mask=word_padding,
            need_weights=False,  # else the fused kernels are not used
        )
        fused = pixels * gathered
        return rearrange(fused, "e (t h w) c -> e t c h w", t=num_frames, h=height, w=width)
