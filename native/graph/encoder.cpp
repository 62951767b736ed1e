// engine.h: encoders. Checks arguments on the caller's thread, then queues the work with shared pointers to all that it
// uses.
#include <cmath>
#include <cstdlib>
#include <exception>
#include <functional>
#include <set>
#include <string>
#include <utility>

#include "core/record_ring.h"
#include "core/tensor.h"
#include "graph/executor.h"
#include "ops/layout.h"

namespace lgd {

// What clipped steps need, from the first of them on.
struct Clip {
  explicit Clip(const DevicePtr& device) : factor(device, sizeof(float)), norms(device) {}

  Buffer factor;
  using Norms = RecordRing<double, metric_slots>;
  Norms norms;
};

using Written = std::pair<int, Slot>;  // a parameter, or none: all that an encoder starts with

struct Encoder {
  Encoder(const DevicePtr& device_, Program compiled, const EncoderOptions& options_)
      : device(device_),
        options(options_),
        program(std::move(compiled)),
        parameters(device_, program.graph, program.shapes, options_),
        executor(device_, program, parameters) {}

  std::string stage(const char* what) const { return program.graph.name + "." + what; }
  int64_t output_size() const {
    int64_t size = 0;
    for (const int output : program.outputs)
      size += program.shapes.values[size_t(output)].pixels() * program.shapes.values[size_t(output)].c;
    return size;
  }
  std::vector<int64_t> output_shape() const {
    if (program.outputs.size() > 1) return {1, options.batch * output_size()};
    return {program.shapes.rows(program.outputs[0]), program.shapes.values[size_t(program.outputs[0])].c};
  }

