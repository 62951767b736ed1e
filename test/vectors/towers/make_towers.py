"""Makes the models and vectors beside it: python3 make_towers.py (Debian's python3-torch).

Every folder is a model of random weights as its users have it on disk, small, with vectors.safetensors: input, image embeddings, and for
models with a text tower token ids and text embeddings, computed in float64 from the rounded weights. The towers are written twice, once
with the modules that OpenAI's names come from and once with transformers', so that the names come from PyTorch's own state dicts.
python3 make_towers.py --full FOLDER writes ViT-B/32 and RN50 at full size there and prints PyTorch's images a second on this CPU.
"""
import json, os, re, struct, sys, time
from collections import OrderedDict
import torch
from torch import nn
from torch.nn import functional as F
from torchvision.models.convnext import CNBlockConfig, ConvNeXt

HERE = os.path.dirname(os.path.abspath(__file__))


class QuickGELU(nn.Module):
    def forward(self, x):
        return x * torch.sigmoid(1.702 * x)


# ---- OpenAI's and open_clip's names ------------------------------------------------------------------------------------------
class Block(nn.Module):
    def __init__(self, width, heads, hidden, act):
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlp = nn.Sequential(OrderedDict(c_fc=nn.Linear(width, hidden), act=act, c_proj=nn.Linear(hidden, width)))

    def forward(self, x, mask=None):
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, need_weights=False, attn_mask=mask)[0]
        return x + self.mlp(self.ln_2(x))


class Stack(nn.Module):
    def __init__(self, width, layers, heads, hidden, act):
        super().__init__()
        self.resblocks = nn.ModuleList([Block(width, heads, hidden, act) for _ in range(layers)])

    def forward(self, x, mask=None):
        for block in self.resblocks:
            x = block(x, mask)
        return x


