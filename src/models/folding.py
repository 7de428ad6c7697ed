"""BatchNorm folded into the convolution before it, for models that do not learn any more."""

import copy
import logging

import torch
from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

log = logging.getLogger(__name__)
TOLERANCE = 1e-4  # of the largest feature


class _Tracer(fx.Tracer):
    """Takes convolutions and BatchNorms as single calls, also those of timm that pad or activate."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Return whether a module is one call."""
        return isinstance(m, nn.Conv2d | nn.BatchNorm2d) or super().is_leaf_module(m, module_qualified_name)


def folded(backbone: nn.Module, size: tuple[int, int]) -> nn.Module:
    """Return a copy of a feature extractor with each BatchNorm folded into the convolution before it.

    The features differ in the last digits (Jacob et al., 2018, Quantization and training of neural networks
    for efficient integer-arithmetic-only inference, section 3.2). A backbone that cannot be traced, or whose
    features would be others, is copied as it is.

    Args:
        backbone: in eval mode; `[B, 3, H, W] -> [B, features]`.
        size: height and width of its images in pixels.
    """
    plain = copy.deepcopy(backbone).to(memory_format=torch.channels_last)
    found = copy.deepcopy(plain)
    try:
        graph = _Tracer().trace(found)
    except Exception as error:  # a forward pass that depends on values raises nearly any type
        log.debug("BatchNorm is not folded: %s", error)
        return plain
    if not _fold(found, graph):
        return plain
    image = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        wanted, features = plain(image), found(image)
    if not (features - wanted).abs().max() <= TOLERANCE * wanted.abs().max():
        log.warning("BatchNorm is not folded: the features of this backbone would be others")
        return plain
    return found


def _fold(module: nn.Module, graph: fx.Graph) -> int:
    """Fold in place what the graph shows as a convolution with a BatchNorm behind it; return how many."""
    calls = [node.target for node in graph.nodes if node.op == "call_module"]
    pairs = 0
    for node in graph.nodes:
        before = node.args[0] if node.op == "call_module" and node.args else None
        if not isinstance(before, fx.Node) or before.op != "call_module" or len(before.users) > 1:
            continue
        norm, conv = module.get_submodule(node.target), module.get_submodule(before.target)
        shared = max(calls.count(node.target), calls.count(before.target)) > 1
        if shared or not isinstance(norm, nn.BatchNorm2d) or not isinstance(conv, nn.Conv2d):
            continue
        module.set_submodule(before.target, fuse_conv_bn_eval(conv, norm))
        # timm's BatchNorm has the activation inside
        rest = [part for name, part in norm.named_children() if not isinstance(part, nn.Identity)]
        module.set_submodule(node.target, nn.Sequential(*rest) if rest else nn.Identity())
        pairs += 1
    return pairs