  const DevicePtr device;
  const EncoderOptions options;
  const Program program;
  ParameterTable parameters;
  Executor executor;
  TensorPtr output;
  std::shared_ptr<Clip> clip;   // caller's side
  bool can_backward = false;    // caller's side: the last forward queued was a training one
  TensorPtr images;             // device's side: of the last training forward
  std::set<Written> unwritten;  // device's side: what was to be written last and is not
};

namespace {

// Layers pay where memory is the limit and arithmetic is not: on CUDA. The environment may ask for less, or for more.
Fusion fusion_for(DeviceKind kind) {
  const char* text = std::getenv("LGDISTILL_FUSION");
  const std::string asked = text ? text : "";
  for (const auto& [name, fusion] :
       {std::pair{"nodes", Fusion::nodes}, {"steps", Fusion::steps}, {"layers", Fusion::layers}})
    if (asked == name) return fusion;
  LGD_CHECK(asked.empty(), "BAD_OPTION", "LGDISTILL_FUSION is ", asked, ". Allowed: nodes, steps, layers.");
  return kind == DeviceKind::cuda ? Fusion::layers : Fusion::steps;
}

// To test the plan of memory: a result that it changes was read when its buffer was no longer, or not yet, alive.
bool clears_arena() {
  const char* text = std::getenv("LGDISTILL_ARENA");
  const std::string asked = text ? text : "";
  LGD_CHECK(asked.empty() || asked == "cleared", "BAD_OPTION", "LGDISTILL_ARENA is ", asked, ". Allowed: cleared.");
  return asked == "cleared";
}

Program compile_for(const DevicePtr& device, const GraphSpec& graph, const EncoderOptions& options) {
  Program program = compile(parse_graph(graph), options, device->kind, fusion_for(device->kind));
  program.memory.clears = clears_arena();
  return program;
}

int find_parameter(const Encoder& encoder, const std::string& name, Slot slot) {
  const auto& parameters = encoder.program.graph.parameters;
  for (size_t i = 0; i < parameters.size(); ++i) {
    if (parameters[i].name != name) continue;
    LGD_CHECK(slot == Slot::value || parameters[i].trainable, "BAD_OPTION", name,
              " is a buffer: it has no gradient and no momentum.");
    LGD_CHECK(slot == Slot::value || encoder.options.training, "BAD_OPTION", encoder.program.graph.name,
              " is forward only: it has no gradients and no momentum.");
    LGD_CHECK(slot != Slot::second_moment || encoder.options.optimizer == Optimizer::adamw, "BAD_OPTION",
              encoder.program.graph.name, " is trained by SGD: it has no second moment.");
    return int(i);
  }
  throw_error("BAD_MODEL", {encoder.program.graph.name, " has no parameter ", name, "."});
}

// Work that sets numbers and that nobody waits for: where it fails, is skipped behind an earlier error or dropped with
// its step, whoever happens to wait next hears of it, perhaps for something else. So no pass may take the numbers for
// what they should be until they are written again.
void submit_write(const EncoderPtr& encoder, const char* what, Written written, std::function<void()> write) {
  encoder->device->submit(
      encoder->stage(what),
      [encoder, written, write = std::move(write)] {
        write();
        encoder->unwritten.erase(written);
        encoder->device->undo_if_dropped([encoder, written] { encoder->unwritten.insert(written); });
      },
      [encoder, written](const std::exception_ptr& error) {
        if (error) encoder->unwritten.insert(written);
      });
}

void require_written(const Encoder& encoder) {
  if (encoder.unwritten.empty()) return;
  const int first = encoder.unwritten.begin()->first;
  const std::string name = first < 0 ? "all" : encoder.program.graph.parameters[size_t(first)].name;
  throw_error("DEVICE_ERROR",
              {encoder.program.graph.name, " lacks numbers that it was given (", name,
               "): writing them failed, or work before it. Load them again, or make the encoder again."});
}

void require_training(const Encoder& encoder, const char* what) {
  LGD_CHECK(encoder.options.training, "BAD_OPTION", encoder.program.graph.name, " is forward only: it has no ", what,
            ".");
}

}  // namespace

EncoderPtr make_encoder(const DevicePtr& device, const GraphSpec& graph, const EncoderOptions& options) {
  LGD_CHECK(options.batch >= 1 && options.height >= 1 && options.width >= 1, "BAD_OPTION",
            "an encoder needs positive sizes, found batch ", options.batch, ", ", options.height, "x", options.width,
            " pixels.");
  LGD_CHECK(options.batch <= most_images, "BAD_OPTION", "a batch of ", options.batch, " images. Allowed: ", most_images,
            " or fewer.");
  auto encoder = std::make_shared<Encoder>(device, compile_for(device, graph, options), options);
  encoder->output = make_tensor(device, encoder->output_shape());
  submit_write(encoder, "create", {-1, Slot::value}, [encoder = encoder.get()] { encoder->parameters.zero_all(); });
  return encoder;
}

EncoderInfo encoder_info(const EncoderPtr& encoder) {
  EncoderInfo info;
  info.output_size = encoder->output_size();
  for (const int output : encoder->program.outputs) {
    const ValueShape& shape = encoder->program.shapes.values[size_t(output)];
    info.outputs.push_back({shape.h, shape.w, shape.c});
  }
  info.macs_per_image = encoder->program.shapes.macs_per_image;
  info.parameters = double(encoder->parameters.trainable_elements());
  info.arena_bytes = double(encoder->executor.arena_bytes());
  info.parameter_bytes = double(encoder->parameters.bytes());
  info.kernels_forward = encoder->executor.kernels_forward();
  info.kernels_backward = encoder->executor.kernels_backward();
  return info;
}

void write_parameter(const EncoderPtr& encoder, const std::string& name, Slot slot, std::vector<float> values) {
  const int parameter = find_parameter(*encoder, name, slot);
  LGD_CHECK(int64_t(values.size()) == encoder->parameters.elements(parameter), "BAD_SHAPE", "parameter ", name, " has ",
            encoder->parameters.elements(parameter), " values, found ", values.size(), ".");
  submit_write(encoder, "write", {parameter, slot},
               [encoder = encoder.get(), parameter, slot, values = std::move(values)] {
                 encoder->parameters.write(parameter, slot, values);
                 if (slot == Slot::value) encoder->executor.parameters_changed();
               });
}

void read_parameter(const EncoderPtr& encoder, const std::string& name, Slot slot, std::vector<float>& values) {
  require_written(*encoder);
  encoder->parameters.read(find_parameter(*encoder, name, slot), slot, values);
}

void forward(const EncoderPtr& encoder, const TensorPtr& images, const ForwardOptions& options) {
  const EncoderOptions& plan = encoder->options;
  if (options.training) require_training(*encoder, "training forward");
  const std::vector<int64_t> expected = {plan.batch, plan.height, plan.width, 3};
  const DType type = encoder->program.shapes.type;
  LGD_CHECK(images->device == encoder->device, "BAD_OPTION", "the images and the encoder are on different devices.");
  LGD_CHECK(images->shape == expected, "BAD_SHAPE", "images for ", encoder->program.graph.name, " are ",
            text_of(images->shape), ". Allowed: ", text_of(expected), ".");
  LGD_CHECK(images->type == type && images->stored == stored_image_channels(encoder->device->kind, plan.width),
            "BAD_SHAPE", "the images are stored in another precision than the encoder's.");
  encoder->can_backward = options.training;
  encoder->device->submit(encoder->stage("forward"), [encoder, images, options] {
    encoder->images = nullptr;
    require_written(*encoder);
    encoder->executor.forward(images->buffer.as<>(), encoder->output->f32(), options);
    if (options.training) encoder->images = images;
  });
}

void keep_statistics(const EncoderPtr& encoder, const DeviceStepPtr& step) {
  if (encoder->device->kind == DeviceKind::cuda || !encoder->parameters.statistics()) return;
  encoder->device->submit(encoder->stage("keep_statistics"), [encoder, step] {
    const Buffer& statistics = encoder->parameters.statistics();
    const auto kept = std::make_shared<Buffer>(encoder->device, statistics.bytes());
    encoder->device->copy(kept->as<>(), statistics.as<>(), statistics.bytes());
    undo_if_given_up(step, [encoder, kept] {
      encoder->device->copy(encoder->parameters.statistics().as<>(), kept->as<>(), kept->bytes());
      encoder->executor.parameters_changed();
    });
  });
}

TensorPtr encoder_output(const EncoderPtr& encoder) { return encoder->output; }

void zero_gradients(const EncoderPtr& encoder) {
  require_training(*encoder, "gradients");
  encoder->device->submit(encoder->stage("zero_gradients"), [encoder] { encoder->parameters.zero_gradients(); });
}

void backward(const EncoderPtr& encoder, const TensorPtr& d_output, bool afresh) {
  require_training(*encoder, "backward");
  LGD_CHECK(d_output->device == encoder->device, "BAD_OPTION",
            "the gradient and the encoder are on different devices.");
  LGD_CHECK(d_output->elements() == encoder->output->elements() && d_output->type == DType::f32, "BAD_SHAPE",
            "the gradient of the output must be [", encoder->options.batch, ",", encoder->output_size(), "] float32.");
  LGD_CHECK(encoder->can_backward, "BAD_OPTION", "backward of ", encoder->program.graph.name,
            " needs a training forward right before it.");
  encoder->can_backward = false;  // backward reuses the activations' memory
  encoder->device->submit(encoder->stage("backward"), [encoder, d_output, afresh] {
    LGD_CHECK(encoder->images, "BAD_OPTION", "the forward before this backward did not run.");
    if (afresh) encoder->parameters.zero_gradients();
    encoder->executor.backward(encoder->images->buffer.as<>(), d_output->f32());
    encoder->images = nullptr;
  });
}

void optimizer_step(const EncoderPtr& encoder, const OptimizerStep& step) {
  require_training(*encoder, "optimiser");
  LGD_CHECK(step.count >= 1, "BAD_OPTION", "steps are counted from 1, found ", step.count, ".");
  Clip::Norms::check(step.slot);
  const bool clips = step.clip_norm > 0;
  if (clips && !encoder->clip) encoder->clip = std::make_shared<Clip>(encoder->device);
  encoder->device->submit(encoder->stage("optimiser"), [encoder, step, clip = clips ? encoder->clip : nullptr] {
    if (clip) encoder->parameters.clip(step, clip->factor.as<float>(), clip->norms.at(step.slot));
    encoder->parameters.optimise(step, clip ? clip->factor.as<float>() : nullptr);
    if (clip) clip->norms.publish(step.slot);
    encoder->executor.parameters_changed();
  });
}

std::function<double()> gradient_norm(const EncoderPtr& encoder, int slot) {
  Clip::Norms::check(slot);
  LGD_CHECK(encoder->clip, "BAD_OPTION", "no step of ", encoder->program.graph.name, " was clipped so far.");
  return [clip = encoder->clip, name = encoder->program.graph.name, slot] {
    const double norm = clip->norms.read(slot);
    LGD_CHECK(std::isfinite(norm), "NON_FINITE", "the gradients of ", name, " have a value that is not finite");
    return norm;
  };
}

}  // namespace lgd
