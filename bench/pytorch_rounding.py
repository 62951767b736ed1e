"""What bfloat16 on CUDA rounds (docs/engine.md, Layers and Precision), in PyTorch networks that compute in float32. For bench/pytorch_method.py --precision bfloat16.

It rounds where the engine stores a tensor or gives a product its operands, and nowhere else:
  training    operands of convolutions and linear layers, weights too; a convolution's raw output, before the norm takes its statistics of it; sums of residuals;
              results of linear layers; the gradients of all of these. The gradient of an activation is that of its norm's result, all contributions added, rounded once
  evaluation  norms are part of the convolutions before them, so only what stands behind them is stored
float32 stay sums, norms with their statistics and gradients, activations on their way to a product, gradients of parameters, masters of weights.
Left out: float16 operands in the gradient of the loss (11 bits), the engine's order of sums, and its products of a block's two last convolutions in the teacher, whose scaled weights are rounded instead of the weights.
"""
from types import MethodType
import torch
from torch import nn
from torch.nn import functional as F
from torchvision.models.mobilenetv2 import InvertedResidual


class Round(torch.autograd.Function):
    @staticmethod
    def forward(context, x, value, gradient):
        context.gradient = gradient
        return x.bfloat16().float() if value else x.clone()  # activations change what they get in place

    @staticmethod
    def backward(context, gradient):
        return gradient.bfloat16().float() if context.gradient else gradient, None, None


def operand(x):
    """Rounded for a product; whatever gathers its gradient rounds that."""
    return Round.apply(x, True, False)


def stored(x):
    """Kept between kernels, and so is its gradient."""
    return Round.apply(x, True, True)


class Convolution(nn.Conv2d):
    def forward(self, x):
        y = self._conv_forward(operand(x), operand(self.weight), None)
        return stored(y) if self.training else y


class Norm(nn.BatchNorm2d):
    def forward(self, x):
        return Round.apply(super().forward(x), False, True)


class Linear(nn.Linear):
    def forward(self, x):
        return stored(F.linear(stored(x), operand(self.weight), self.bias))


class Residual(InvertedResidual):
    def forward(self, x):
        y = self.conv(x)
        if self.use_res_connect:
            return stored(x + y)
        return y if self.training else stored(y)


def round_networks(student, teacher):
    """Makes a mobilenet_v2 and pytorch_method.Teacher round so, with the parameters that they have."""
    rounded = {nn.Conv2d: Convolution, nn.BatchNorm2d: Norm, nn.Linear: Linear, InvertedResidual: Residual}
    for module in [*student.modules(), *teacher.modules()]:
        module.__class__ = rounded.get(type(module), type(module))
    for stage in (teacher.layer1, teacher.layer2, teacher.layer3, teacher.layer4):
        for block in stage:
            block.register_forward_hook(lambda block, inputs, result: stored(result))
    teacher.attnpool.attend = MethodType(attend, teacher.attnpool)


def attend(pool, tokens):
    """Attention of the first token over all [N,T,C] -> [N,C], as ops/absorbed_attention.cu forms it: over the tokens themselves, without keys and values."""
    tokens = stored(tokens)
    by_head = lambda layer: operand(layer.weight).unflatten(0, (pool.heads, -1))
    q = pool.q_proj(tokens[:, 0]).unflatten(1, (pool.heads, -1))
    u = stored(torch.einsum("nhd,hdc->nhc", q, by_head(pool.k_proj)))
    attention = stored((torch.einsum("nhc,ntc->nht", u, tokens) / q.shape[-1] ** 0.5).softmax(2))
    y = stored(torch.einsum("nht,ntc->nhc", attention, tokens))
    return stored(torch.einsum("nhc,hdc->nhd", y, by_head(pool.v_proj)).flatten(1) + pool.v_proj.bias)
