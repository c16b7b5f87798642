"""Networks with published weights: whole ones, and backbones of classifiers."""

import re
from collections.abc import Mapping

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from sgmg.network.backbones.backbone import Backbone
from sgmg.network.model import SgMg
from sgmg.network.model_folder import CheckpointError, load_weights, mismatches
from sgmg.published.files import drop_clutter, entries_by_name, require_tensors
from sgmg.published.names import to_published_name
from sgmg.published.sizes import SWIN_MARK, config_of_published

# What the file of a classifier has beyond the backbone.
CLASSIFIER = re.compile(
    r"(head|cls_head|fc|norm)\..*|.*\.(attn_mask|relative_position_index|num_batches_tracked)"
)
DOWNSAMPLE = re.compile(r"layers\.(\d)\.downsample\.")
# Norms of a Swin's output maps, which no classifier has.
OUTPUT_NORMS = tuple(f"body.norm{stage}." for stage in range(4))
PATCH_TIME_AXIS = 2  # of a video's patch embedding [C, 3, frames, rows, columns]


def from_published(
    checkpoint: Mapping[str, object], *, tokenizer: PreTrainedTokenizerBase | None = None
) -> SgMg:
    """Make the network a published checkpoint belongs to and give it these weights.

    Args:
        checkpoint: Entries by their published names, by itself or under `model`; `files.CLUTTER`
            is dropped.
        tokenizer: Of the text model (published files hold none); without one the network takes
            `Tokens` only.

    Returns:
        The network, in evaluation mode.

    Raises:
        CheckpointError: It is no SgMg checkpoint, or tensors are missing, unexpected or misshapen;
            the message has their published names.
    """
    weights = drop_clutter(checkpoint)
    model = SgMg(config_of_published(weights), tokenizer=tokenizer)
    own_weights = model.state_dict()
    published_names = {name: to_published_name(model, name) for name in own_weights}
    expected = {published_names[name]: value for name, value in own_weights.items()}
    problems = mismatches(expected, weights)
    if problems:
        raise CheckpointError(f"not a checkpoint of SgMg with {model.config.backbone}: {problems}")
    model.load_state_dict({name: weights[published_names[name]] for name in own_weights})
    return model.eval()


def load_backbone(backbone: Backbone, checkpoint: Mapping[str, object], source: str) -> None:
    """Give a backbone the weights of a classifier trained on Kinetics or ImageNet.

    Args:
        backbone: Video Swin, Swin or ResNet; changed in place. Norms of its output maps, which no
            classifier has, keep their values.
        checkpoint: Official Video-Swin, Swin or torchvision ResNet file, by itself or under
            `state_dict` or `model`. A patch of several frames is summed over time.
        source: What the error calls the file.

    Raises:
        CheckpointError: A tensor is missing, unexpected or misshapen; the message lists them.
    """
    own_names = {}
    for name in backbone.state_dict():
        published_name = backbone.published_name(name).removeprefix("body.")
        own_names[published_name] = name
    # Classifiers keep a down-sampling in the stage before it; published networks with Video Swin
    # in a list of its own.
    lists_downsamples = any(name.startswith("downsamples.") for name in own_names)
    weights: dict[str, Tensor] = {}
    for classifier_name, value in _classifier_backbone(checkpoint).items():
        published_name = classifier_name
        if lists_downsamples:
            published_name = DOWNSAMPLE.sub(r"downsamples.\1.", classifier_name)
        # A name that the backbone does not have stays, for the error that lists it.
        weights[own_names.get(published_name, published_name)] = value
    patch_name = own_names.get(SWIN_MARK)
    if patch_name in weights and weights[patch_name].dim() == 5:
        weights[patch_name] = weights[patch_name].sum(PATCH_TIME_AXIS, keepdim=True)
    load_weights(backbone, weights, source, without=OUTPUT_NORMS)


def _classifier_backbone(checkpoint: Mapping[str, object]) -> dict[str, Tensor]:
    """Tensors of a classifier's backbone, by the names in its file."""
    entries = {}
    for name, value in entries_by_name(checkpoint).items():
        name_in_backbone = name.removeprefix("backbone.")
        if not CLASSIFIER.fullmatch(name_in_backbone):
            entries[name_in_backbone] = value
    return require_tensors(entries)
