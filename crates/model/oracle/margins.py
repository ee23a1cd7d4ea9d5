"""How near transformers' BitNet layers come to a rounding tie."""

import contextlib

import torch
from transformers.integrations import bitnet


@contextlib.contextmanager
def watched():
    """Within this context, `least()` of what is given is the smallest distance of any quantized value from the middle
    between two codes: of an int8 code in steps, of a trit in scales."""
    margins = Margins()
    activation, weight, packed = bitnet.ActQuant.forward, bitnet.WeightQuant.forward, bitnet.BitLinear.activation_quant

    def of_activation(ctx, x):
        margins.see_activation(x)
        return activation(ctx, x)

    def of_weight(ctx, w):
        margins.see((w / w.double().abs().mean()).abs())
        return weight(ctx, w)

    def of_packed(self, x, num_bits=8):
        margins.see_activation(x)
        return packed(self, x, num_bits)

    bitnet.ActQuant.forward, bitnet.WeightQuant.forward = staticmethod(of_activation), staticmethod(of_weight)
    bitnet.BitLinear.activation_quant = of_packed
    try:
        yield margins
    finally:
        bitnet.ActQuant.forward, bitnet.WeightQuant.forward = staticmethod(activation), staticmethod(weight)
        bitnet.BitLinear.activation_quant = packed


class Margins:
    """The smallest distance seen so far."""

    def __init__(self):
        self.smallest = 0.5

    def see_activation(self, x):
        x = x.double()
        self.see(x * (127 / x.abs().amax(dim=-1, keepdim=True).clamp(min=1e-5)))

    def see(self, scaled):
        # Beyond the last code there is nothing to round to.
        distance = (scaled - scaled.floor() - 0.5).abs()[scaled.abs() < 127]
        if distance.numel():
            self.smallest = min(self.smallest, distance.min().item())
