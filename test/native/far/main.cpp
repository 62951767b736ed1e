// Kernels at sizes that nobody could run whole: batches of more than 2^32 elements a tensor, where 32 bits do not
// reach. On the emulated GPU alone (test/native/emulated-programs.test.ts): its memory takes none until it is touched,
// and of a launch only those blocks run that have the images of interest, at the beginning of a batch, in its middle
// and at its end. All others are zeros. What the kernels make of these images is held to the CPU's result for them
// alone, and no page of a tensor may have been touched, by a load or a store, that lies elsewhere.
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "core/cuda_device.cuh"
#include "cuda_ops/run.h"

namespace {

using namespace lgd;

constexpr int each = 2, count = 3 * each;  // images of a place, and of all places
constexpr int images = 65535;

struct Place {
  int64_t first, end;
};
double parts_an_image = 0;  // 0: a part of the work is a block
std::vector<Place> places() { return {{0, each}, {images / 2, images / 2 + each}, {images - each, images}}; }

// The blocks of those images, along the longest side of a launch, of which every block has a part of the work: in the
// order of the images, or turned around.
std::vector<int64_t> blocks_of_places(const Launch& launch) {
  const int64_t grid[3] = {launch.grid.x, launch.grid.y, launch.grid.z};
  const int longest = int(std::max_element(grid, grid + 3) - grid);
  const int64_t length = grid[longest];
  const double parts = parts_an_image > 0 ? parts_an_image : double(length) / images;
  const std::string name = launch.name;
  const bool all = length < 256 || name.find("partial_sums") != name.npos || name.find("finish") != name.npos;
  std::vector<char> wanted(size_t(length), all);
  for (const Place& place : places())
    for (int64_t at = std::max(int64_t(0), int64_t(double(place.first) * parts) - 1);
         at <= int64_t(double(place.end) * parts) + 1; ++at)
      wanted[size_t(at % length)] = wanted[size_t(length - 1 - at % length)] = 1;
  std::vector<int64_t> blocks;
  for (int64_t block = 0; block < grid[0] * grid[1] * grid[2]; ++block) {
    const int64_t at[3] = {block % grid[0], block / grid[0] % grid[1], block / (grid[0] * grid[1])};
    if (wanted[size_t(at[longest])]) blocks.push_back(block);
  }
  return blocks;
}

// One run of an operation: on the CPU with the images of all places side by side, on the GPU with these in their places
// of a batch.
class Side {
 public:
  Side(std::shared_ptr<Device> device_, bool far_)
      : device(std::move(device_)),
        far(far_),
        n(far_ ? images : count),
        type(far_ ? DType::bf16 : DType::f32),
        ops(*device->kernels),
        random_(1) {}
  const std::shared_ptr<Device> device;
  const bool far;
  const int n;
  const DType type;
  const Kernels& ops;

  // Tensors of so many elements an image.
  void* input(int64_t elements, float scale = 1) { return put(elements, type, draw(elements * count, scale), false); }
  void* output(int64_t elements) { return put(elements, type, std::vector<float>(size_t(elements * count)), true); }
  void* sum(int64_t elements) { return sum_of(elements, type); }
  void* sum_of(int64_t elements, DType as) { return put(elements, as, draw(elements * count, 1), true); }
  float* input32(int64_t elements) {
    return static_cast<float*>(put(elements, DType::f32, draw(elements * count, 1), false));
  }
  float* output32(int64_t elements) {
    return static_cast<float*>(put(elements, DType::f32, std::vector<float>(size_t(elements * count)), true));
  }
  // Of the whole batch.
  void* shared(int64_t elements, float scale = 1) { return whole(draw(elements, scale), type, false); }
  float* shared32(int64_t elements, float scale = 1, float offset = 0) {
    return static_cast<float*>(whole(draw(elements, scale, offset), DType::f32, false));
  }
  float* zeros32(int64_t elements) {
    return static_cast<float*>(whole(std::vector<float>(size_t(elements)), DType::f32, false));
  }
  float* sum32(int64_t elements) { return static_cast<float*>(whole(draw(elements, 1), DType::f32, true)); }

