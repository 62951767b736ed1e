"""Makes the plain vision transformers beside it and their vectors, as make_towers.py does: python3 make_plain.py.

Under transformers' names (ViT, DINOv2 with and without registers, DINOv3) and timm's they are written from the papers with the modules that the
names come from; timm-vit is torchvision's own VisionTransformer, renamed. vectors.safetensors has pixels and embeddings at the model's
resolution, and pixels_R and image_embeds_R where it is taken at R pixels too. positions.safetensors is PyTorch's bicubic interpolation.
"""
import math
import os
from collections import OrderedDict
import torch
from torch import nn
from torch.nn import functional as F
from torchvision.models.vision_transformer import VisionTransformer
from make_towers import HERE, ConvNext, Empty, draw, save, stored, write_json


def resample(table, to, antialias):
    """[1,G*G,C] to [1,to*to,C]."""
    side = int(table.shape[1] ** 0.5)
    grid = table.reshape(1, side, side, -1).permute(0, 3, 1, 2)
    return F.interpolate(grid, size=(to, to), mode="bicubic", align_corners=False, antialias=antialias).permute(0, 2, 3, 1).flatten(1, 2)


def attend(qkv, heads):
    q, k, v = (y.unflatten(2, (heads, -1)).transpose(1, 2) for y in qkv)
    return (torch.softmax(q @ k.transpose(2, 3) * q.shape[3] ** -0.5, 3) @ v).transpose(1, 2).flatten(2)


# ---- transformers ------------------------------------------------------------------------------------------------------------
class Scale(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.lambda1 = nn.Parameter(torch.ones(width))


class Layer(nn.Module):
    def __init__(self, width, heads, hidden, eps, dinov2, gated):
        super().__init__()
        self.heads, self.dinov2 = heads, dinov2
        self.attention, self.attention.attention, self.attention.output = Empty(), Empty(), Empty()
        for name in ("query", "key", "value"):
            setattr(self.attention.attention, name, nn.Linear(width, width))
        self.attention.output.dense = nn.Linear(width, width)
        if dinov2:
            self.norm1, self.norm2 = nn.LayerNorm(width, eps), nn.LayerNorm(width, eps)
            self.layer_scale1, self.layer_scale2 = Scale(width), Scale(width)
            self.mlp = Empty()
            if gated:
                self.mlp.weights_in, self.mlp.weights_out = nn.Linear(width, 2 * hidden), nn.Linear(hidden, width)
            else:
                self.mlp.fc1, self.mlp.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)
        else:
            self.layernorm_before, self.layernorm_after = nn.LayerNorm(width, eps), nn.LayerNorm(width, eps)
            self.intermediate, self.output = Empty(), Empty()
            self.intermediate.dense, self.output.dense = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x):
        own = self.attention.attention
        y = self.norm1(x) if self.dinov2 else self.layernorm_before(x)
        y = self.attention.output.dense(attend((own.query(y), own.key(y), own.value(y)), self.heads))
        if not self.dinov2:
            x = x + y
            return x + self.output.dense(F.gelu(self.intermediate.dense(self.layernorm_after(x))))
        x = x + y * self.layer_scale1.lambda1
        y = self.norm2(x)
        if hasattr(self.mlp, "weights_in"):
            gate, value = self.mlp.weights_in(y).chunk(2, 2)
            return x + self.mlp.weights_out(F.silu(gate) * value) * self.layer_scale2.lambda1
        return x + self.mlp.fc2(F.gelu(self.mlp.fc1(y))) * self.layer_scale2.lambda1


