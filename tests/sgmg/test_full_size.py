"""The published size, with random weights, for one training step on a CPU."""

import torch
from accelerate import Accelerator

from sgmg import SgMg, SgMgConfig
from sgmg.matcher import Targets
from sgmg.optim import parameter_groups, step_decay
from sgmg.text_encoder import train_tokenizer
from sgmg.update import Update

ROBERTA_BASE = {
    "model_type": "roberta",
    "vocab_size": 50265,
    "type_vocab_size": 1,
    "max_position_embeddings": 514,
}


def test_a_training_step_at_the_published_size():
    torch.manual_seed(0)
    config = SgMgConfig(
        backbone="video_swin_t", text_config=ROBERTA_BASE, freeze_text=True, drop_path=0.0
    )
    words = ["a brown dog running to the left"]
    model = SgMg(config, tokenizer=train_tokenizer(words)).train()
    assert sum(p.numel() for p in model.parameters()) == 177_877_628
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert sum(p.numel() for p in trained.values()) == 53_231_996
    before = {name: p.detach().clone() for name, p in trained.items()}

    groups = parameter_groups(model, lr=1e-4, backbone_lr=5e-5, text_lr=1e-5, weight_decay=5e-4)
    optimizer = torch.optim.AdamW(groups)
    accelerator = Accelerator(cpu=True)
    update = Update(accelerator, model, optimizer, step_decay(optimizer, [3]), clip_norm=0.1)
    frames, padding = torch.randn(1, 5, 3, 192, 320), torch.zeros(1, 192, 320, dtype=torch.bool)
    masks = torch.zeros(1, 5, 192, 320, dtype=torch.bool)
    masks[..., 48:144, 80:160] = True
    boxes = torch.tensor([0.375, 0.5, 0.25, 0.5]).expand(1, 5, 4)
    targets = Targets(masks, boxes, torch.ones(1, 5, dtype=torch.bool))
    terms, mask_logits = update(frames, padding, words, targets)

    assert mask_logits.shape == (1, 5, 192, 320)
    assert all(value == value and abs(value) < 1e3 for value in terms.values())
    unmoved = [name for name, p in trained.items() if torch.equal(p, before[name])]
    assert unmoved == []
