from sgmg.network.backbones.backbone import build_backbone
from tests.sgmg.network.backbones.small import random_input


def test_resnet_keeps_statistics_stem_and_first_stage() -> None:
    resnet = build_backbone("resnet50").train()
    before = {name: value.clone() for name, value in resnet.state_dict().items()}
    resnet(random_input(1, 1, 3, 64, 64))
    assert all(value.equal(before[name]) for name, value in resnet.state_dict().items())
    fixed_parts = {
        name.split(".")[1]
        for name, parameter in resnet.named_parameters()
        if not parameter.requires_grad
    }
    assert fixed_parts == {"conv1", "layer1"}
    assert not any(".bn" in name for name, _ in resnet.named_parameters())
