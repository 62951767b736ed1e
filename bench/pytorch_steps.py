"""Whole distillation steps in PyTorch, for comparison with scripts/gpu-check's: teacher, student, loss and a vectorised bank update.

The fastest way we know: bfloat16, what stays float32 in TF32, channels_last, teacher + student + loss + bank update compiled as one program by torch.compile,
SGD fused; with the whole step in one CUDA graph and without, of which a row is the faster. torch.compile's mode is its default unless --mode names another
(max-autotune-no-cudagraphs tries more kernels, for minutes a network). Images are on the device already: no augmentation and no copy, which our own rows include.
On a machine without a GPU, or with a PyTorch without torch.compile, the same step runs as it is (--small), which only shows that it works.

The rows that say most come first. One whose compiling and measuring would not end within --seconds, by the longest before it, is not begun; one that does not end
is given up. Both are printed as SKIPPED.

  python3 bench/pytorch_steps.py [--rows FILE] [--seconds N] [--students a,b] [--resolutions 224,64] [--mode NAME] [--compiled FILE]
  python3 bench/pytorch_steps.py --compile-only        fills the compiler's cache on disk, so that a later call spends its time measuring; --compiled FILE: what it got to
  python3 bench/pytorch_steps.py --ceiling             prints what a large bfloat16 matrix product reaches, in TFLOP/s
"""
import argparse
import contextlib
import gc
import json
import os
import signal
import statistics
import sys
import time

import torch
from torch import nn
from torch.nn import functional as F

STUDENT_TEMPERATURE, TEACHER_TEMPERATURE, ALPHA, MOMENTUM = 0.2, 0.01, 0.5, 0.99


class Bottleneck(nn.Module):
    """CLIP's: strides are average pools before the convolutions that would have had them."""

    def __init__(self, channels, inner, stride):
        super().__init__()
        out = 4 * inner
        norm = nn.BatchNorm2d
        pool = nn.AvgPool2d(stride) if stride > 1 else nn.Identity()
        relu = nn.ReLU()
        self.main = nn.Sequential(
            nn.Conv2d(channels, inner, 1, bias=False), norm(inner), relu,
            nn.Conv2d(inner, inner, 3, padding=1, bias=False), norm(inner), relu, pool,
            nn.Conv2d(inner, out, 1, bias=False), norm(out))
        changes = stride > 1 or channels != out
        self.shortcut = nn.Sequential(pool, nn.Conv2d(channels, out, 1, bias=False), norm(out)) if changes else nn.Identity()

    def forward(self, x):
        return F.relu(self.main(x) + self.shortcut(x))


class AttentionPool(nn.Module):
    """One query, the mean, over all positions and itself."""

    def __init__(self, positions, channels, heads, outputs):
        super().__init__()
        self.heads = heads
        self.position = nn.Parameter(torch.randn(positions + 1, channels) / channels**0.5)
        self.q, self.k, self.v = (nn.Linear(channels, channels) for _ in range(3))
        self.out = nn.Linear(channels, outputs)

    def forward(self, x):
        x = x.flatten(2).transpose(1, 2)
        tokens = torch.cat([x.mean(1, keepdim=True), x], 1) + self.position
        split = lambda y: y.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        q, k, v = split(self.q(tokens[:, :1])), split(self.k(tokens)), split(self.v(tokens))
        scores = (q @ k.transpose(-1, -2)) / q.shape[-1] ** 0.5
        return self.out((scores.softmax(-1) @ v).transpose(1, 2).flatten(2)[:, 0])


