"""Names of tensors: ours, and those of published checkpoints."""

from sgmg.network.model import SgMg
from sgmg.network.model_folder import CheckpointError

# Our prefix: the published one. Backbones translate their own names (`published_name`).
PREFIXES = {
    "text_encoder.backbone.": "text_encoder.text_backbone.",
    "text_encoder.words.": "text_proj.",
    "text_encoder.sentence.": "sentence_proj.",
    "projections.": "input_proj.",
    "filters_before.": "input_fft.",
    "filters_after.": "input_fft_post.",
    "fusion.": "fusion_module.",
    "query_positions.": "query_embed.",
    "transformer.": "transformer.",
    "class_heads.": "class_embed.",
    "box_heads.": "bbox_embed.",
    "kernels.": "",
    "mask_optimizer.": "mask_refine.",
}


def to_published_name(model: SgMg, name: str) -> str:
    """Published name of the entry `name` of `model.state_dict()`.

    Raises:
        CheckpointError: The tensor lies in a part that published networks do not have.
    """
    if name.startswith("backbone."):
        inside_backbone = name.removeprefix("backbone.")
        return f"backbone.0.{model.backbone.published_name(inside_backbone)}"
    for prefix, published_prefix in PREFIXES.items():
        if name.startswith(prefix):
            return published_prefix + name.removeprefix(prefix)
    raise CheckpointError(
        f"{name} has no published name: its part of the network is missing in {__name__}.PREFIXES"
    )