  struct Result {
    std::vector<float> values;
    bool of_images;
  };
  std::vector<Result> results() const {
    std::vector<Result> all;
    for (const Tensor& tensor : tensors_) {
      if (!tensor.tracked) continue;
      Result result{{}, tensor.elements > 0};
      if (!result.of_images) take(tensor, 0, tensor.buffer.bytes() / size_of(tensor.type), result.values);
      else if (!far) take(tensor, 0, size_t(tensor.elements * count), result.values);
      else
        for (const Place& place : places())
          take(tensor, size_t(place.first * tensor.elements), size_t(each * tensor.elements), result.values);
      all.push_back(std::move(result));
    }
    return all;
  }

  // An image far from all places that was touched, or -1.
  int64_t strayed(int64_t near) const {
    const size_t page = size_t(sysconf(_SC_PAGESIZE));
    for (const Tensor& tensor : tensors_) {
      if (tensor.elements == 0) continue;
      const size_t bytes = tensor.buffer.bytes(), image = size_t(tensor.elements) * size_of(tensor.type);
      std::vector<unsigned char> touched(bytes / page);
      mincore(tensor.buffer.as<>(), touched.size() * page, touched.data());
      for (size_t i = 0; i < touched.size(); ++i) {
        if (!(touched[i] & 1)) continue;
        const int64_t first = int64_t(i * page / image), last = int64_t((i * page + page - 1) / image);
        const auto all = places();
        if (std::none_of(all.begin(), all.end(),
                         [&](const Place& place) { return last >= place.first - near && first < place.end + near; }))
          return first;
      }
    }
    return -1;
  }

 private:
  struct Tensor {
    Buffer buffer;
    DType type;
    int64_t elements;
    bool tracked;
  };

  std::vector<float> draw(int64_t elements, float scale, float offset = 0) {
    std::vector<float> values(static_cast<size_t>(elements));
    for (float& value : values)
      value = testing::from_bits(testing::to_bits(offset + scale * (float(random_() >> 8) / float(1 << 23) - 1)));
    return values;
  }
  void write(void* memory, DType as, size_t at, const float* values, size_t elements) {
    for (size_t i = 0; i < elements; ++i) {
      if (as == DType::f32) static_cast<float*>(memory)[at + i] = values[i];
      else static_cast<uint16_t*>(memory)[at + i] = testing::to_bits(values[i]);
    }
  }
  void take(const Tensor& tensor, size_t at, size_t elements, std::vector<float>& values) const {
    for (size_t i = at; i < at + elements; ++i)
      values.push_back(tensor.type == DType::f32 ? tensor.buffer.as<float>()[i]
                                                 : testing::from_bits(tensor.buffer.as<uint16_t>()[i]));
  }
  void* put(int64_t elements, DType as, const std::vector<float>& values, bool tracked) {
    Tensor& tensor = tensors_.emplace_back(
        Tensor{Buffer(device, size_t(n) * size_t(elements) * size_of(as)), as, elements, tracked});
    void* const memory = tensor.buffer.as<>();
    const float* from = values.data();
    if (!far) write(memory, as, 0, from, values.size());
    else
      for (const Place& place : places())
        write(memory, as, size_t(place.first * elements), from, size_t(each * elements)), from += each * elements;
    return memory;
  }
  void* whole(const std::vector<float>& values, DType as, bool tracked) {
    Tensor& tensor = tensors_.emplace_back(Tensor{Buffer(device, values.size() * size_of(as)), as, 0, tracked});
    write(tensor.buffer.as<>(), as, 0, values.data(), values.size());
    return tensor.buffer.as<>();
  }

