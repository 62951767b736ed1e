"""Images a second that PyTorch trains on the CPU: forward, backward and SGD, as `lgdistill bench` measures ours. For comparisons side by side.

python3 bench/pytorch_training.py [model [resolution [batch [threads]]]]     default: mobilenet_v2 64 64 2
"""
import statistics, sys, time
import torch, torchvision

model, resolution, batch, threads = (sys.argv[1:] + ["mobilenet_v2", "64", "64", "2"][len(sys.argv) - 1:])[:4]
torch.set_num_threads(int(threads))
for layout in (torch.contiguous_format, torch.channels_last):
    net = getattr(torchvision.models, model)(num_classes=256).train().to(memory_format=layout)
    optimiser = torch.optim.SGD(net.parameters(), lr=1e-6, momentum=0.9)
    images = torch.randn(int(batch), 3, int(resolution), int(resolution)).to(memory_format=layout)
    gradient = torch.randn(int(batch), 256) * 1e-3

    def step():
        optimiser.zero_grad(set_to_none=True)
        net(images).backward(gradient)
        optimiser.step()

    for _ in range(3):
        step()
    times = []
    until = time.perf_counter() + 8
    while time.perf_counter() < until:
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    print(f"PyTorch {torch.__version__} {model} {resolution} px batch {batch}, {threads} threads, {layout}: {int(batch) / statistics.median(times):.0f} images/s")
