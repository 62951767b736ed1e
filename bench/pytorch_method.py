"""The published method in PyTorch on the demo's data: what `npm run demo -- --full` is compared with. It shares no code with the library.

npm run demo -- --full --prepare full.safetensors
python3 bench/pytorch_method.py full.safetensors [--epochs 120] [--batch 256] [--lr 0.03] [--width 1] [--every 1] [--ratio 1.3333] [--seed 0] [--device cpu] [--precision float32] [--plain-head] [--warm-up]

The student is torchvision's mobilenet_v2 whose classifier keeps its dropout of 0.2 and its last layer (weights N(0, 0.01), no bias), with a hidden layer between them, as published.
The learning rate is the published one at batches of 256: constant for 5 epochs of 120, then the cosine of the whole run, changed once an epoch.
--plain-head --warm-up is what the library does: no dropout, PyTorch's own start values in both layers; a linear warm-up, then a cosine to zero, changed every step.
--ratio: longest side over shortest that a crop may have (1: square crops); --every N: every N-th name only; --width: of the student's channels.
--precision bfloat16 rounds where the library does on CUDA (pytorch_rounding.py); the arithmetic stays float32. It changes no random number, so that runs of one seed see the same views.
Needs torch, torchvision, numpy and Pillow.
"""
import argparse, json, math, struct, time, zlib
from pathlib import Path
import numpy as np, torch, torchvision
from PIL import Image
from torch import nn
from torch.nn import functional as F
from torchvision import transforms
from pytorch_rounding import round_networks

teacher_file = Path(__file__).parent.parent / "test/models/tiny-clip/visual.safetensors"
normalise = transforms.Normalize((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
alpha, student_temperature, teacher_temperature, bank_momentum = 0.5, 0.2, 0.01, 0.99


def read_safetensors(path):
    raw = Path(path).read_bytes()
    size = struct.unpack("<Q", raw[:8])[0]
    header, body = json.loads(raw[8 : 8 + size]), memoryview(raw)[8 + size :]
    metadata = header.pop("__metadata__", {})
    types = {"F32": np.float32, "F16": np.float16, "U8": np.uint8}
    return {name: np.frombuffer(body[slice(*entry["data_offsets"])], types[entry["dtype"]]).reshape(entry["shape"]) for name, entry in header.items()}, metadata


def read_demo(path, every):
    """The text bank [K,D]; for each source its drawings and the bank's row of each."""
    tensors, metadata = read_safetensors(path)
    rows = {label: row for row, label in enumerate(range(0, len(json.loads(metadata["emoji"])), every))}
    sources = {}
    for source, entry in json.loads(metadata["sources"]).items():
        kept = [(drawing, rows[label]) for drawing, label in zip(entry["drawings"], entry["labels"]) if label in rows]
        images = []
        for drawing, _ in kept:
            rgb = np.frombuffer(zlib.decompress(tensors[f"drawing.{drawing}"].tobytes(), -zlib.MAX_WBITS), np.uint8)
            side = math.isqrt(len(rgb) // 3)
            images.append(Image.fromarray(rgb.reshape(side, side, 3)))
        sources[source] = images, torch.tensor([row for _, row in kept])
    return torch.from_numpy(tensors["textual_bank"][list(rows)].copy()), sources


class Bottleneck(nn.Module):
    def __init__(self, channels, inner, stride):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(channels, inner, 1, bias=False), nn.BatchNorm2d(inner)
        self.conv2, self.bn2 = nn.Conv2d(inner, inner, 3, padding=1, bias=False), nn.BatchNorm2d(inner)
        self.conv3, self.bn3 = nn.Conv2d(inner, 4 * inner, 1, bias=False), nn.BatchNorm2d(4 * inner)
        self.pool = nn.AvgPool2d(stride)
        self.downsample = nn.Sequential(nn.Conv2d(channels, 4 * inner, 1, bias=False), nn.BatchNorm2d(4 * inner)) if channels != 4 * inner else nn.Identity()

    def forward(self, x):
        y = F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))
        return F.relu(self.bn3(self.conv3(self.pool(y))) + self.downsample(self.pool(x)))


class AttentionPool(nn.Module):
    def __init__(self, positions, channels, heads, outputs):
        super().__init__()
        self.heads, self.positional_embedding = heads, nn.Parameter(torch.zeros(positions + 1, channels))
        self.q_proj, self.k_proj, self.v_proj, self.c_proj = (nn.Linear(channels, out) for out in (channels, channels, channels, outputs))

    def forward(self, x):
        x = x.flatten(2).transpose(1, 2)
        x = torch.cat([x.mean(1, keepdim=True), x], 1) + self.positional_embedding
        return self.c_proj(self.attend(x))

    def attend(self, x):
        q, k, v = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in (self.q_proj(x[:, :1]), self.k_proj(x), self.v_proj(x)))
        attention = (q @ k.transpose(2, 3) / math.sqrt(q.shape[-1])).softmax(3)
        return (attention @ v).flatten(1)