class TransformersVit(nn.Module):
    def __init__(self, size, patch, width, layers, heads, hidden, eps, dinov2=False, registers=0, gated=False):
        super().__init__()
        self.patch, self.antialias = patch, registers > 0  # so these models differ
        of = self.embeddings = Empty()
        of.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        if dinov2:
            of.mask_token = nn.Parameter(torch.zeros(1, width))
        if registers:
            of.register_tokens = nn.Parameter(torch.zeros(1, registers, width))
        of.position_embeddings = nn.Parameter(torch.zeros(1, (size // patch) ** 2 + 1, width))
        of.patch_embeddings = Empty()
        of.patch_embeddings.projection = nn.Conv2d(3, width, patch, patch)
        self.encoder = Empty()
        self.encoder.layer = nn.ModuleList([Layer(width, heads, hidden, eps, dinov2, gated) for _ in range(layers)])
        self.layernorm = nn.LayerNorm(width, eps)

    def forward(self, x):
        of, grid = self.embeddings, x.shape[3] // self.patch
        table = of.position_embeddings
        if table.shape[1] != grid**2 + 1:
            table = torch.cat([table[:, :1], resample(table[:, 1:], grid, self.antialias)], 1)
        x = of.patch_embeddings.projection(x).flatten(2).transpose(1, 2)
        x = torch.cat([of.cls_token.expand(len(x), -1, -1), x], 1) + table
        if self.antialias:
            x = torch.cat([x[:, :1], of.register_tokens.expand(len(x), -1, -1), x[:, 1:]], 1)
        for layer in self.encoder.layer:
            x = layer(x)
        return self.layernorm(x)[:, 0]


class Prefixed(nn.Module):
    """A model with a head, such as ViTForImageClassification."""

    def __init__(self, prefix, tower, width):
        super().__init__()
        setattr(self, prefix, tower)
        self.classifier = nn.Linear(width, 5)
        self.forward = tower.forward


# ---- timm --------------------------------------------------------------------------------------------------------------------
class TimmScale(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))


class TimmBlock(nn.Module):
    def __init__(self, width, heads, hidden):
        super().__init__()
        self.heads = heads
        self.norm1, self.attn = nn.LayerNorm(width, 1e-6), Empty()
        self.attn.qkv, self.attn.proj, self.ls1 = nn.Linear(width, 3 * width), nn.Linear(width, width), TimmScale(width)
        self.norm2, self.mlp, self.ls2 = nn.LayerNorm(width, 1e-6), Empty(), TimmScale(width)
        self.mlp.fc1, self.mlp.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x):
        x = x + self.attn.proj(attend(self.attn.qkv(self.norm1(x)).chunk(3, 2), self.heads)) * self.ls1.gamma
        return x + self.mlp.fc2(F.gelu(self.mlp.fc1(self.norm2(x)))) * self.ls2.gamma


class TimmVit(nn.Module):
    """Its positions are added to the patches alone (no_embed_class); registers stand behind the class token."""

    def __init__(self, size, patch, width, layers, heads, hidden, registers):
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.reg_token = nn.Parameter(torch.zeros(1, registers, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, (size // patch) ** 2, width))
        self.patch_embed = Empty()
        self.patch_embed.proj = nn.Conv2d(3, width, patch, patch)
        self.blocks = nn.Sequential(*(TimmBlock(width, heads, hidden) for _ in range(layers)))
        self.norm = nn.LayerNorm(width, 1e-6)

    def forward(self, x):
        x = self.patch_embed.proj(x)
        table = self.pos_embed if x.shape[3] ** 2 == self.pos_embed.shape[1] else resample(self.pos_embed, x.shape[3], True)
        x = x.flatten(2).transpose(1, 2) + table
        first = [token.expand(len(x), -1, -1) for token in (self.cls_token, self.reg_token)]
        return self.norm(self.blocks(torch.cat([*first, x], 1)))[:, 0]


# ---- DINOv3 ------------------------------------------------------------------------------------------------------------------
def rotations(grid, width, base, dtype):
    """Cosines and sines of each patch, [grid*grid,width]: the angles of its row, those of its column, and both once more."""
    centres = 2 * (torch.arange(grid, dtype=dtype) + 0.5) / grid - 1
    periods = base ** (torch.arange(width // 4, dtype=dtype) / (width // 4))
    angles = 2 * math.pi * centres[:, None] / periods
    rows, columns = angles.repeat_interleave(grid, 0), angles.repeat(grid, 1)
    angles = torch.cat([rows, columns, rows, columns], 1)
    return angles.cos(), angles.sin()


def rotate(x, first, cosine, sine):
    """[B,heads,T,W]; the first tokens stay."""
    patches = x[:, :, first:]
    half = patches.shape[3] // 2
    turned = torch.cat([-patches[..., half:], patches[..., :half]], 3)
    return torch.cat([x[:, :, :first], patches * cosine + turned * sine], 2)


def attend_rotated(qkv, heads, first, base):
    q, k, v = (y.unflatten(2, (heads, -1)).transpose(1, 2) for y in qkv)
    angles = rotations(int((q.shape[2] - first) ** 0.5), q.shape[3], base, q.dtype)
    q, k = rotate(q, first, *angles), rotate(k, first, *angles)
    return (torch.softmax(q @ k.transpose(2, 3) * q.shape[3] ** -0.5, 3) @ v).transpose(1, 2).flatten(2)


class TransformersDinov3Layer(nn.Module):
    def __init__(self, width, heads, hidden, first, base):
        super().__init__()
        self.heads, self.first, self.base = heads, first, base
        self.norm1, self.norm2 = nn.LayerNorm(width, 1e-5), nn.LayerNorm(width, 1e-5)
        self.attention, self.mlp = Empty(), Empty()
        for name in "qkvo":
            setattr(self.attention, f"{name}_proj", nn.Linear(width, width, bias=name != "k"))
        self.layer_scale1, self.layer_scale2 = Scale(width), Scale(width)
        self.mlp.up_proj, self.mlp.down_proj = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x):
        own, y = self.attention, self.norm1(x)
        y = attend_rotated((own.q_proj(y), own.k_proj(y), own.v_proj(y)), self.heads, self.first, self.base)
        x = x + own.o_proj(y) * self.layer_scale1.lambda1
        return x + self.mlp.down_proj(F.gelu(self.mlp.up_proj(self.norm2(x)))) * self.layer_scale2.lambda1


class TransformersDinov3(nn.Module):
    def __init__(self, patch, width, layers, heads, hidden, registers, base):
        super().__init__()
        of = self.embeddings = Empty()
        of.cls_token, of.mask_token = nn.Parameter(torch.zeros(1, 1, width)), nn.Parameter(torch.zeros(1, 1, width))
        of.register_tokens = nn.Parameter(torch.zeros(1, registers, width))
        of.patch_embeddings = nn.Conv2d(3, width, patch, patch)
        self.layer = nn.ModuleList([TransformersDinov3Layer(width, heads, hidden, 1 + registers, base) for _ in range(layers)])
        self.norm = nn.LayerNorm(width, 1e-5)

    def forward(self, x):
        of = self.embeddings
        x = of.patch_embeddings(x).flatten(2).transpose(1, 2)
        x = torch.cat([of.cls_token.expand(len(x), -1, -1), of.register_tokens.expand(len(x), -1, -1), x], 1)
        for layer in self.layer:
            x = layer(x)
        return self.norm(x)[:, 0]


class TimmDinov3Block(nn.Module):
    """Gated, as S+, H+ and 7B are, and queries, keys and values without biases, as the models without qkvb in their names have them."""

    def __init__(self, width, heads, hidden, first):
        super().__init__()
        self.heads, self.first = heads, first
        self.norm1, self.norm2 = nn.LayerNorm(width, 1e-5), nn.LayerNorm(width, 1e-5)
        self.attn, self.mlp = Empty(), Empty()
        self.attn.qkv, self.attn.proj = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width)
        self.gamma_1, self.gamma_2 = nn.Parameter(torch.ones(width)), nn.Parameter(torch.ones(width))
        self.mlp.fc1_g, self.mlp.fc1_x, self.mlp.fc2 = nn.Linear(width, hidden), nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x):
        y = attend_rotated(self.attn.qkv(self.norm1(x)).chunk(3, 2), self.heads, self.first, 100)
        x, mlp = x + self.attn.proj(y) * self.gamma_1, self.mlp
        y = self.norm2(x)
        return x + mlp.fc2(F.silu(mlp.fc1_g(y)) * mlp.fc1_x(y)) * self.gamma_2


class TimmDinov3(nn.Module):
    def __init__(self, patch, width, layers, heads, hidden, registers):
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.reg_token = nn.Parameter(torch.zeros(1, registers, width))
        self.patch_embed = Empty()
        self.patch_embed.proj = nn.Conv2d(3, width, patch, patch)
        self.blocks = nn.Sequential(*(TimmDinov3Block(width, heads, hidden, 1 + registers) for _ in range(layers)))
        self.norm = nn.LayerNorm(width, 1e-5)

    def forward(self, x):
        x = self.patch_embed.proj(x).flatten(2).transpose(1, 2)
        first = [token.expand(len(x), -1, -1) for token in (self.cls_token, self.reg_token)]
        return self.norm(self.blocks(torch.cat([*first, x], 1)))[:, 0]


# ---- torchvision's, under timm's names ---------------------------------------------------------------------------------------
def timm_name(name):
    for old, new in (("encoder.layers.encoder_layer_", "blocks."), ("conv_proj", "patch_embed.proj"), ("class_token", "cls_token"),
                     ("encoder.pos_embedding", "pos_embed"), ("encoder.ln.", "norm."), (".ln_", ".norm"), ("heads.head", "head"),
                     (".self_attention.in_proj_", ".attn.qkv."), (".self_attention.out_proj", ".attn.proj"),
                     (".mlp.0.", ".mlp.fc1."), (".mlp.3.", ".mlp.fc2."), (".mlp.linear_1", ".mlp.fc1"), (".mlp.linear_2", ".mlp.fc2")):
        name = name.replace(old, new)
    return name


def torchvision_features(model, x):
    """At another size than the model's with timm's interpolation of positions."""
    table, grid = model.encoder.pos_embedding, x.shape[3] // model.patch_size
    if table.shape[1] != grid**2 + 1:
        table = torch.cat([table[:, :1], resample(table[:, 1:], grid, True)], 1)
    x = model.conv_proj(x).flatten(2).transpose(1, 2)
    return model.encoder.ln(model.encoder.layers(torch.cat([model.class_token.expand(len(x), -1, -1), x], 1) + table))[:, 0]


# ---- torchvision's ConvNeXt, under the names of transformers' DINOv3ConvNextModel -------------------------------------------------
def dinov3_convnext_name(name):
    parts = name.split(".")[1:]  # without trunk
    if parts[0] == "classifier":
        return f"layer_norm.{parts[2]}"
    index, at, rest = int(parts[1]), parts[2], parts[3:]
    if index % 2 == 0:
        return f"stages.{index // 2}.downsample_layers.{at}.{rest[0]}"
    if rest[0] == "layer_scale":
        return f"stages.{index // 2}.layers.{at}.gamma"
    layer = {"0": "depthwise_conv", "2": "layer_norm", "3": "pointwise_conv1", "5": "pointwise_conv2"}[rest[1]]
    return f"stages.{index // 2}.layers.{at}.{layer}.{rest[2]}"


def draw_plain(model, dtype, seed):
    draw(model, dtype, seed)
    for name, value in model.state_dict().items():
        last = name.split(".")[-1]
        if last in ("lambda1", "gamma", "gamma_1", "gamma_2"):  # far from 1, of both signs
            value.copy_(((0.2 + 1.5 * torch.rand(value.shape)) * torch.sign(torch.randn(value.shape))).to(dtype))
        elif "token" in last or "pos" in last:
            value.copy_((0.7 * torch.randn(value.shape)).to(dtype))
    return model


def write(name, model, dtype, sizes, configs, embed=None, rename=lambda name: name):
    folder = os.path.join(HERE, name)
    os.makedirs(folder, exist_ok=True)
    save(os.path.join(folder, "model.safetensors"), OrderedDict((rename(key), value.flatten() if key.endswith("layer_scale") else value) for key, value in stored(model, dtype).items()), {"format": "pt"})
    for file, value in configs.items():
        write_json(folder, file, value)
    vectors = {}
    for i, size in enumerate(sizes):
        pixels = torch.randn(2, 3, size, size)
        end = f"_{size}" if i else ""
        with torch.no_grad():
            vectors |= {f"pixels{end}": pixels, f"image_embeds{end}": (embed or model)(pixels.double()).float()}
    save(os.path.join(folder, "vectors.safetensors"), vectors)


def main():
    sizes = dict(hidden_size=24, num_hidden_layers=2, num_attention_heads=3)

    tower = TransformersVit(20, 5, 24, 2, 3, 40, 1e-12)
    write("transformers-vit", draw_plain(Prefixed("vit", tower, 24), torch.float16, 11), torch.float16, [20, 33], {
        "config.json": {"model_type": "vit", "architectures": ["ViTForImageClassification"], "hidden_act": "gelu", "layer_norm_eps": 1e-12, "image_size": 20, "patch_size": 5, **sizes},
        "preprocessor_config.json": {"size": {"height": 20, "width": 20}, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}})

    tower = TransformersVit(35, 7, 24, 2, 3, 40, 1e-6, dinov2=True)
    write("transformers-dinov2", draw_plain(tower, torch.float32, 12), torch.float32, [21, 35, 56], {
        "config.json": {"model_type": "dinov2", "architectures": ["Dinov2Model"], "hidden_act": "gelu", "layer_norm_eps": 1e-6, "image_size": 35, "patch_size": 7, **sizes},
        "preprocessor_config.json": {"size": {"shortest_edge": 24}, "crop_size": {"height": 21, "width": 21}, "do_center_crop": True,
                                     "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}})

    tower = TransformersVit(35, 7, 24, 2, 3, 40, 1e-6, dinov2=True, registers=4)
    write("transformers-dinov2-registers", draw_plain(tower, torch.bfloat16, 13), torch.bfloat16, [35, 21], {
        "config.json": {"model_type": "dinov2_with_registers", "num_register_tokens": 4, "image_size": 35, "patch_size": 7, **sizes},
        "preprocessor_config.json": {"size": 35, "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}})

    model = VisionTransformer(24, 6, 2, 2, 64, 72, num_classes=5)
    write("timm-vit", draw_plain(model, torch.float16, 14), torch.float16, [24, 18], {
        "config.json": {"architecture": "vit_tiny_patch6_24", "num_classes": 5, "num_features": 64, "global_pool": "token",
                        "pretrained_cfg": {"input_size": [3, 24, 24], "mean": [0.5, 0.5, 0.5], "std": [0.4, 0.5, 0.6]}}},
          lambda x: torchvision_features(model, x), timm_name)

    write("timm-dinov2-reg4", draw_plain(TimmVit(28, 7, 24, 2, 3, 40, 4), torch.float32, 15), torch.float32, [28, 21, 42], {
        "config.json": {"architecture": "vit_test_patch7_reg4_dinov2", "num_classes": 0, "num_features": 24, "global_pool": "token", "model_args": {"num_heads": 3},
                        "pretrained_cfg": {"input_size": [3, 28, 28], "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}}})

    tower = TransformersVit(21, 7, 24, 2, 3, 16, 1e-6, dinov2=True, gated=True)
    write("transformers-dinov2-gated", draw_plain(tower, torch.float16, 17), torch.float16, [21, 14], {
        "config.json": {"model_type": "dinov2", "hidden_act": "gelu", "use_swiglu_ffn": True, "image_size": 21, "patch_size": 7, **sizes},
        "preprocessor_config.json": {"size": 21, "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}})

    sizes = dict(hidden_size=48, num_hidden_layers=2, num_attention_heads=3)
    write("transformers-dinov3", draw_plain(TransformersDinov3(4, 48, 2, 3, 40, 4, 30), torch.bfloat16, 18), torch.bfloat16, [12, 21], {
        "config.json": {"model_type": "dinov3_vit", "architectures": ["DINOv3ViTModel"], "hidden_act": "gelu", "image_size": 20, "patch_size": 4,
                        "num_register_tokens": 4, "rope_theta": 30.0, "use_gated_mlp": False, **sizes},
        "preprocessor_config.json": {"size": {"height": 12, "width": 12}, "crop_size": None, "do_center_crop": None, "rescale_factor": 1 / 255,
                                     "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}})

    write("timm-dinov3-gated", draw_plain(TimmDinov3(4, 48, 2, 3, 24, 4), torch.float16, 19), torch.float16, [16, 8], {
        "config.json": {"architecture": "vit_test_plus_patch4_dinov3", "num_classes": 0, "num_features": 48, "global_pool": "avg", "model_args": {"num_heads": 3},
                        "pretrained_cfg": {"input_size": [3, 16, 16], "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}}})

    model = draw_plain(ConvNext([1, 1, 2, 1], [8, 8, 16, 24], nn.Identity()), torch.float16, 20)
    write("transformers-dinov3-convnext", model, torch.float16, [32], {
        "config.json": {"model_type": "dinov3_convnext", "hidden_act": "gelu", "image_size": 48, "depths": [1, 1, 2, 1], "hidden_sizes": [8, 8, 16, 24]},
        "preprocessor_config.json": {"size": {"height": 32, "width": 32}, "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}},
          rename=dinov3_convnext_name)

    torch.manual_seed(16)
    table = torch.randn(1, 49, 3, dtype=torch.float64)
    vectors = {"table": table[0].float()}
    for to in (1, 3, 5, 8, 20):
        for antialias in (False, True):
            vectors[f"{to}{'_antialias' if antialias else ''}"] = resample(table.float().double(), to, antialias)[0].float()
    save(os.path.join(HERE, "positions.safetensors"), vectors)


if __name__ == "__main__":
    main()