class VisionTransformer(nn.Module):
    def __init__(self, size, patch, width, layers, heads, hidden, out, act):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, patch, patch, bias=False)
        self.class_embedding = nn.Parameter(torch.zeros(width))
        self.positional_embedding = nn.Parameter(torch.zeros((size // patch) ** 2 + 1, width))
        self.ln_pre, self.ln_post = nn.LayerNorm(width), nn.LayerNorm(width)
        self.transformer = Stack(width, layers, heads, hidden, act)
        self.proj = nn.Parameter(torch.zeros(width, out))

    def forward(self, x):
        x = self.conv1(x).flatten(2).transpose(1, 2)
        first = self.class_embedding.expand(x.shape[0], 1, -1)
        x = self.transformer(self.ln_pre(torch.cat([first, x], 1) + self.positional_embedding))
        return self.ln_post(x[:, 0]) @ self.proj


class Bottleneck(nn.Module):
    def __init__(self, inputs, inner, stride):
        super().__init__()
        conv = lambda a, b, k=1: nn.Conv2d(a, b, k, padding=k // 2, bias=False)
        self.conv1, self.bn1 = conv(inputs, inner), nn.BatchNorm2d(inner)
        self.conv2, self.bn2 = conv(inner, inner, 3), nn.BatchNorm2d(inner)
        self.pool = nn.AvgPool2d(stride)
        self.conv3, self.bn3 = conv(inner, 4 * inner), nn.BatchNorm2d(4 * inner)
        self.downsample = None
        if stride > 1 or inputs != 4 * inner:
            self.downsample = nn.Sequential(OrderedDict([("-1", nn.AvgPool2d(stride)), ("0", conv(inputs, 4 * inner)), ("1", nn.BatchNorm2d(4 * inner))]))

    def forward(self, x):
        y = F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))
        y = self.bn3(self.conv3(self.pool(y)))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class AttentionPool(nn.Module):
    def __init__(self, tokens, width, heads, out):
        super().__init__()
        self.heads = heads
        self.positional_embedding = nn.Parameter(torch.zeros(tokens, width))
        self.q_proj, self.k_proj, self.v_proj = nn.Linear(width, width), nn.Linear(width, width), nn.Linear(width, width)
        self.c_proj = nn.Linear(width, out)

    def forward(self, x):
        x = x.flatten(2).transpose(1, 2)
        x = torch.cat([x.mean(1, keepdim=True), x], 1) + self.positional_embedding
        split = lambda y: y.unflatten(2, (self.heads, -1)).transpose(1, 2)
        q, k, v = split(self.q_proj(x)), split(self.k_proj(x)), split(self.v_proj(x))
        weights = torch.softmax(q @ k.transpose(2, 3) / q.shape[3] ** 0.5, 3)
        return self.c_proj((weights @ v).transpose(1, 2).flatten(2))[:, 0]


class ModifiedResNet(nn.Module):
    def __init__(self, size, layers, width, out):
        super().__init__()
        conv = lambda a, b, s=1: nn.Conv2d(a, b, 3, s, 1, bias=False)
        self.conv1, self.bn1 = conv(3, width // 2, 2), nn.BatchNorm2d(width // 2)
        self.conv2, self.bn2 = conv(width // 2, width // 2), nn.BatchNorm2d(width // 2)
        self.conv3, self.bn3 = conv(width // 2, width), nn.BatchNorm2d(width)
        inputs = width
        for stage, blocks in enumerate(layers):
            inner = width * 2**stage
            rows = []
            for block in range(blocks):
                rows.append(Bottleneck(inputs, inner, 2 if stage and block == 0 else 1))
                inputs = 4 * inner
            setattr(self, f"layer{stage + 1}", nn.Sequential(*rows))
        self.attnpool = AttentionPool((size // 32) ** 2 + 1, inputs, inputs // 64, out)

    def forward(self, x):
        for conv, norm in ((self.conv1, self.bn1), (self.conv2, self.bn2), (self.conv3, self.bn3)):
            x = F.relu(norm(conv(x)))
        x = F.avg_pool2d(x, 2)
        return self.attnpool(self.layer4(self.layer3(self.layer2(self.layer1(x)))))


class ConvNext(nn.Module):
    """torchvision's ConvNeXt with a head as open_clip puts it behind timm's, under their names."""

    def __init__(self, depths, widths, head):
        super().__init__()
        stages = [CNBlockConfig(width, after, blocks) for width, after, blocks in zip(widths, widths[1:] + [None], depths)]
        self.trunk, self.head = ConvNeXt(stages), head
        self.trunk.classifier = self.trunk.classifier[:2]  # the norm, and the map of one position made a vector

    def forward(self, x):
        return self.head(self.trunk(x))

    def renamed(self, name):
        trunk = lambda rest: "trunk." + rest
        for pattern, new in (
            (r"trunk\.features\.0\.(\d)\.(.*)", lambda i, rest: trunk(f"stem.{i}.{rest}")),
            (r"trunk\.features\.(\d)\.(\d)\.(weight|bias)", lambda i, j, rest: trunk(f"stages.{int(i) // 2}.downsample.{j}.{rest}")),
            (r"trunk\.features\.(\d)\.(\d)\.layer_scale", lambda i, j: trunk(f"stages.{int(i) // 2}.blocks.{j}.gamma")),
            (r"trunk\.features\.(\d)\.(\d)\.block\.(\d)\.(.*)", lambda i, j, k, rest: trunk(
                f"stages.{int(i) // 2}.blocks.{j}.{ {'0': 'conv_dw', '2': 'norm', '3': 'mlp.fc1', '5': 'mlp.fc2'}[k]}.{rest}")),
            (r"trunk\.classifier\.0\.(.*)", lambda rest: trunk(f"head.norm.{rest}")),
        ):
            found = re.fullmatch(pattern, name)
            if found:
                return new(*found.groups())
        return name


class Clip(nn.Module):
    """A whole model under OpenAI's names."""

    def __init__(self, visual, words, positions, width, layers, heads, hidden, out, act):
        super().__init__()
        self.visual = visual
        self.token_embedding = nn.Embedding(words, width)
        self.positional_embedding = nn.Parameter(torch.zeros(positions, width))
        self.transformer = Stack(width, layers, heads, hidden, act)
        self.ln_final = nn.LayerNorm(width)
        self.text_projection = nn.Parameter(torch.zeros(width, out))
        self.logit_scale = nn.Parameter(torch.zeros(()))

    def image(self, x):
        return self.visual(x)

    def text(self, ids):
        mask = torch.full((ids.shape[1], ids.shape[1]), float("-inf"), dtype=self.ln_final.weight.dtype).triu(1)
        x = self.ln_final(self.transformer(self.token_embedding(ids) + self.positional_embedding[: ids.shape[1]], mask))
        return x[torch.arange(len(ids)), ids.argmax(1)] @ self.text_projection


# ---- transformers' names -----------------------------------------------------------------------------------------------------
class Attention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x, causal):
        split = lambda y: y.reshape(y.shape[0], y.shape[1], self.heads, -1).transpose(1, 2)
        q, k, v = split(self.q_proj(x)), split(self.k_proj(x)), split(self.v_proj(x))
        scores = q @ k.transpose(2, 3) / q.shape[3] ** 0.5
        if causal:
            scores = scores.masked_fill(torch.ones(x.shape[1], x.shape[1]).triu(1).bool(), float("-inf"))
        return self.out_proj((scores.softmax(3) @ v).transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    def __init__(self, width, hidden, act):
        super().__init__()
        self.fc1, self.fc2, self.act = nn.Linear(width, hidden), nn.Linear(hidden, width), act

    def forward(self, x):
        return self.fc2(self.act(self.fc1(x)))


class Layer(nn.Module):
    def __init__(self, width, heads, hidden, act, eps):
        super().__init__()
        self.layer_norm1, self.layer_norm2 = nn.LayerNorm(width, eps), nn.LayerNorm(width, eps)
        self.self_attn, self.mlp = Attention(width, heads), Mlp(width, hidden, act)

    def forward(self, x, causal):
        x = x + self.self_attn(self.layer_norm1(x), causal)
        return x + self.mlp(self.layer_norm2(x))


class Encoder(nn.Module):
    def __init__(self, width, layers, heads, hidden, act, eps):
        super().__init__()
        self.layers = nn.ModuleList([Layer(width, heads, hidden, act, eps) for _ in range(layers)])

    def forward(self, x, causal=False):
        for layer in self.layers:
            x = layer(x, causal)
        return x


class Empty(nn.Module):
    pass


class VisionModel(nn.Module):
    """CLIP's with a class token, or SigLIP's with a pooling head."""

    def __init__(self, size, patch, width, layers, heads, hidden, act, eps, siglip):
        super().__init__()
        tokens = (size // patch) ** 2
        self.embeddings = Empty()
        self.embeddings.patch_embedding = nn.Conv2d(3, width, patch, patch, bias=siglip)
        self.embeddings.position_embedding = nn.Embedding(tokens + (not siglip), width)
        self.siglip = siglip
        if not siglip:
            self.embeddings.class_embedding = nn.Parameter(torch.zeros(width))
            self.embeddings.register_buffer("position_ids", torch.arange(tokens + 1)[None])
            self.pre_layrnorm = nn.LayerNorm(width, eps)
        self.encoder = Encoder(width, layers, heads, hidden, act, eps)
        self.post_layernorm = nn.LayerNorm(width, eps)
        if siglip:
            self.head = Empty()
            self.head.probe = nn.Parameter(torch.zeros(1, 1, width))
            self.head.attention = nn.MultiheadAttention(width, heads, batch_first=True)
            self.head.layernorm, self.head.mlp = nn.LayerNorm(width, eps), Mlp(width, hidden, act)

    def forward(self, x):
        x = self.embeddings.patch_embedding(x).flatten(2).transpose(1, 2)
        if self.siglip:
            x = self.post_layernorm(self.encoder(x + self.embeddings.position_embedding.weight))
            x = self.head.attention(self.head.probe.expand(len(x), 1, -1), x, x, need_weights=False)[0]
            return (x + self.head.mlp(self.head.layernorm(x)))[:, 0]
        x = torch.cat([self.embeddings.class_embedding.expand(len(x), 1, -1), x], 1) + self.embeddings.position_embedding.weight
        return self.post_layernorm(self.encoder(self.pre_layrnorm(x))[:, 0])


class TextModel(nn.Module):
    """CLIP's, or SigLIP's with a head of its own: not causal, read at the last place."""

    def __init__(self, words, positions, width, layers, heads, hidden, act, eps, siglip_out=None):
        super().__init__()
        self.embeddings = Empty()
        self.embeddings.token_embedding, self.embeddings.position_embedding = nn.Embedding(words, width), nn.Embedding(positions, width)
        self.encoder = Encoder(width, layers, heads, hidden, act, eps)
        self.final_layer_norm = nn.LayerNorm(width, eps)
        if siglip_out:
            self.head = nn.Linear(width, siglip_out)

    def forward(self, ids, end=None):
        x = self.embeddings.token_embedding(ids) + self.embeddings.position_embedding.weight[: ids.shape[1]]
        x = self.final_layer_norm(self.encoder(x, end is not None))
        if end is None:
            return self.head(x[:, -1])
        return x[torch.arange(len(ids)), (ids == end).int().argmax(1)]


class Transformers(nn.Module):
    def __init__(self, vision, text=None, out=None):
        super().__init__()
        self.vision_model = vision
        if out:
            self.visual_projection = nn.Linear(vision.post_layernorm.weight.numel(), out, bias=False)
        if text:
            self.text_model = text
        if text and out:
            self.text_projection = nn.Linear(text.final_layer_norm.weight.numel(), out, bias=False)

    def image(self, x):
        x = self.vision_model(x)
        return self.visual_projection(x) if hasattr(self, "visual_projection") else x

    def text(self, ids, end):
        return self.text_projection(self.text_model(ids, end))


# ---- random weights, rounded as they are stored --------------------------------------------------------------------------------
def draw(model, dtype, seed):
    torch.manual_seed(seed)
    for name, value in model.state_dict().items():
        if not value.is_floating_point():
            continue
        last = name.split(".")[-1]
        if last == "running_var":
            new = 0.5 + torch.rand(value.shape)
        elif last == "running_mean":
            new = 0.3 * torch.randn(value.shape)
        elif value.ndim < 2 and last == "weight":
            new = 1 + 0.2 * torch.randn(value.shape)
        elif value.ndim < 2:
            new = 0.2 * torch.randn(value.shape)
        else:
            fan = value[0].numel() if "proj" != last and "text_projection" != last else value.shape[0]
            new = torch.randn(value.shape) * (1.3 if "embedding" not in name else 0.7 * fan**0.5) / fan**0.5
        value.copy_(new.to(dtype).to(value.dtype))
    return model.double().eval()


BITS = {torch.float16: "F16", torch.bfloat16: "BF16", torch.float32: "F32", torch.int64: "I64"}


def save(path, tensors, metadata=None):
    header, blobs, at = {"__metadata__": metadata or {}}, [], 0
    for name, value in tensors.items():
        value = value.detach().contiguous()
        raw = value.view(torch.int16).numpy().tobytes() if value.dtype in (torch.float16, torch.bfloat16) else value.numpy().tobytes()
        header[name] = {"dtype": BITS[value.dtype], "shape": list(value.shape), "data_offsets": [at, at + len(raw)]}
        blobs.append(raw)
        at += len(raw)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + b"".join(blobs))


def stored(model, dtype):
    named = OrderedDict((k, v.to(dtype) if v.is_floating_point() else v) for k, v in model.state_dict().items())
    if not isinstance(getattr(model, "visual", None), ConvNext):
        return named
    part = lambda k: "visual." + model.visual.renamed(k[len("visual.") :]) if k.startswith("visual.") else k
    return OrderedDict((part(k), v.reshape(-1) if k.endswith("layer_scale") else v) for k, v in named.items())


def write_json(folder, name, value):
    with open(os.path.join(folder, name), "w") as file:
        json.dump(value, file, indent=1)
        file.write("\n")


def ids_of(count, length, words, end):
    """Texts of several lengths: a start token, words, the end token, and it again as padding."""
    rows = torch.full((count, length), end)
    for row in range(count):
        size = length if row == 0 else int(torch.randint(3, length, ()))
        drawn = torch.randint(0, words - 2, (size - 1,))
        rows[row, : size - 1] = drawn + (drawn >= end)
    return rows


def write(name, model, dtype, size, files, text=None, configs=None, out=HERE):
    folder = os.path.join(out, name)
    os.makedirs(folder, exist_ok=True)
    tensors = stored(model, dtype)
    if len(files) == 1:
        save(os.path.join(folder, files[0]), tensors)
    else:  # shards and their index
        names = list(tensors)
        place = {key: files[i * len(files) // len(names)] for i, key in enumerate(names)}
        for file in files:
            save(os.path.join(folder, file), {key: tensors[key] for key in names if place[key] == file})
        write_json(folder, "model.safetensors.index.json", {"metadata": {}, "weight_map": place})
    for file, value in (configs or {}).items():
        write_json(folder, file, value)
    pixels = torch.randn(2, 3, size, size)
    vectors = {"pixels": pixels}
    with torch.no_grad():
        vectors["image_embeds"] = model.image(pixels.double()).float()
        if text:
            words, length, end, encode = text
            ids = ids_of(4, length, words, end)
            vectors |= {"ids": ids, "text_embeds": encode(ids).float()}
    save(os.path.join(folder, "vectors.safetensors"), vectors, {"end": str(text[2])} if text else {})


def small():
    visual = VisionTransformer(32, 8, 64, 2, 1, 128, 24, QuickGELU())
    model = draw(Clip(visual, 90, 12, 64, 1, 1, 128, 24, QuickGELU()), torch.float16, 1)
    write("openai-vit", model, torch.float16, 32, ["model.safetensors"], (90, 12, 89, model.text))

    model = draw(Clip(VisionTransformer(24, 8, 32, 2, 2, 64, 16, nn.GELU()), 90, 12, 32, 2, 4, 64, 16, nn.GELU()), torch.float32, 2)
    write("open-clip-vit", model, torch.float32, 24, ["open_clip_model.safetensors"], (90, 12, 89, model.text), {"open_clip_config.json": {
        "model_cfg": {"embed_dim": 16, "vision_cfg": {"image_size": 24, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8, "mlp_ratio": 2},
                      "text_cfg": {"context_length": 12, "vocab_size": 90, "width": 32, "heads": 4, "layers": 2}},
        "preprocess_cfg": {"mean": [0.1, 0.2, 0.3], "std": [0.5, 0.6, 0.7]}}})
    model.visual.float()
    torch.onnx.export(model.visual, torch.randn(2, 3, 24, 24), os.path.join(HERE, "open-clip-vit", "tower.onnx"), opset_version=14,
                      input_names=["pixel_values"], output_names=["image_embeds"], dynamic_axes={"pixel_values": {0: "n"}, "image_embeds": {0: "n"}})

    model = draw(Clip(ModifiedResNet(64, [1, 2, 1, 1], 4, 24), 90, 12, 64, 1, 1, 64, 24, QuickGELU()), torch.float16, 3)
    write("openai-resnet", model, torch.float16, 64, ["model.safetensors"], (90, 12, 89, model.text))

    vision, text = VisionModel(30, 7, 48, 2, 3, 96, nn.GELU(), 1e-5, False), TextModel(90, 12, 32, 2, 2, 64, nn.GELU(), 1e-5)
    model = draw(Transformers(vision, text, 20), torch.bfloat16, 4)
    write("transformers-clip", model, torch.bfloat16, 30, ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"], (90, 12, 1, lambda ids: model.text(ids, 1)),
          {"config.json": {"model_type": "clip", "architectures": ["CLIPModel"], "projection_dim": 20,
                           "vision_config": {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 3, "image_size": 30, "patch_size": 7, "hidden_act": "gelu"},
                           "text_config": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 12, "vocab_size": 90, "hidden_act": "gelu"}},
           "preprocessor_config.json": {"crop_size": 30, "size": 30, "do_center_crop": True, "image_mean": [0.48, 0.46, 0.41], "image_std": [0.27, 0.26, 0.28]}})

    vision, text = VisionModel(24, 8, 32, 2, 2, 64, nn.GELU("tanh"), 1e-6, True), TextModel(90, 12, 24, 2, 3, 48, nn.GELU("tanh"), 1e-6, 32)
    model = draw(Transformers(vision, text), torch.float16, 5)
    write("siglip", model, torch.float16, 24, ["model.safetensors"], (90, 12, 1, model.text_model), {"config.json": {"model_type": "siglip", "vision_config": {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 24, "patch_size": 8},
        "text_config": {"hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3, "max_position_embeddings": 12, "vocab_size": 90}}})
    model.text_model.float()
    torch.onnx.export(model.text_model, torch.zeros(2, 12, dtype=torch.long), os.path.join(HERE, "siglip", "text.onnx"), opset_version=14,
                      input_names=["input_ids"], output_names=["pooler_output"], dynamic_axes={"input_ids": {0: "n"}, "pooler_output": {0: "n"}})


    for name, seed, depths, head in (
        ("open-clip-convnext", 6, [1, 1, 2, 1], OrderedDict(proj=nn.Linear(48, 24, bias=False))),
        ("open-clip-convnext-mlp", 7, [1, 1, 1, 1], OrderedDict(mlp=nn.Sequential(OrderedDict(fc1=nn.Linear(48, 40), act=nn.GELU(), fc2=nn.Linear(40, 24, bias=False))))),
    ):
        model = draw(Clip(ConvNext(depths, [8, 16, 24, 48], nn.Sequential(head)), 90, 12, 32, 1, 1, 64, 24, nn.GELU()), torch.float16, seed)
        write(name, model, torch.float16, 44, ["open_clip_model.safetensors"], (90, 12, 89, model.text), {"open_clip_config.json": {
            "model_cfg": {"embed_dim": 24, "vision_cfg": {"timm_model_name": "convnext_small", "timm_pool": "", "timm_proj": "".join(head).replace("proj", "linear"), "image_size": 44},
                          "text_cfg": {"context_length": 12, "vocab_size": 90, "width": 32, "heads": 1, "layers": 1}},
            "preprocess_cfg": {"mean": [0.1, 0.2, 0.3], "std": [0.5, 0.6, 0.7]}}})


def full(out):
    for name, visual in (("vit-b-32", VisionTransformer(224, 32, 768, 12, 12, 3072, 512, QuickGELU())), ("rn50", ModifiedResNet(224, [3, 4, 6, 3], 64, 1024))):
        model = Empty()
        model.visual = visual
        model.image = visual.forward
        draw(model, torch.float16, 6)
        write(name, model, torch.float16, 224, ["visual.safetensors"], out=out)
        visual.float()
        pixels = torch.randn(16, 3, 224, 224)
        with torch.no_grad():
            visual(pixels)
            times = []
            for _ in range(5):
                start = time.time()
                visual(pixels)
                times.append(time.time() - start)
        print(f"{name}: PyTorch {torch.__version__}, {torch.get_num_threads()} threads, float32: {16 / sorted(times)[2]:.2f} images/s (median of 5 batches of 16)", flush=True)


if __name__ == "__main__":
    full(sys.argv[2]) if sys.argv[1:2] == ["--full"] else small()