class Teacher(nn.Module):
    """CLIP's ModifiedResNet (Radford et al. 2021, section 2.4) at the size of test/models/tiny-clip."""

    def __init__(self, width=24, heads=12, outputs=256):
        super().__init__()
        for i, (channels, out) in enumerate([(3, width // 2), (width // 2, width // 2), (width // 2, width)], 1):
            self.add_module(f"conv{i}", nn.Conv2d(channels, out, 3, 2 if i == 1 else 1, 1, bias=False))
            self.add_module(f"bn{i}", nn.BatchNorm2d(out))
        stage = lambda channels, inner, stride: nn.Sequential(Bottleneck(channels, inner, stride), Bottleneck(4 * inner, inner, 1))
        self.layer1, self.layer2 = stage(width, width, 1), stage(4 * width, 2 * width, 2)
        self.layer3, self.layer4 = stage(8 * width, 4 * width, 2), stage(16 * width, 8 * width, 2)
        self.attnpool = AttentionPool(4, 32 * width, heads, outputs)
        weights, _ = read_safetensors(teacher_file)
        missing, unexpected = self.load_state_dict({name.removeprefix("visual."): torch.from_numpy(value.astype(np.float32)) for name, value in weights.items()}, strict=False)
        assert not unexpected and all(name.endswith("num_batches_tracked") for name in missing)
        self.eval().requires_grad_(False)

    def forward(self, x):
        for conv, norm in ((self.conv1, self.bn1), (self.conv2, self.bn2), (self.conv3, self.bn3)):
            x = F.relu(norm(conv(x)))
        return self.attnpool(self.layer4(self.layer3(self.layer2(self.layer1(F.avg_pool2d(x, 2))))))


def make_student(dimension, width, plain_head):
    student = torchvision.models.mobilenet_v2(num_classes=dimension, width_mult=width)
    dropout, last = student.classifier
    hidden = nn.Linear(last.in_features, last.in_features)
    if plain_head:
        dropout, last = nn.Identity(), nn.Linear(last.in_features, dimension)
    student.classifier = nn.Sequential(dropout, hidden, nn.ReLU(), last)
    return student


class Banks:
    """Both banks: the loss over them, and how the teacher's embeddings move the visual one."""

    def __init__(self, textual):
        self.textual, self.visual = textual, F.normalize(torch.randn_like(textual), dim=1)
        self.seen = torch.zeros(len(textual), dtype=torch.bool, device=textual.device)

    def loss(self, student, teacher):
        def scores(z):
            return torch.cat([(z * teacher).sum(1, keepdim=True), z @ self.visual.T], 1), z @ self.textual.T

        parts = [-((t / teacher_temperature).softmax(1) * (s / student_temperature).log_softmax(1)).sum(1).mean() for s, t in zip(scores(student), scores(teacher))]
        return alpha * parts[0] + (1 - alpha) * parts[1]

    def update(self, teacher):
        nearest = (teacher @ self.textual.T).argmax(1)
        self.visual = self.visual.clone()  # the loss's graph holds the old one
        for k in nearest.unique():
            mean = teacher[nearest == k].mean(0)
            self.visual[k] = bank_momentum * self.visual[k] + (1 - bank_momentum) * mean if self.seen[k] else mean
            self.seen[k] = True


def to_batch(images, device):
    pixels = torch.stack([torch.from_numpy(np.array(image)) for image in images]).to(device)
    return normalise(pixels.permute(0, 3, 1, 2).float() / 255)


@torch.no_grad()
def accuracy(encoder, images, labels, textual, device):
    encoder.eval()
    top = torch.cat([(encoder(to_batch(images[i : i + 256], device)) @ textual.T).topk(5).indices.cpu() for i in range(0, len(images), 256)])
    return " ".join(f"top-{k} {100 * (top[:, :k] == labels[:, None]).any(1).float().mean():.1f} %" for k in (1, 5))


def learning_rate(step, steps, options):
    """Of step `step` of the run, counted from 0; `steps` an epoch. A 24th of the run is the flat part, or the warm-up."""
    epoch, total, warm = step // steps, steps * options.epochs, round(steps * options.epochs / 24)
    if not options.warm_up:
        return options.lr * (1 if epoch < options.epochs / 24 else (1 + math.cos(math.pi * epoch / options.epochs)) / 2)
    return options.lr * ((step + 1) / warm if step < warm else (1 + math.cos(math.pi * (step - warm) / (total - warm))) / 2)


def main(options):
    torch.manual_seed(options.seed)
    device = torch.device(options.device)
    textual, sources = read_demo(options.file, options.every)
    textual = textual.to(device)
    images, _ = sources["train"]
    augment = transforms.Compose([
        transforms.RandomResizedCrop(64, scale=(0.2, 1), ratio=(1 / options.ratio, options.ratio)),
        transforms.RandomApply([transforms.ColorJitter(0.4, 0.4, 0.4)], 0.8),
        transforms.RandomGrayscale(0.2),
        transforms.RandomHorizontalFlip(),
    ])
    teacher, student = Teacher().to(device), make_student(textual.shape[1], options.width, options.plain_head).to(device)
    if options.precision == "bfloat16":
        round_networks(student, teacher)
    banks = Banks(textual)
    optimiser = torch.optim.SGD(student.parameters(), options.lr, momentum=0.9, weight_decay=1e-4)
    steps = len(images) // options.batch
    start = time.time()
    for epoch in range(options.epochs):
        student.train()
        total = 0.0
        for step, batch in enumerate(torch.randperm(len(images))[: steps * options.batch].split(options.batch)):
            optimiser.param_groups[0]["lr"] = learning_rate(epoch * steps + step, steps, options)
            views = to_batch([augment(images[i]) for i in batch], device)
            target = F.normalize(teacher(views), dim=1)
            loss = banks.loss(F.normalize(student(views), dim=1), target)
            banks.update(target)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            total += float(loss)
        print(f"epoch {epoch + 1}/{options.epochs}  loss {total / steps:.3f}  {time.time() - start:.0f} s", flush=True)
    for source, (drawings, labels) in sources.items():
        print(f"{source}: teacher {accuracy(teacher, drawings, labels, textual, device)}; student {accuracy(student, drawings, labels, textual, device)}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file")
    for name, default in {"epochs": 120, "batch": 256, "lr": 0.03, "width": 1.0, "every": 1, "ratio": 4 / 3, "seed": 0, "device": "cpu"}.items():
        parser.add_argument(f"--{name}", type=type(default), default=default)
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    for name in ("plain-head", "warm-up"):
        parser.add_argument(f"--{name}", action="store_true")
    main(parser.parse_args())
