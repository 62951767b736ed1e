"""Processor time of Pillow and torchvision for MoCo v2's views of a folder of JPEGs, in one thread: python3 bench/moco_views.py FOLDER [SECONDS]. Prints JSON; bench/data.mjs calls it.

Files are read before; what is timed is decoding and every step to the normalised tensor of 224 x 224.
"""
import glob, io, json, random, sys, time

import PIL, torch, torchvision
from PIL import Image, ImageFilter
from torchvision import transforms

folder, seconds = sys.argv[1], float(sys.argv[2]) if len(sys.argv) > 2 else 2.0
torch.set_num_threads(1)
random.seed(0)
torch.manual_seed(0)


class Blur:
    """MoCo v2's own: sigma of 0.1 to 2 pixels."""

    def __call__(self, image):
        return image.filter(ImageFilter.GaussianBlur(radius=random.uniform(0.1, 2)))


views = transforms.Compose([
    transforms.RandomResizedCrop(224, scale=(0.2, 1)),
    transforms.RandomApply([transforms.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
    transforms.RandomGrayscale(p=0.2),
    transforms.RandomApply([Blur()], p=0.5),
    transforms.RandomHorizontalFlip(),
    transforms.ToTensor(),
    transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
])
files = [open(path, "rb").read() for path in sorted(glob.glob(f"{folder}/**/*.[jJ][pP]*[gG]", recursive=True))]
if not files:
    sys.exit(f"no JPEGs in {folder}")


def decode(file):
    return Image.open(io.BytesIO(file)).convert("RGB")


def milliseconds(work):
    """Of processor time an image, over whole rounds of all images."""
    for file in files[:8]:
        work(file)
    images, begun, until = 0, time.process_time(), time.time() + seconds
    while images == 0 or time.time() < until:
        for file in files:
            work(file)
        images += len(files)
    return 1000 * (time.process_time() - begun) / images


print(json.dumps({
    "decode": milliseconds(decode), "views": milliseconds(lambda file: views(decode(file))), "images": len(files),
    "versions": {"pillow": PIL.__version__, "torchvision": torchvision.__version__, "torch": torch.__version__},
}))
