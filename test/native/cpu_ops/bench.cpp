// Times every operation of one training step of an encoder at 64 px, batch 64: milliseconds and GFLOP/s or GB/s a
// layer, sums an operation, images a second. Activations of all layers are kept, as in training, so that caches are met
// as they would be there.
#include <algorithm>
#include <chrono>
#include <ctime>
#include <functional>
#include <map>
#include <memory>

#include "check.h"

using namespace lgd;

namespace {

enum class Kind { conv, depthwise, max_pool, global_pool, squeeze };

struct Layer {
  Kind kind;
  ConvShape shape;  // pools use the input; squeeze: c channels, k squeezed
  Act act = Act::none;
  bool norm = true;   // batch norm and `act` behind a convolution
  int residual = -1;  // layer whose output is added before `act`
  int input = -1;     // layer whose output is read; -1: the one before
};

struct Builder {
  std::vector<Layer> layers;
  int batch, height, width, channels;

  int conv(int k, int kernel, int stride, Act act, int residual = -1, int input = -1) {
    layers.push_back({Kind::conv, conv_shape(batch, height, width, channels, k, kernel, stride, kernel / 2), act, true,
                      residual, input});
    return finish();
  }
  int depthwise(int kernel, int stride, Act act) {
    layers.push_back(
        {Kind::depthwise, conv_shape(batch, height, width, channels, channels, kernel, stride, kernel / 2), act});
    return finish();
  }
  void squeeze(int squeezed) {
    layers.push_back({Kind::squeeze, conv_shape(batch, height, width, channels, squeezed, 1, 1, 0)});
  }
  void max_pool() {
    layers.push_back({Kind::max_pool, conv_shape(batch, height, width, channels, channels, 3, 2, 1)});
    finish();
  }
  void head(int outputs) {
    layers.push_back({Kind::global_pool, conv_shape(batch, height, width, channels, channels, 1, 1, 0)});
    height = width = 1;
    layers.push_back({Kind::conv, conv_shape(batch, 1, 1, channels, outputs, 1, 1, 0), Act::none, false});
  }
  int last() const { return int(layers.size()) - 1; }
  int finish() {
    const ConvShape& s = layers.back().shape;
    height = s.oh, width = s.ow, channels = s.k;
    return last();
  }
};

std::vector<Layer> mobilenet_v2(int batch) {
  Builder b{{}, batch, 64, 64, 3};
  b.conv(32, 3, 2, Act::relu6);
  const int table[][4] = {{1, 16, 1, 1}, {6, 24, 2, 2},  {6, 32, 3, 2}, {6, 64, 4, 2},
                          {6, 96, 3, 1}, {6, 160, 3, 2}, {6, 320, 1, 1}};
  for (const auto& [expand, k, repeat, stride] : table)
    for (int i = 0; i < repeat; ++i) {
      const int in = b.channels, from = b.last();
      if (expand > 1) b.conv(in * expand, 1, 1, Act::relu6);
      b.depthwise(3, i ? 1 : stride, Act::relu6);
      b.conv(k, 1, 1, Act::none, i > 0 ? from : -1);
    }
  b.conv(1280, 1, 1, Act::relu6);
  b.head(512);
  return b.layers;
}

std::vector<Layer> efficientnet_b0(int batch) {
  Builder b{{}, batch, 64, 64, 3};
  b.conv(32, 3, 2, Act::silu);
  const int table[][5] = {{1, 3, 1, 16, 1},  {6, 3, 2, 24, 2},  {6, 5, 2, 40, 2}, {6, 3, 2, 80, 3},
                          {6, 5, 1, 112, 3}, {6, 5, 2, 192, 4}, {6, 3, 1, 320, 1}};
  for (const auto& [expand, kernel, stride, k, repeat] : table)
    for (int i = 0; i < repeat; ++i) {
      const int in = b.channels, from = b.last();
      if (expand > 1) b.conv(in * expand, 1, 1, Act::silu);
      b.depthwise(kernel, i ? 1 : stride, Act::silu);
      b.squeeze(std::max(1, in / 4));
      b.conv(k, 1, 1, Act::none, i > 0 ? from : -1);
    }
  b.conv(1280, 1, 1, Act::silu);
  b.head(512);
  return b.layers;
}

std::vector<Layer> resnet18(int batch) {
  Builder b{{}, batch, 64, 64, 3};
  b.conv(64, 7, 2, Act::relu);
  b.max_pool();
  for (int stage = 0; stage < 4; ++stage)
    for (int i = 0; i < 2; ++i) {
      const int k = 64 << stage, stride = stage > 0 && i == 0 ? 2 : 1, from = b.last();
      int shortcut = from;
      if (stride == 2) {
        Builder side = b;  // the shortcut's convolution reads the same image
        shortcut = side.conv(k, 1, 2, Act::none, -1, from);
        b.layers = side.layers;
      }
      b.conv(k, 3, stride, Act::relu, -1, from);
      b.conv(k, 3, 1, Act::relu, shortcut);
    }
  b.head(512);
  return b.layers;
}

// Seconds. One thread is timed by the processor time it took, which other programs on the machine disturb less.
double now(int threads) {
  if (threads == 1) return double(std::clock()) / CLOCKS_PER_SEC;
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

struct Timer {
  int threads;
  struct Entry {
    double best = 1e9, work = 0;  // seconds; flops or bytes
    bool bytes = false;
  };
  std::map<std::pair<int, std::string>, Entry> entries;

  void time(int layer, const std::string& op, double work, bool bytes, const std::function<void()>& body) {
    const double start = now(threads);
    body();
    const double seconds = now(threads) - start;
    Entry& entry = entries[{layer, op}];
    entry.best = std::min(entry.best, seconds);
    entry.work = work;
    entry.bytes = bytes;
  }
};

// Memory of the device, as the executor would use it.
struct Block {
  Buffer buffer;
  size_t count = 0;
  void resize(std::shared_ptr<Device>& device, size_t count_, float value = 0) {
    count = count_;
    buffer = Buffer(device, count * 4);
    std::fill_n(data(), count, value);
  }
  float* data() const { return buffer.as<float>(); }
  size_t size() const { return count; }
};

// Buffers of one layer that live through a step.
struct State {
  Block out, y, w, dw, velocity, bias, gamma, beta, running_mean, running_var, mean, rstd, d_gamma, d_beta;
  Block pooled, squeezed, activated, scale;  // squeeze-and-excitation
  Block w2, dw2;
};

struct Step {
  std::shared_ptr<Device> owner;
  Device& device;
  std::vector<Layer> layers;
  std::vector<State> states;
  Block image, gradient, other;  // gradients go to and fro between two blocks
  Timer timer;

  Step(int threads, std::vector<Layer> layers_)
      : owner(std::make_shared<Device>(DeviceKind::cpu, 0, threads)),
        device(*owner),
        layers(std::move(layers_)),
        states(layers.size()),
        timer{threads, {}} {
    std::mt19937 random(1);
    std::normal_distribution<float> draw;
    auto fill = [&](Block& values, int64_t count, float factor) {
      values.resize(owner, count);
      std::generate_n(values.data(), count, [&] { return factor * draw(random); });
    };
    fill(image, int64_t(layers[0].shape.n) * 64 * 64 * 3, 1);
    int64_t most = int64_t(image.size());
    for (size_t i = 0; i < layers.size(); ++i) {
      const ConvShape& s = layers[i].shape;
      State& t = states[i];
      const int64_t outputs = s.rows() * s.k, inputs = int64_t(s.n) * s.h * s.w * s.c;
      most = std::max({most, outputs, inputs});
      if (layers[i].kind == Kind::squeeze) {
        t.y.resize(owner, inputs);
        fill(t.w, int64_t(s.k) * s.c, 0.1f), fill(t.w2, int64_t(s.k) * s.c, 0.1f);
        t.dw.resize(owner, t.w.size()), t.dw2.resize(owner, t.w.size());
        for (Block* values : {&t.pooled, &t.scale}) values->resize(owner, int64_t(s.n) * s.c);
        for (Block* values : {&t.squeezed, &t.activated}) values->resize(owner, int64_t(s.n) * s.k);
        t.bias.resize(owner, std::max(s.k, s.c));
        continue;
      }
      t.y.resize(owner, layers[i].kind == Kind::global_pool ? int64_t(s.n) * s.c : outputs);
      if (layers[i].kind == Kind::max_pool || layers[i].kind == Kind::global_pool) continue;
      t.out.resize(owner, layers[i].norm ? outputs : 0);
      const int64_t fan = int64_t(s.r) * s.s * (layers[i].kind == Kind::conv ? s.c : 1);
      fill(t.w, fan * s.k, std::sqrt(2.0f / float(fan)));
      t.dw.resize(owner, t.w.size()), t.velocity.resize(owner, t.w.size());
      for (Block* values : {&t.bias, &t.beta, &t.running_mean, &t.mean, &t.rstd, &t.d_gamma, &t.d_beta})
        values->resize(owner, s.k);
      t.gamma.resize(owner, s.k, 1), t.running_var.resize(owner, s.k, 1);
    }
    gradient.resize(owner, most), other.resize(owner, most);
  }

  const float* input_of(int i) const {
    const int from = layers[i].input >= 0 ? layers[i].input : i - 1;
    return from < 0 ? image.data() : states[from].y.data();
  }

  const float* residual_of(int i) const {
    return layers[i].residual < 0 ? nullptr : states[layers[i].residual].y.data();
  }

  double flops(int i) const {
    const ConvShape& s = layers[i].shape;
    return 2.0 * double(s.rows()) * s.k * s.r * s.s * (layers[i].kind == Kind::conv ? s.c : 1);
  }

  void forward(int i) {
    const Layer& layer = layers[i];
    const ConvShape& s = layer.shape;
    State& t = states[i];
    const float* x = input_of(i);
    const double in_bytes = 4.0 * s.n * s.h * s.w * s.c, out_bytes = 4.0 * double(s.rows()) * s.k;
    switch (layer.kind) {
      case Kind::conv:
      case Kind::depthwise: {
        float* out = layer.norm ? t.out.data() : t.y.data();
        const bool dense = layer.kind == Kind::conv;
        timer.time(
            i, dense ? "conv forward" : "depthwise forward", dense ? flops(i) : in_bytes + out_bytes, !dense, [&] {
              if (dense)
                conv_forward_cpu(device, s, F32, x, t.w.data(), {nullptr, layer.norm ? nullptr : t.bias.data()}, out);
              else depthwise_forward_cpu(device, s, F32, x, t.w.data(), {}, out);
            });
        if (!layer.norm) return;
        timer.time(i, "norm forward", out_bytes * (layer.residual >= 0 ? 4 : 3), true, [&] {
          norm_act_forward_cpu(device, {s.rows(), s.k, 1e-5f, 0.1f, layer.act}, F32,
                               {out, residual_of(i), t.gamma.data(), t.beta.data(), t.running_mean.data(),
                                t.running_var.data(), t.mean.data(), t.rstd.data(), t.y.data()});
        });
        return;
      }
      case Kind::max_pool:
        timer.time(i, "max_pool forward", in_bytes + out_bytes, true,
                   [&] { max_pool_forward_cpu(device, pool_of(s), F32, x, t.y.data()); });
        return;
      case Kind::global_pool:
        timer.time(i, "global_pool forward", in_bytes, true,
                   [&] { global_pool_forward_cpu(device, s.n, int64_t(s.h) * s.w, s.c, F32, x, t.y.data()); });
        return;
      case Kind::squeeze:
        timer.time(i, "squeeze forward", 3 * in_bytes, true, [&] {
          global_pool_forward_cpu(device, s.n, int64_t(s.h) * s.w, s.c, F32, x, t.pooled.data());
          conv_forward_cpu(device, conv_shape(s.n, 1, 1, s.c, s.k, 1, 1, 0), F32, t.pooled.data(), t.w.data(),
                           {nullptr, t.bias.data()}, t.squeezed.data());
          act_forward_cpu(device, int64_t(t.squeezed.size()), F32, Act::silu, t.squeezed.data(), t.activated.data());
          conv_forward_cpu(device, conv_shape(s.n, 1, 1, s.k, s.c, 1, 1, 0), F32, t.activated.data(), t.w2.data(),
                           {nullptr, t.bias.data(), nullptr, Act::sigmoid}, t.scale.data());
          channel_scale_forward_cpu(device, {s.n, int64_t(s.h) * s.w, s.c}, F32, x, t.scale.data(), t.y.data());
        });
    }
  }

  static PoolShape pool_of(const ConvShape& s) { return {s.n, s.h, s.w, s.c, 3, 2, 1, s.oh, s.ow}; }

  void backward(int i) {
    const Layer& layer = layers[i];
    const ConvShape& s = layer.shape;
    State& t = states[i];
    const float* x = input_of(i);
    const double in_bytes = 4.0 * s.n * s.h * s.w * s.c, out_bytes = 4.0 * double(s.rows()) * s.k;
    const bool first = i == 0;
    switch (layer.kind) {
      case Kind::conv:
      case Kind::depthwise: {
        if (layer.norm) {
          // y is not needed any more and has the right size
          float* d_residual = layer.residual >= 0 ? t.y.data() : nullptr;
          timer.time(i, "norm backward", out_bytes * (d_residual ? 7 : 5), true, [&] {
            norm_act_backward_cpu(
                device, {s.rows(), s.k, 1e-5f, 0.1f, layer.act}, F32,
                {t.out.data(), residual_of(i), gradient.data(), t.gamma.data(), t.beta.data(), t.mean.data(),
                 t.rstd.data(), t.d_gamma.data(), t.d_beta.data(), other.data(), d_residual, false, false});
          });
        } else {
          std::swap(gradient, other);
        }
        const bool dense = layer.kind == Kind::conv;
        const double work = dense ? flops(i) : in_bytes + out_bytes;
        timer.time(i, dense ? "conv backward weight" : "depthwise backward weight", work, !dense, [&] {
          if (dense)
            conv_backward_weight_cpu(device, s, F32, x, other.data(), t.dw.data(),
                                     layer.norm ? nullptr : t.bias.data());
          else depthwise_backward_weight_cpu(device, s, F32, x, other.data(), t.dw.data(), nullptr);
        });
        if (first) return;
        timer.time(i, dense ? "conv backward data" : "depthwise backward data", work, !dense, [&] {
          if (dense) conv_backward_data_cpu(device, s, F32, other.data(), t.w.data(), gradient.data(), false);
          else depthwise_backward_data_cpu(device, s, F32, other.data(), t.w.data(), gradient.data(), false);
        });
        return;
      }
      case Kind::max_pool:
        timer.time(i, "max_pool backward", 2 * in_bytes + out_bytes, true,
                   [&] { max_pool_backward_cpu(device, pool_of(s), F32, x, gradient.data(), other.data(), false); });
        std::swap(gradient, other);
        return;
      case Kind::global_pool:
        timer.time(i, "global_pool backward", in_bytes, true, [&] {
          global_pool_backward_cpu(device, s.n, int64_t(s.h) * s.w, s.c, F32, gradient.data(), other.data(), false);
        });
        std::swap(gradient, other);
        return;
      case Kind::squeeze:
        timer.time(i, "squeeze backward", 5 * in_bytes, true, [&] { squeeze_backward(i); });
        std::swap(gradient, other);
    }
  }

  void squeeze_backward(int i) {
    const ConvShape& s = layers[i].shape;
    State& t = states[i];
    const ConvShape down = conv_shape(s.n, 1, 1, s.c, s.k, 1, 1, 0), up = conv_shape(s.n, 1, 1, s.k, s.c, 1, 1, 0);
    Floats ds(t.scale.size()), du(t.scale.size()), da(t.squeezed.size());
    channel_scale_backward_cpu(device, {s.n, int64_t(s.h) * s.w, s.c}, F32, input_of(i), t.scale.data(),
                               gradient.data(), other.data(), false, ds.data());
    act_backward_cpu(device, int64_t(ds.size()), F32, Act::sigmoid, t.scale.data(), ds.data(), du.data(), false);
    conv_backward_weight_cpu(device, up, F32, t.activated.data(), du.data(), t.dw2.data(), t.bias.data());
    conv_backward_data_cpu(device, up, F32, du.data(), t.w2.data(), da.data(), false);
    act_backward_cpu(device, int64_t(da.size()), F32, Act::silu, t.squeezed.data(), da.data(), da.data(), false);
    conv_backward_weight_cpu(device, down, F32, t.pooled.data(), da.data(), t.dw.data(), t.bias.data());
    conv_backward_data_cpu(device, down, F32, da.data(), t.w.data(), ds.data(), false);
    global_pool_backward_cpu(device, s.n, int64_t(s.h) * s.w, s.c, F32, ds.data(), other.data(), true);
  }

  double run() {
    const double start = now(timer.threads);
    for (size_t i = 0; i < layers.size(); ++i) forward(int(i));
    std::fill_n(gradient.data(), states.back().y.size(), 1e-3f);
    for (int i = int(layers.size()) - 1; i >= 0; --i) backward(i);
    timer.time(int(layers.size()), "sgd", 0, true, [&] {
      for (State& t : states)
        if (t.velocity.size() > 0)
          sgd_cpu(device, int64_t(t.w.size()), {0, 0.9f, 0, 1}, t.dw.data(), t.velocity.data(), t.w.data(), nullptr);
    });
    return now(timer.threads) - start;
  }
};

}  // namespace

void bench(int threads, const std::string& model) {
  constexpr int batch = 64, steps = 12;
  Step step(threads, model == "resnet18"          ? resnet18(batch)
                     : model == "efficientnet_b0" ? efficientnet_b0(batch)
                                                  : mobilenet_v2(batch));
  step.run();
  step.timer.entries.clear();
  std::vector<double> seconds;
  for (int i = 0; i < steps; ++i) seconds.push_back(step.run());
  std::sort(seconds.begin(), seconds.end());
  std::map<std::string, std::pair<double, double>> sums;
  for (const auto& [key, entry] : step.timer.entries) {
    const std::string shape = key.first < int(step.layers.size()) ? name_of(step.layers[key.first].shape) : "";
    std::printf("%3d %-26s %-52s %8.3f ms %8.1f %s\n", key.first, key.second.c_str(), shape.c_str(), entry.best * 1e3,
                entry.work / entry.best * 1e-9, entry.bytes ? "GB/s" : "GFLOP/s");
    sums[key.second].first += entry.best;
    sums[key.second].second += entry.work;
  }
  double total = 0;
  for (const auto& [op, sum] : sums) {
    std::printf("%-30s %8.2f ms %8.1f e9/s\n", op.c_str(), sum.first * 1e3, sum.second / sum.first * 1e-9);
    total += sum.first;
  }
  std::printf(
      "%s, batch %d, %d threads: sum of best times %.1f ms; whole step best %.1f ms = %.1f img/s, median %.1f img/s\n",
      model.c_str(), batch, threads, total * 1e3, seconds.front() * 1e3, batch / seconds.front(),
      batch / seconds[seconds.size() / 2]);
}
