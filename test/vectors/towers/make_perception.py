"""Makes the PE-Core model beside it and its vectors, as make_towers.py does: python3 make_perception.py.

The image tower is written from Perception Encoder's paper and code, under the names that open_clip keeps it by: timm's behind
visual.trunk. Pairs of channels turn as complex numbers. image_embeds_without_class is what the tower gives without its class token,
whose row of the positions is left out too, as the largest of these models is built: its first row and column are 0, not 1.
"""
import os
import torch
from torch import nn
from torch.nn import functional as F
from make_towers import HERE, Clip, Empty, draw, ids_of, save, stored, write_json


def turn(x, first, offset):
    """[B,heads,T,W]: the tokens behind the first ones, by their column and by their row."""
    tokens = x.shape[2] - first
    side, quarter = int(tokens**0.5), x.shape[3] // 4
    places = torch.arange(side, dtype=torch.float64) + offset
    angles = places[:, None] / 10000 ** (torch.arange(quarter, dtype=torch.float64) / quarter)
    by_column, by_row = angles.repeat(side, 1), angles.repeat_interleave(side, 0)
    angles = torch.cat([by_column, by_row], 1)
    pairs = torch.view_as_complex(x[:, :, first:].unflatten(3, (-1, 2)).contiguous())
    turned = torch.view_as_real(pairs * torch.polar(torch.ones_like(angles), angles)).flatten(3)
    return torch.cat([x[:, :, :first], turned], 2)


def attend(q, k, v, heads, first=None, offset=0):
    q, k, v = (y.unflatten(2, (heads, -1)).transpose(1, 2) for y in (q, k, v))
    if first is not None:
        q, k = turn(q, first, offset), turn(k, first, offset)
    return (torch.softmax(q @ k.transpose(2, 3) * q.shape[3] ** -0.5, 3) @ v).transpose(1, 2).flatten(2)


class Mlp(nn.Module):
    def __init__(self, width, hidden):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x):
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    def __init__(self, width, heads, hidden):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn, self.mlp = Empty(), Mlp(width, hidden)
        self.attn.qkv, self.attn.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x, first):
        q, k, v = self.attn.qkv(self.norm1(x)).chunk(3, 2)
        x = x + self.attn.proj(attend(q, k, v, self.heads, first, offset=first))
        return x + self.mlp(self.norm2(x))


class Pool(nn.Module):
    def __init__(self, width, hidden):
        super().__init__()
        self.latent = nn.Parameter(torch.zeros(1, 1, width))
        self.q, self.kv, self.proj = nn.Linear(width, width), nn.Linear(width, 2 * width), nn.Linear(width, width)
        self.norm, self.mlp = nn.LayerNorm(width), Mlp(width, hidden)

    def forward(self, x):
        k, v = self.kv(x).chunk(2, 2)
        x = self.proj(attend(self.q(self.latent.expand(len(x), -1, -1)), k, v, 8))
        return (x + self.mlp(self.norm(x)))[:, 0]


class Trunk(nn.Module):
    def __init__(self, size, patch, width, layers, heads, hidden, pool_hidden, out):
        super().__init__()
        self.patch_embed = Empty()
        self.patch_embed.proj = nn.Conv2d(3, width, patch, patch, bias=False)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, (size // patch) ** 2 + 1, width))
        self.norm_pre, self.norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.blocks = nn.ModuleList([Block(width, heads, hidden) for _ in range(layers)])
        self.attn_pool, self.head = Pool(width, pool_hidden), nn.Linear(width, out)

    def forward(self, x, classes=1):
        x = self.patch_embed.proj(x).flatten(2).transpose(1, 2)
        if classes:
            x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1)
        x = self.norm_pre(x + self.pos_embed[:, 1 - classes :])
        for block in self.blocks:
            x = block(x, classes)
        return self.head(self.attn_pool(self.norm(x)))


def main():
    visual = Empty()
    visual.trunk = Trunk(16, 4, 48, 2, 3, 40, 32, 24)
    model = draw(Clip(visual, 90, 12, 32, 1, 1, 64, 24, nn.GELU()), torch.float16, 21)
    for name, value in visual.trunk.named_parameters():
        if name in ("cls_token", "pos_embed", "attn_pool.latent"):
            value.data = (0.7 * torch.randn(value.shape)).half().double()
    folder = os.path.join(HERE, "open-clip-perception")
    os.makedirs(folder, exist_ok=True)
    part = lambda name: name if name.startswith("visual.") or name == "logit_scale" else f"text.{name}"
    save(os.path.join(folder, "open_clip_model.safetensors"), {part(name): value for name, value in stored(model, torch.float16).items()})
    write_json(folder, "open_clip_config.json", {
        "model_cfg": {"embed_dim": 24, "custom_text": True, "vision_cfg": {"timm_model_name": "vit_pe_core_test_patch4_16", "timm_pool": "map", "timm_proj": None, "image_size": 16, "head_width": 16},
                      "text_cfg": {"context_length": 12, "vocab_size": 90, "width": 32, "heads": 1, "layers": 1}},
        "preprocess_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.4, 0.5, 0.6]}})
    pixels, ids = torch.randn(2, 3, 16, 16), ids_of(4, 12, 90, 89)
    with torch.no_grad():
        save(os.path.join(folder, "vectors.safetensors"), {
            "pixels": pixels, "image_embeds": visual.trunk(pixels.double()).float(),
            "image_embeds_without_class": visual.trunk(pixels.double(), 0).float(), "ids": ids, "text_embeds": model.text(ids).float()}, {"end": "89"})


if __name__ == "__main__":
    main()