def image_tower(layers, width, heads, outputs, resolution):
    """CLIP's ModifiedResNet with random weights."""
    unit = lambda a, b, stride=1: [nn.Conv2d(a, b, 3, stride=stride, padding=1, bias=False), nn.BatchNorm2d(b), nn.ReLU()]
    parts = [*unit(3, width // 2, 2), *unit(width // 2, width // 2), *unit(width // 2, width), nn.AvgPool2d(2)]
    channels = width
    for stage, blocks in enumerate(layers):
        for block in range(blocks):
            inner = width * 2**stage
            parts.append(Bottleneck(channels, inner, 2 if stage > 0 and block == 0 else 1))
            channels = 4 * inner
    return nn.Sequential(*parts, AttentionPool((resolution // 32) ** 2, channels, heads, outputs))


def student_of(name, outputs):
    """torchvision's network with the recipe's head: pooled features, a hidden layer as wide, ReLU, the embedding."""
    import torchvision

    net = getattr(torchvision.models, name)()
    width = net.fc.in_features if name == "resnet18" else next(m for m in net.classifier.modules() if isinstance(m, nn.Linear)).in_features
    head = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, outputs))
    if name == "resnet18":
        net.fc = head
    else:
        net.classifier = head
    return net


def sgd_of(parameters):
    """Fused where this PyTorch has it (2.3): one kernel for many tensors, which foreach takes several for."""
    options = dict(lr=1e-4, momentum=0.9, weight_decay=1e-4)
    parameters = list(parameters)
    try:
        return torch.optim.SGD(parameters, fused=True, **options), "fused SGD"
    except (TypeError, RuntimeError):
        return torch.optim.SGD(parameters, foreach=True, **options), "foreach SGD"


class Step:
    """One distillation step, or without a student's name its teacher alone; every tensor stays where it is, so that it can be captured."""

    def __init__(self, name, resolution, args, device):
        torch.manual_seed(1)
        D, K, B = args.dimension, args.categories, args.batch
        memory = dict(memory_format=torch.channels_last)
        self.type = torch.bfloat16 if device.type == "cuda" else torch.float32
        self.device = device
        self.student = None if name is None else student_of(name, D).to(device, **memory).train()
        layers, width, heads = ([1, 1, 1, 1], 8, 4) if args.small else ([3, 4, 6, 3], 64, 32)
        self.teacher = image_tower(layers, width, heads, D, resolution).to(device, self.type, **memory).eval().requires_grad_(False)
        self.images = torch.randn(B, 3, resolution, resolution, device=device, dtype=self.type).to(**memory)
        unit = lambda: F.normalize(torch.randn(K, D, device=device), dim=1)
        self.textual, self.visual, self.seen = unit(), unit(), torch.zeros(K, 1, dtype=torch.bool, device=device)
        self.optimiser, self.update = (None, "") if name is None else sgd_of(self.student.parameters())

    def cast(self):
        return torch.autocast("cuda", dtype=self.type, cache_enabled=False) if self.device.type == "cuda" else contextlib.nullcontext()

    def loss(self):
        with self.cast():
            with torch.no_grad():
                teacher = F.normalize(self.teacher(self.images).float(), dim=1)
            student = F.normalize(self.student(self.images).float(), dim=1)
        L, V = self.textual, self.visual
        with torch.no_grad():
            teacher_textual = teacher @ L.T
            teacher_visual = torch.cat([(teacher * teacher).sum(1, keepdim=True), teacher @ V.T], 1)
        student_textual = student @ L.T
        student_visual = torch.cat([(student * teacher).sum(1, keepdim=True), student @ V.T], 1)
        part = lambda t, s: -((t / TEACHER_TEMPERATURE).softmax(1) * (s / STUDENT_TEMPERATURE).log_softmax(1)).sum(1).mean()
        loss = ALPHA * part(teacher_visual, student_visual) + (1 - ALPHA) * part(teacher_textual, student_textual)
        with torch.no_grad():
            place = teacher_textual.argmax(1)
            sums = torch.zeros_like(V).index_add_(0, place, teacher)
            counts = torch.zeros(len(V), 1, device=V.device).index_add_(0, place, torch.ones(len(place), 1, device=V.device))
            mean = sums / counts.clamp(min=1)
            moved = torch.where(self.seen, MOMENTUM * V + (1 - MOMENTUM) * mean, mean)
            bank = torch.where(counts > 0, moved, V), self.seen | (counts > 0)  # written once the gradient has been taken, which needs the old one
        return loss, bank

    def student_alone(self):
        with self.cast():
            return self.student(self.images).float().square().mean(), None

    def teacher_alone(self):
        with self.cast(), torch.no_grad():
            return self.teacher(self.images).float().square().mean(), None


def train(program, step):
    step.optimiser.zero_grad(set_to_none=True)
    loss, bank = program()
    loss.backward()
    step.optimiser.step()
    if bank is not None:
        step.visual.copy_(bank[0])
        step.seen.copy_(bank[1])
    return loss, bank


def in_graph(call):
    """The call captured as one CUDA graph, warmed up on a side stream as PyTorch asks for."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def measure(call, device, seconds):
    """Milliseconds a call, percentiles of samples that fill about 50 ms each."""
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None

    def once(calls):
        wait()
        start = time.perf_counter()
        for _ in range(calls):
            call()
        wait()
        return 1000 * (time.perf_counter() - start) / calls

    for _ in range(3):
        one = once(1)
    calls = max(1, round(50 / one))
    until, samples = time.perf_counter() + seconds, []
    while len(samples) < 3 or time.perf_counter() < until:
        samples.append(once(calls))
    p20, p50, p80 = (statistics.quantiles(samples, n=10)[i] for i in (1, 4, 7))
    return dict(p20=p20, p50=p50, p80=p80)


def variants(args):
    """What is measured, the most telling first; a later one may not be reached."""
    whole = [("whole step", name, resolution) for resolution in args.resolutions for name in args.students]
    parts = [("student alone", name, args.resolutions[0]) for name in args.students] + [("teacher alone", "teacher", args.resolutions[0])]
    return whole + parts


def peak(device, call):
    """What a call gives, and the most bytes of device memory meanwhile (None: not told)."""
    if device.type != "cuda":
        return call(), None
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    return call(), torch.cuda.max_memory_allocated()


def faster(call, device, seconds):
    """The call by itself or in one CUDA graph, whichever takes less: its times and peak, what to add to how it ran, and the other's time in words."""
    times, most = peak(device, lambda: measure(call, device, seconds))
    if device.type != "cuda":
        return times, most, "", ""
    try:
        graph_times, graph_most = peak(device, lambda: measure(in_graph(call), device, seconds))
    except (Exception, OutOfTime) as error:  # what cannot be captured, or not in time, runs without
        return times, most, "", f"a CUDA graph: {type(error).__name__}"
    if graph_times["p50"] < times["p50"]:
        return graph_times, graph_most, ", CUDA graph", f"without a graph {times['p50']:.3f} ms"
    return times, most, ", no CUDA graph", f"in a graph {graph_times['p50']:.3f} ms"


def run(what, name, resolution, args, device):
    step = Step(None if name == "teacher" else name, resolution, args, device)
    plain = {"whole step": step.loss, "student alone": step.student_alone, "teacher alone": step.teacher_alone}[what]
    program = torch.compile(plain, mode=args.mode) if args.compiles else plain
    call = program if what == "teacher alone" else (lambda: train(program, step))
    how = [f"torch.compile ({args.mode or 'default'} mode)" if args.compiles else "eager", str(step.type).split(".")[1], step.update]
    before, value = plain()[0].item(), call()[0].item()
    if not abs(value / before - 1) < 0.1:
        raise RuntimeError(f"compiled it gives {value}, uncompiled {before}")
    if args.compile_only:
        return None
    times, most, graph, other = faster(call, device, args.each)
    row = dict(part="steps", framework="pytorch", what=what, student=name, resolution=resolution, batch=args.batch, unit="ms", how=", ".join(filter(None, how)) + graph, other=other, version=torch.__version__, **times)
    row["imagesPerSecond"] = 1000 * args.batch / row["p50"]
    if most is not None:
        row["peakBytes"] = most
    return row


class OutOfTime(BaseException):
    """No Exception, which compilers catch and go on after."""


class Budget:
    """The seconds of all variants together, and what one takes: the longest so far, of those that the compiler's cache holds and of the others."""

    def __init__(self, args):
        self.seconds, self.until = args.seconds, time.perf_counter() + args.seconds
        self.takes = {True: args.warm, False: args.cold}
        self.known = set()  # of which kinds one has been taken

    def left(self):
        return self.until - time.perf_counter()

    def refuses(self, warm):
        """Why one more is not begun; None where it is."""
        if self.left() >= self.takes[warm]:
            return None
        kind = "with what is compiled" if warm else "with its compiling"
        return f"{max(self.left(), 0):.0f} of {self.seconds:.0f} s are left, and it takes about {self.takes[warm]:.0f} {kind}"

    @contextlib.contextmanager
    def one(self, warm):
        """Ends a variant by OutOfTime when the time of all is over."""
        def stop(*_):
            raise OutOfTime(f"not done when {self.seconds:.0f} s were over")

        started = time.perf_counter()
        signal.signal(signal.SIGALRM, stop)
        signal.setitimer(signal.ITIMER_REAL, max(self.left(), 1e-3))
        try:
            yield
            taken = time.perf_counter() - started
            self.takes[warm] = max(self.takes[warm], taken) if warm in self.known else taken
            self.known.add(warm)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)


def ceiling():
    if not torch.cuda.is_available():
        sys.exit("no CUDA device: no ceiling")
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    milliseconds = measure(lambda: a @ b, torch.device("cuda"), 1)["p50"]
    print(f"{2 * 8192**3 / milliseconds / 1e9:.1f}")


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", help="file that rows are added to as JSON, a line each")
    parser.add_argument("--seconds", type=float, default=600, help="for all variants together")
    parser.add_argument("--cold", type=float, default=90, help="seconds that the first variant is taken to need with its compiling")
    parser.add_argument("--warm", type=float, default=30, help="the same where the compiler's cache holds it")
    parser.add_argument("--each", type=float, default=1.5, help="seconds of measuring each way")
    parser.add_argument("--students", default="resnet18,mobilenet_v2,mobilenet_v3_large,efficientnet_b0")
    parser.add_argument("--resolutions", default="224,64")
    parser.add_argument("--mode", help="of torch.compile, if not its default")
    parser.add_argument("--compiled", help="file of the variants that the compiler's cache holds, which --compile-only writes")
    parser.add_argument("--small", action="store_true", help="tiny sizes, to see that it works")
    parser.add_argument("--compile-only", action="store_true")
    parser.add_argument("--ceiling", action="store_true")
    args = parser.parse_args()
    args.batch, args.dimension, args.categories = 256, 1024, 1000
    args.students, args.resolutions = args.students.split(","), [int(r) for r in args.resolutions.split(",")]
    if args.small:
        args.batch, args.dimension, args.categories, args.each = 4, 32, 10, 0.0
        args.students, args.resolutions = ["mobilenet_v2"], [32]
    return args


def is_there(label, args):
    """Whether a call of --compile-only has compiled it, or there is nothing to compile."""
    if not args.compiles:
        return True
    if not args.compiled or not os.path.exists(args.compiled):
        return False
    with open(args.compiled) as file:
        return label in file.read().splitlines()


def add_line(path, line):
    if path:
        with open(path, "a") as file:
            file.write(line + "\n")


def forget():
    """So that the next variant is compiled as the first would be: for its own sizes alone."""
    if hasattr(torch, "_dynamo"):
        torch._dynamo.reset()
    gc.collect()


def tell(label, row):
    most = f", at most {row['peakBytes'] / 1e9:.2f} GB" if "peakBytes" in row else ""
    other = f" ({row['other']})" if row["other"] else ""
    print(f"  pytorch   {label:<58} {row['p50']:.3f} ms ({row['p20']:.3f} to {row['p80']:.3f}), {row['imagesPerSecond']:.0f} images/s, {row['how']}{other}{most}", flush=True)


def take(variant, label, args, device, budget):
    """A variant's row, None where it was to be compiled only, or the word and the reason for there being none."""
    warm = is_there(label, args)
    # What is given up half compiled is in the cache as far as it got, so that compiling alone begins everything.
    refusal = budget.refuses(warm) if not args.compile_only else "the time is over" if budget.left() <= 0 else None
    if refusal:
        return "SKIPPED", refusal
    try:
        with budget.one(warm):
            return run(*variant, args, device)
    except OutOfTime as error:
        return "SKIPPED", str(error)
    except Exception as error:  # out of memory, no torchvision, or something that this PyTorch cannot compile: costs no other row
        return "NOT MEASURED", f"{type(error).__name__}: {error}"
    finally:
        forget()


def main():
    args = arguments()
    torch.backends.cudnn.benchmark = True
    if args.ceiling:
        return ceiling()
    torch.set_float32_matmul_precision("high")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    args.compiles = device.type == "cuda" and hasattr(torch, "compile")
    print(f"PyTorch {torch.__version__}, {torch.cuda.get_device_name() if device.type == 'cuda' else 'CPU'}; images are on the device already, no augmentation")
    budget, started = Budget(args), time.perf_counter()
    for variant in variants(args):
        what, name, resolution = variant
        label = f"{name} {resolution} px: {what}"
        found = take(variant, label, args, device, budget)
        if found is None:
            print(f"compiled {label}, {time.perf_counter() - started:.0f} s", flush=True)
            add_line(args.compiled, label)
        elif isinstance(found, tuple):
            word, reason = found
            print(f"{word} {label}: {reason}", flush=True)
            add_line(args.rows, json.dumps(dict(part="pytorch", name=label, value=f"{word}: {reason}")))
        else:
            tell(label, found)
            add_line(args.rows, json.dumps(found))


if __name__ == "__main__":
    main()