  std::mt19937 random_;
  std::vector<Tensor> tensors_;
};

int checks = 0, failures = 0;
std::string wanted, current;
std::shared_ptr<Device> cpu;

double relative(const std::vector<float>& found, const std::vector<float>& expected) {
  double error = 0, norm = 1e-30;
  for (size_t i = 0; i < expected.size(); ++i)
    error += std::pow(double(found[i]) - expected[i], 2), norm += std::pow(double(expected[i]), 2);
  return found.size() == expected.size() && error == error ? std::sqrt(error / norm) : INFINITY;
}

void fail(const std::string& name, const std::string& what) {
  ++failures;
  std::printf("FAIL %-40s %s\n", name.c_str(), what.c_str());
}

struct How {
  int multiprocessors = 1 << 19;  // so many that a block has one part of the work
  int64_t near = 4;               // images beside those of a place that its blocks may touch
  bool valued = true;             // the CPU's values are the same
  // of the work of an image, where there are fewer blocks than these are in all, so that each has others elsewhere
  double parts = 0;
};

void check(const std::string& name, const std::function<void(Side&)>& body, const How& how = {}) {
  if (name.find(wanted) == std::string::npos) return;
  parts_an_image = how.parts;
  std::vector<Side::Result> expected, found;
  cpu->run(name, [&] {
    Side side(cpu, false);
    body(side);
    expected = side.results();
  });
  ++checks;
  current = "FAIL " + name + ": an address that is in no tensor\n";
  // of its own, so that parts of sums which no block wrote are zeros
  const auto gpu = std::make_shared<Device>(DeviceKind::cuda, 0, 1);
  try {
    gpu->run(name, [&] {
      gpu->card.multiprocessors = how.multiprocessors;
      gpu->restart_turns();
      Side side(gpu, true);
      body(side);
      gpu->synchronize();
      if (const int64_t image = how.parts > 0 ? -1 : side.strayed(how.near); image >= 0)
        fail(name, "touches image " + std::to_string(image) + ", of which no block was asked for");
      found = side.results();
    });
  } catch (const std::exception& e) { return fail(name, e.what()); }
  for (size_t i = 0; how.valued && i < expected.size(); ++i) {
    const size_t parts = expected[i].of_images ? 3 : 1, part = expected[i].values.size() / parts;
    for (size_t p = 0; p < parts; ++p) {
      const auto of = [&](const std::vector<float>& values) {
        return std::vector<float>(values.begin() + int64_t(p * part), values.begin() + int64_t((p + 1) * part));
      };
      const double apart = relative(of(found[i].values), of(expected[i].values));
      if (!(apart < 1e-2))
        fail(name, "result " + std::to_string(i) +
                       (parts == 1 ? ""
                        : p == 0   ? ", first images"
                        : p == 1   ? ", images in the middle"
                                   : ", last images") +
                       ": relative error " + std::to_string(apart));
    }
  }
}

// Images of 32 x 32 pixels or 64 tokens, so that there are more than 2^32 elements.
constexpr int C = 72, wide = 1152;
constexpr int64_t image = 32 * 32 * C;
static_assert(image * images > int64_t(1) << 32 && image == 64 * wide);

ConvShape shape(const Side& t, int k, int r, int stride) { return testing::conv(t.n, 32, 32, C, k, r, stride, r / 2); }
int64_t pixels(const ConvShape& s) { return int64_t(s.oh) * s.ow; }
int64_t weights(const ConvShape& s) { return int64_t(s.k) * s.taps() * s.c; }

LazyInput lazy(Side& t, int64_t elements, int channels, Act act, bool gated = false) {
  return {t.input(elements), t.shared32(channels, 0.3f, 1), t.shared32(channels), act,
          gated ? t.input(channels) : nullptr};
}
NormGradient norm_gradient(Side& t, int channels) {
  return {t.shared32(channels, 0.3f, 1),
          t.shared32(channels),
          t.shared32(channels, 0.3f, 1),
          t.sum32(channels),
          t.sum32(channels),
          t.zeros32(channels),
          t.zeros32(channels),
          t.zeros32(channels)};
}
// Of the gradient of lazy input x.
GradientTarget target(Side& t, const LazyInput& x, int64_t elements, int channels) {
  return {t.sum(elements), true, x.y, nullptr, x.scale, x.shift, x.act, norm_gradient(t, channels)};
}
LazyGradient lazy_gradient(Side& t, int64_t elements, int channels) {
  // c is zero: so are the other images' gradients
  return {t.input(elements), t.input(elements), t.shared32(channels), t.shared32(channels), t.zeros32(channels)};
}
NormTarget statistics(Side& t, int channels) {
  return {1,
          0,
          t.shared32(channels),
          t.shared32(channels),
          t.zeros32(channels),
          t.zeros32(channels),
          t.zeros32(channels),
          t.zeros32(channels),
          t.zeros32(channels),
          t.zeros32(channels)};
}

void convolutions() {
  for (const int r : {1, 3})
    for (const int stride : {1, 2}) {
      const std::string kind = std::to_string(r) + "x" + std::to_string(r) + " of stride " + std::to_string(stride);
      check("convolution " + kind, [=](Side& t) {
        const ConvShape s = shape(t, C, r, stride);
        void *x = t.input(image), *w = t.shared(weights(s), 0.05f);
        t.ops.conv_forward(*t.device, s, t.type, x, w,
                           {t.shared32(C, 0.3f, 1), t.shared32(C), t.input(pixels(s) * C), Act::relu},
                           t.output(pixels(s) * C));
      });
      check("convolution with its mean " + kind, [=](Side& t) {
        const ConvShape s = shape(t, C, r, stride);
        void *x = t.input(image), *w = t.shared(weights(s), 0.05f), *mean = t.output(pixels(s) / 4 * C);
        t.ops.conv_forward(*t.device, s, t.type, x, w,
                           {t.shared32(C, 0.3f, 1), t.shared32(C), t.input(pixels(s) * C), Act::relu, mean},
                           t.output(pixels(s) * C));
      });
      check("data gradient " + kind, [=](Side& t) {
        const ConvShape s = shape(t, C, r, stride);
        void *dy = t.input(pixels(s) * C), *w = t.shared(weights(s), 0.05f);
        t.ops.conv_backward_data(*t.device, s, t.type, dy, w, t.sum(image), true);
      });
      // Of a grid's third side there are 65,535 blocks, which have two images each.
      check("weight gradient " + kind,
            [=](Side& t) {
              const ConvShape s = shape(t, 16, r, stride);
              void *x = t.input(image), *dy = t.input(pixels(s) * 16);
              t.ops.conv_backward_weight(*t.device, s, t.type, x, dy, t.sum32(weights(s)), nullptr);
            },
            {.multiprocessors = r == 1 ? 1 << 13 : 1 << 16, .near = 10});
      check("fused convolution " + kind, [=](Side& t) {
        const ConvShape s = shape(t, 16, r, stride);
        const LazyInput x = lazy(t, image, C, Act::hardswish, is_pointwise(s));
        t.ops.conv_norm_forward(*t.device, s, t.type, x, t.shared(weights(s), 0.05f), statistics(t, 16),
                                t.output(pixels(s) * 16));
      });
    }
  check("sum of two convolutions", [](Side& t) {
    const ConvSumShape s{int64_t(t.n) * 1024, 64, 72, 16};
    void *x = t.input(1024 * 64), *x2 = t.input(image), *w = t.shared(s.weights(), 0.05f);
    t.ops.conv_sum_forward(*t.device, s, t.type, x, x2, w, t.shared32(16), Act::relu, t.output(1024 * 16));
  });
}

void fused() {
  check("fused convolution, backward",
        [](Side& t) {
          const ConvShape s = testing::conv(t.n, 8, 8, wide, 16, 1, 1, 0);
          const LazyInput x = lazy(t, image, wide, Act::relu);
          const LazyGradient dy = lazy_gradient(t, 64 * 16, 16);
          void* w = t.shared(weights(s), 0.05f);
          const GradientTarget to = target(t, x, image, wide);
          t.ops.conv_norm_backward(*t.device, s, t.type, x, dy, w, t.sum32(weights(s)), &to);
        },
        {.near = 20});
  for (const int r : {3, 5})
    for (const int stride : {1, 2}) {
      const std::string kind = std::to_string(r) + "x" + std::to_string(r) + " of stride " + std::to_string(stride);
      check("depthwise " + kind, [=](Side& t) {
        const ConvShape s = shape(t, C, r, stride);
        t.ops.depthwise_norm_forward(*t.device, s, t.type, lazy(t, image, C, Act::hardswish),
                                     t.shared(s.taps() * C, 0.3f), statistics(t, C), t.output(pixels(s) * C));
      });
      check("depthwise, backward " + kind, [=](Side& t) {
        const ConvShape s = shape(t, C, r, stride);
        const LazyInput x = lazy(t, image, C, Act::relu6);
        const LazyGradient dy = lazy_gradient(t, pixels(s) * C, C);
        void* w = t.shared(s.taps() * C, 0.3f);
        const GradientTarget to = target(t, x, image, C);
        t.ops.depthwise_norm_backward(*t.device, s, t.type, x, dy, w, t.sum32(s.taps() * C), &to);
      });
      check("unfused depthwise " + kind,
            [=](Side& t) {
              const ConvShape s = shape(t, C, r, stride);
              void *x = t.input(image), *w = t.shared(s.taps() * C, 0.3f);
              t.ops.depthwise_forward(*t.device, s, t.type, x, w, {t.shared32(C), t.shared32(C), nullptr, Act::relu},
                                      t.output(pixels(s) * C));
            },
            {.parts = image / (stride * stride) / 8 / 256.});
      check("unfused depthwise, data gradient " + kind,
            [=](Side& t) {
              const ConvShape s = shape(t, C, r, stride);
              void *dy = t.input(pixels(s) * C), *w = t.shared(s.taps() * C, 0.3f);
              t.ops.depthwise_backward_data(*t.device, s, t.type, dy, w, t.output(image), false);
            },
            {.parts = image / 8 / 256.});
    }
  for (const bool drops : {false, true}) {
    // the CPU's images are not the same
    const auto drop = [=](const Side& t) {
      return DropShape{t.n * image, image, drops && t.far ? 0.5f : 0.f, 7, uint64_t(1) << 33, 5};
    };
    check(drops ? "join with drops" : "join",
          [=](Side& t) {
            const RowsShape s{t.n, 1024, C};
            const LazyInput x = lazy(t, image, C, Act::none, !drops), residual{t.input(image)};
            const DropShape of = drop(t);
            t.ops.join_forward(*t.device, s, t.type, x, &residual, drops ? &of : nullptr, Act::relu, t.output(image));
          },
          {.valued = !drops});
    check(drops ? "norm gradient with drops" : "norm gradient",
          [=](Side& t) {
            const RowsShape s{t.n, 1024, C};
            const LazyInput x = lazy(t, image, C, Act::relu);
            const DropShape of = drop(t);
            t.ops.norm_gradient(*t.device, s, t.type, t.input(image), drops ? &of : nullptr, target(t, x, image, C));
          },
          {.valued = !drops});
  }
  check("squeeze",
        [](Side& t) {
          t.ops.squeeze_forward(*t.device, {t.n, 1024, C}, t.type, lazy(t, image, C, Act::silu), t.output(C));
        },
        {.multiprocessors = 132});
  check("gate, backward",
        [](Side& t) {
          const LazyInput x = lazy(t, image, C, Act::silu);
          void *g = t.input(image), *d_gate = t.output(C);
          t.ops.gate_backward(*t.device, {t.n, 1024, C}, t.type, x, t.shared32(C), t.shared32(C), g, d_gate,
                              t.zeros32(int64_t(4) * t.n * C));
        },
        {.multiprocessors = 132});
}

void others() {
  const auto pool = [](const Side& t) { return PoolShape{t.n, 32, 32, C, 3, 2, 1, 16, 16}; };
  check("max pool", [=](Side& t) {
    t.ops.lazy_max_pool_forward(*t.device, pool(t), t.type, lazy(t, image, C, Act::relu), t.output(image / 4));
  });
  check("max pool, backward", [=](Side& t) {
    const LazyInput x = lazy(t, image, C, Act::relu);
    t.ops.lazy_max_pool_backward(*t.device, pool(t), t.type, x, t.input(image / 4), target(t, x, image, C));
  });
  const auto mean = [](const Side& t) { return PoolShape{t.n, 32, 32, C, 2, 2, 0, 16, 16}; };
  check("mean pool",
        [=](Side& t) { t.ops.avg_pool_forward(*t.device, mean(t), t.type, t.input(image), t.output(image / 4)); });
  check("mean pool, backward",
        [=](Side& t) { t.ops.avg_pool_backward(*t.device, mean(t), t.type, t.input(image / 4), t.sum(image), true); });
  check("global pool, backward", [=](Side& t) {
    t.ops.global_pool_backward(*t.device, t.n, 1024, C, t.type, t.input(C), t.output(image), false);
  });
  check("resize", [=](Side& t) {
    t.ops.resize_forward(*t.device, {t.n, 16, 16, C, 2}, t.type, t.input(image / 4), t.output(image));
  });
  check("resize, backward", [=](Side& t) {
    t.ops.resize_backward(*t.device, {t.n, 16, 16, C, 2}, t.type, t.input(image), t.output(image / 4), false);
  });
  check("activation",
        [](Side& t) { t.ops.act_forward(*t.device, t.n * image, t.type, Act::gelu, t.input(image), t.output(image)); });
  check("activation, backward", [](Side& t) {
    void *x = t.input(image), *dy = t.input(image);
    t.ops.act_backward(*t.device, t.n * image, t.type, Act::silu, x, dy, t.sum(image), true);
  });
  check("sum", [](Side& t) {
    void *a = t.input(image), *b = t.input(image);
    t.ops.add_forward(*t.device, t.n * image, t.type, a, b, t.output(image));
  });
  check("affine", [](Side& t) {
    t.ops.affine_act_forward(*t.device, t.n * int64_t(1024), C, t.type, t.input(image), t.shared32(C), t.shared32(C),
                             t.input(image), Act::relu, t.output(image));
  });
  check("channel scale", [](Side& t) {
    void *x = t.input(image), *k = t.input(C);
    t.ops.channel_scale_forward(*t.device, {t.n, 1024, C}, t.type, x, k, t.output(image));
  });
  check("channel scale, backward", [](Side& t) {
    void *x = t.input(image), *k = t.input(C), *dy = t.input(image);
    t.ops.channel_scale_backward(*t.device, {t.n, 1024, C}, t.type, x, k, dy, t.output(image), false, t.output(C));
  });
  check("dropout", [](Side& t) {
    t.ops.drop_forward(*t.device, {t.n * image, 1, 0, 7, uint64_t(1) << 33, 5}, t.type, t.input(image),
                       t.output(image));
  });
  check("widen images",
        [](Side& t) { t.ops.widen_images(*t.device, t.n * image / 8, t.type, t.input(image / 2), t.output(image)); },
        {.parts = image / 8 / 256.});
  check("unpack",
        [](Side& t) {
          t.ops.unpack_output(*t.device, t.n * int64_t(1024), C - 1, C, t.type, t.input(image),
                              t.output32(1024 * (C - 1)));
        },
        {.parts = 4. * (C - 1)});
  check("pack",
        [](Side& t) {
          t.ops.pack_gradient(*t.device, t.n * int64_t(1024), C - 1, C, t.type, t.input32(1024 * (C - 1)),
                              t.output(image));
        },
        {.parts = 4. * C});
  check("optimiser",
        [](Side& t) {
          float *g = t.input32(image), *v = static_cast<float*>(t.sum_of(image, DType::f32)),
                *w = static_cast<float*>(t.sum_of(image, DType::f32));
          t.ops.sgd(*t.device, t.n * image, {0.1f, 0.9f, 1e-4f, 0.5f}, g, v, w, nullptr);
        },
        {.multiprocessors = 1 << 21});
  check("optimiser with two moments",
        [](Side& t) {
          float *g = t.input32(image), *m = static_cast<float*>(t.sum_of(image, DType::f32)),
                *w = static_cast<float*>(t.sum_of(image, DType::f32));
          float* v = t.output32(image);  // zero: a second moment is not below it
          t.ops.adamw(*t.device, t.n * image, adamw_step(0.01, 0.9, 0.97, 1e-3, 0.1, 0.5, 3, t.n * image - 77), g, m, v,
                      w, nullptr);
        },
        {.multiprocessors = 1 << 21});
}

void sequences() {
  check("layer norm", [](Side& t) {
    t.ops.layer_norm_forward(*t.device, {t.n * int64_t(64), wide, 1e-5f}, t.type, t.input(image), t.shared32(wide),
                             t.shared32(wide), t.output(image));
  });
  check("self-attention", [](Side& t) {
    t.ops.self_attention_forward(*t.device, {t.n, 128, 192, 3, false}, t.type, t.input(image), t.output(image / 3));
  });
  check("rotary positions",
        [](Side& t) {
          const float* angles = t.shared32(127 * 64);
          t.ops.rotary_forward(*t.device, {t.n, 128, 192, 3, 1}, t.type, t.input(image), angles, t.output(image));
        },
        {.parts = image / 16 / 256.});
  check("swiglu",
        [](Side& t) {
          t.ops.swiglu_forward(*t.device, t.n * int64_t(64), wide / 2, t.type, t.input(image), t.output(image / 2));
        },
        {.parts = image / 16 / 256.});
  check("self-attention's gradient", [](Side& t) {
    void *qkv = t.input(image), *out = t.input(image / 3), *d_out = t.input(image / 3);
    t.ops.self_attention_backward(*t.device, {t.n, 128, 192, 3, false}, t.type, qkv, out, d_out, t.output(image),
                                  false);
  });
  check("positions",
        [](Side& t) {
          t.ops.positions_forward(*t.device, {t.n, 64, wide}, t.type, 1, t.input(63 * wide), t.shared32(64 * wide),
                                  nullptr, t.output(image));
        },
        {.parts = image / 8 / 256.});
  check("tokens", [](Side& t) {
    void* tokens = t.output(image);
    t.ops.tokens_forward(*t.device, t.n, 63, wide, t.type, t.input(63 * wide), t.shared32(64 * wide), tokens);
    t.ops.first_token_forward(*t.device, t.n, 64, wide, t.type, tokens, t.output(wide));
  });
  check("first token's gradient",
        [](Side& t) {
          t.ops.first_token_backward(*t.device, t.n, 64, wide, t.type, t.input(wide), t.output(image), false);
        },
        {.parts = image / 8 / 256.});
  check("query attention", [](Side& t) {
    void *q = t.input(wide), *k = t.input(image), *v = t.input(image);
    t.ops.query_attention_forward(*t.device, {t.n, 64, wide, 18}, t.type, q, k, v, t.output(wide));
  });
  check("absorbed attention",
        [](Side& t) {
          void *q = t.input(128), *x = t.input(image), *wk = t.shared(128 * wide, 0.03f),
               *wv = t.shared(128 * wide, 0.03f);
          t.ops.absorbed_attention_forward(*t.device, {t.n, 64, wide, 2}, t.type, q, x, wk, wv, nullptr, t.output(128));
        },
        {.near = 300});
}

}  // namespace

int main(int argc, char** argv) {
  if (argc > 1) wanted = argv[1];
  std::setvbuf(stdout, nullptr, _IOLBF, BUFSIZ);
  std::signal(SIGSEGV, [](int) {
    [[maybe_unused]] const auto written = write(1, current.data(), current.size());
    _exit(1);
  });
  emulation::chosen_blocks = &blocks_of_places;
  cpu = std::make_shared<Device>(DeviceKind::cpu, 0, 2);
  convolutions();
  fused();
  others();
  sequences();
  std::printf("far elements: %d checks, %d failed\n", checks, failures);
  return failures ? 1 : 0;
}
