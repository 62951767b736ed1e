// The engine's public face: the only C++ header that the binding may use. Opaque handles, plain structs, no templates,
// no napi.
//
// Calls marked [queued] return at once and run in order on the device's thread; an error in one is kept and reaches the
// next call that waits. Calls marked [waits] block the calling thread: the binding runs them off the JavaScript thread.
// Tensors are row-major; images on a device are NHWC. Sizes: B batch, D embedding, K categories, Q queue. Defaults are
// the published recipe's, for native programs; training passes every field that lib/config/config.ts has.
#pragma once
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/error.h"  // lgd::Error, which every call may throw
#include "core/graph_tuner.h"

namespace lgd {

class Device;
struct Tensor;        // float32 or bfloat16 array in device memory
struct PixelStore;    // decoded images in host memory or in a memory-mapped file
struct DeviceStep;    // what is kept of a training step from one time to the next: its CUDA graph
struct Encoder;       // a compiled graph with its parameters, gradients and optimiser state
struct SemanticHead;  // both banks and the queue, with the loss over them
struct RowFile;       // embeddings in a memory-mapped file
using DevicePtr = std::shared_ptr<Device>;
using TensorPtr = std::shared_ptr<Tensor>;
using DeviceStepPtr = std::shared_ptr<DeviceStep>;
using PixelStorePtr = std::shared_ptr<PixelStore>;
using EncoderPtr = std::shared_ptr<Encoder>;
using SemanticHeadPtr = std::shared_ptr<SemanticHead>;
using RowFilePtr = std::shared_ptr<RowFile>;

// ---- build and devices ----------------------------------------------------------------------------------------------
struct BuildInfo {
  std::string version, compiler, isa, build_id;
  bool cuda = false;
  int cuda_runtime = 0;  // 13000 for 13.0
  std::vector<std::string> cuda_architectures;
};
BuildInfo build_info();

struct CudaDeviceInfo {
  int index = 0;
  std::string name, compute_capability;
  double memory_bytes = 0;
  int multiprocessors = 0;
  // has products by warpgroups, and code for them is in this build ($LGDISTILL_WGMMA=0: not)
  bool wgmma = false;
  bool programmatic_launches = false;  // has programmatic dependent launches ($LGDISTILL_PDL=0: not)
};
struct CudaStatus {
  bool available = false;
  std::string reason;  // why not, or empty
  int driver = 0;
  std::vector<CudaDeviceInfo> devices;
};
// starts no driver, and so neither hangs nor ends the process with one that is broken
int cuda_driver();
CudaStatus cuda_status();  // never throws

struct DeviceInfo {
  std::string kind, name, compute_capability;
  std::string products;  // what forms dense products of bfloat16: wgmma or mma.sync; empty on the CPU
  // how the kernels of a step follow each other: programmatic or serialized; empty on the CPU
  std::string launches;
  int index = 0, threads = 0;
  double memory_bytes = 0, allocated_bytes = 0, peak_bytes = 0;
};
// What a CUDA device may use of what it has; false takes mma.sync in the place of wgmma, and serialized launches.
struct DeviceFeatures {
  bool wgmma = true, programmatic_launches = true;
};
DevicePtr open_device(const std::string& kind /* cpu | cuda */, int index, int threads /* 0: all cores */,
                      const DeviceFeatures& features = {});
// How far products by wgmma are from those by mma.sync (ops/warpgroup_trial.h). Device's thread.
double wgmma_difference(const DevicePtr& device);
// The time of a step with programmatic launches in that of one with serialized ones (ops/launch_trial.h). Device's
// thread.
double programmatic_launch_time(const DevicePtr& device);
DeviceInfo device_info(const DevicePtr& device);
// Calls done(null) once everything queued before has run, done(error) if any of it failed (the error is then
// forgotten). [queued]
void synchronize(const DevicePtr& device, std::function<void(std::exception_ptr)> done);
// Runs work on the device's thread in order, then done, for which somebody waits (Device::ask). [queued]
void submit(const DevicePtr& device, std::string stage, std::function<void()> work,
            std::function<void(std::exception_ptr)> done);

// ---- steps: CUDA graphs and branches, which are nothing on the CPU --------------------------------------------------
// What is queued between begin_step and end_step may start as a whole, as one CUDA graph (core/timeline.h), from the
// second time on. The step may differ from the one before in anything; it costs least if only numbers and addresses
// differ.
struct StepInfo {
  // steps: run call by call; as one graph; begun as one and cut short by a wait
  int64_t eager = 0, launched = 0, interrupted = 0;
  // graphs whose shape was new; operations of the last one; those given other arguments than the step before
  int64_t instantiated = 0, nodes = 0, changed = 0;
  int64_t programmatic = 0;            // those that may start before the one that they come after ends
  GraphWay way;                        // in which the last graph ran
  bool tuning = false;                 // other ways to run it are still being compared
  std::vector<GraphTuner::Time> ways;  // those compared
  // why the driver took no graph the last time that it did not, and some steps ran call by call; empty: it always did
  std::string refused;
};
DeviceStepPtr make_step(const DevicePtr& device);
const DevicePtr& device_of(const DeviceStepPtr& step);
void begin_step(const DeviceStepPtr& step);  // [queued]
// given_up: what the caller was to queue in it is not all there. [queued]
void end_step(const DeviceStepPtr& step, bool given_up = false);
// `undo` is called behind the end of the step that is open if it is given up, or has lost work. Device's thread.
void undo_if_given_up(const DeviceStepPtr& step, std::function<void()> undo);
// Around what moves numbers that outlive the step, queued without anything that waits: nothing of it happens where the
// step has lost work. [queued]
void begin_update(const DeviceStepPtr& step);
void end_update(const DeviceStepPtr& step);
StepInfo step_info(const DeviceStepPtr& step);  // device's thread
// Throws, once, what cost a step of this kind that has ended by now: an error of its own work or, where several use one
// device, of another's. Of a caller that knows of an error already (is_told), only that of work before the step, which
// is another's.
void check_step(const DeviceStepPtr& step, bool is_told);
// What is queued between begin_branch and end_branch runs beside what is queued after it, until join_branch or the end
// of the step. [queued]
void begin_branch(const DevicePtr& device);
void end_branch(const DevicePtr& device);
void join_branch(const DevicePtr& device);

// ---- tensors --------------------------------------------------------------------------------------------------------
TensorPtr make_tensor(const DevicePtr& device, const std::vector<int64_t>& shape);  // float32, zeroed
constexpr int most_images = 65535;  // of a batch: a grid of CUDA has no more blocks on its second and third side
constexpr int metric_slots = 64;    // steps whose numbers are kept until they are read

// A batch of images that encoders of this device and precision take as input: [B,H,W,3], channels padded as the device
// likes.
TensorPtr make_images(const DevicePtr& device, int batch, int height, int width, bool bfloat16);
const DevicePtr& device_of(const TensorPtr& tensor);
std::vector<int64_t> shape_of(const TensorPtr& tensor);
void write_tensor(const TensorPtr& tensor, std::vector<float> values);  // [queued]
// [B,3,H,W] -> the device's layout [queued]
void write_images(const TensorPtr& images, std::vector<float> nchw);
// same device, shape and type [queued]
void copy_tensor(const TensorPtr& from, const TensorPtr& to);
// on the device's thread only [waits]
void read_tensor(const TensorPtr& tensor, std::vector<float>& values);
// on the device's thread only [waits]
void read_images(const TensorPtr& images, std::vector<float>& nchw);

// ---- encoders -------------------------------------------------------------------------------------------------------
// A graph is a list of nodes in execution order; node i's output is value i + 1, value 0 is the image batch.
struct GraphNode {
  std::string op;           // see native/graph/graph.h for the list and each op's attributes
  std::string name;         // for messages: "features.3.conv.0"
  std::vector<int> inputs;  // value numbers
  std::vector<std::string> parameters;
  std::vector<std::pair<std::string, double>> attributes;
  std::vector<std::pair<std::string, std::string>> labels;  // textual attributes, such as {"kind", "relu6"}
};
struct GraphParameter {
  std::string name;
  std::vector<int64_t> shape;  // torchvision's: OIHW, [O,I], [C]
  bool trainable = true;       // false: a buffer such as running_mean
  bool decay = true;           // takes part in weight decay when norm scales and biases are excluded
};
struct GraphSpec {
  std::string name;
  std::vector<GraphNode> nodes;
  std::vector<GraphParameter> parameters;
  std::vector<int> outputs;  // value numbers
};
enum class Optimizer { sgd, adamw };
struct EncoderOptions {
  int batch = 1, height = 224, width = 224;
  bool bfloat16 = false;  // storage of activations; on the CPU they are rounded so, and stored as float32
  bool training = true;   // false: forward only; norms are folded and memory is reused
  Optimizer optimizer = Optimizer::sgd;  // of the training: what there are tables for
};
struct EncoderInfo {
  int64_t output_size = 0;                    // values an image, of all outputs together
  std::vector<std::vector<int64_t>> outputs;  // [h,w,c] of each
  double macs_per_image = 0, parameters = 0, arena_bytes = 0, parameter_bytes = 0;
  int kernels_forward = 0, kernels_backward = 0;
};
// throws BAD_MODEL, BAD_SHAPE, OUT_OF_MEMORY
EncoderPtr make_encoder(const DevicePtr& device, const GraphSpec& graph, const EncoderOptions& options);
EncoderInfo encoder_info(const EncoderPtr& encoder);
enum class Slot { value, gradient, momentum /* of AdamW the first moment */, second_moment /* AdamW's alone */ };
// Values in torchvision's layout (OIHW). Unknown names and wrong sizes throw at once; the copy is [queued].
void write_parameter(const EncoderPtr& encoder, const std::string& name, Slot slot, std::vector<float> values);
// device's thread [waits]
void read_parameter(const EncoderPtr& encoder, const std::string& name, Slot slot, std::vector<float>& values);
struct ForwardOptions {
  bool training = false;        // batch statistics, dropout, stochastic depth; needs EncoderOptions::training
  uint64_t seed = 0, step = 0;  // of dropout and stochastic depth
};
void forward(const EncoderPtr& encoder, const TensorPtr& images, const ForwardOptions& options);  // [queued]
// What training forwards in a step that has begun make of the statistics of norms is undone where the step is given up:
// on the CPU. A GPU's steps start when they are whole. [queued]
void keep_statistics(const EncoderPtr& encoder, const DeviceStepPtr& step);
// float32. One output [B,h,w,c] is a tensor [B h w, c], of pooled features [B, c]; several lie one behind the other,
// each [B,h,w,c], in a tensor [1, B output_size].
TensorPtr encoder_output(const EncoderPtr& encoder);
void zero_gradients(const EncoderPtr& encoder);  // [queued]
// Adds to the gradients, or, afresh, sets them, from d_output = dL/d output, float32 and as large as the output; the
// last forward must have been a training one. [queued]
void backward(const EncoderPtr& encoder, const TensorPtr& d_output, bool afresh = false);
struct OptimizerStep {
  double learning_rate = 0, weight_decay = 0;
  bool decay_norm_and_bias = true;                    // published recipe: true
  double gradient_scale = 1;                          // 1 / accumulated batches
  double momentum = 0.9;                              // of SGD
  double beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8;  // of AdamW
  int64_t count = 1;                                  // of AdamW: which step it is since the moments were zero, from 1
  double clip_norm = 0;  // the norm that gradients are clipped to (optimizer/clip_norm.h); 0: none
  int slot = 0;          // in [0, metric_slots): where the norm of gradients that are clipped goes
};
// One step of the encoder's optimiser with its gradients (optimizer/sgd.h, optimizer/adamw.h).
void optimizer_step(const EncoderPtr& encoder, const OptimizerStep& step);  // [queued]
// Of the clipped step that wrote the slot last: the norm of the gradients, times |gradient_scale|, before they were
// clipped. BAD_OPTION where no step was clipped so far. What it gives is to be called on the device's thread: it waits
// for that step, not for work queued after it; a norm that is not finite throws NON_FINITE. [waits]
std::function<double()> gradient_norm(const EncoderPtr& encoder, int slot);

// ---- images and augmentation ----------------------------------------------------------------------------------------
struct PixelStoreOptions {
  double memory_limit_bytes = 0;  // past it, pixels go to a memory-mapped file
  std::string spill_folder;       // must exist; the file has no name there and goes with the store
};
PixelStorePtr make_pixel_store(const PixelStoreOptions& options);
// Adds one RGB image (uint8 HWC); returns its index. Thread-safe. Throws NOT_WRITABLE when the spill file cannot grow.
int64_t append_pixels(const PixelStorePtr& store, int width, int height, const uint8_t* rgb, size_t bytes);
// Adds one under an index of its own, for a store that is filled anew for each batch: clear_pixels() forgets all images
// and keeps the memory. Throws BAD_OPTION while work that was queued on the images is not done.
void place_pixels(const PixelStorePtr& store, int64_t index, int width, int height, const uint8_t* rgb, size_t bytes);
void clear_pixels(const PixelStorePtr& store);
// A file of raw pixels (uint8 HWC), image after image, as the store's images: mapped, not copied. Before an image is
// used for the first time its checksum is looked at.
struct PixelFileOptions {
  std::string path;
  // where each image's pixels begin in the file; at least 64 bytes follow the last image
  std::vector<double> offsets;
  std::vector<int32_t> widths, heights;
  std::vector<uint32_t> checksums;  // CRC-32C of each image's pixels
  std::vector<double> names;        // where each image's name (UTF-8) begins in the file, and where the last one ends
};
void map_pixels(const PixelStorePtr& store, PixelFileOptions options);
// Fetches pixels of a mapped file that batches to come will need, and looks at their checksums, on a thread of its own;
// nothing for other stores.
void read_ahead(const PixelStorePtr& store, std::vector<int64_t> images);
struct PixelStoreInfo {
  int64_t images = 0;
  double bytes = 0, spilled_bytes = 0;  // decoded: all, and those of them in the spill file
  double mapped_bytes = 0;              // pixels of a mapped file
};
PixelStoreInfo pixel_store_info(const PixelStorePtr& store);
// CRC-32C of bytes; `before` is that of the bytes in front of them, 0 at the start.
uint32_t checksum(const uint8_t* bytes, size_t count, uint32_t before);

// libjpeg-turbo from a shared library (TurboJPEG's interface, 2.1 or later); DEPENDENCY_MISSING where it cannot be
// loaded.
void open_jpeg_decoder(const std::string& path);
// Decodes a JPEG file of three colours to width x height RGB pixels (uint8 HWC), neither larger than the picture:
// reduced by halves while decoding, then by an antialiased cubic (a = -1/2), then from the colours of an ICC profile,
// if one is given, to sRGB. What the file says of its orientation and colours is not looked at. Thread-safe; one
// thread. Throws BAD_IMAGE for any other file, for one that warns of damage, and for a profile that is more than three
// curves and a matrix.
void decode_jpeg(std::span<const uint8_t> file, std::span<const uint8_t> profile, int width, int height, uint8_t* rgb);
// The same into a store: decode_jpeg() and place_pixels() without a copy.
void place_jpeg(const PixelStorePtr& store, int64_t index, std::span<const uint8_t> file,
                std::span<const uint8_t> profile, int width, int height);

// MoCo v2's recipe; torchvision's definitions. A probability of 0 leaves a step out.
struct AugmentRecipe {
  bool train = true;  // false: resize short side to `resize`, centre crop (evaluation); nothing drawn
  float scale_min = 0.2f, scale_max = 1, ratio_min = 3.0f / 4, ratio_max = 4.0f / 3;  // RandomResizedCrop
  float flip_probability = 0.5f;
  float jitter_probability = 0.8f, brightness = 0.4f, contrast = 0.4f, saturation = 0.4f, hue = 0.1f;
  float grey_probability = 0.2f;
  float blur_probability = 0.5f, blur_sigma_min = 0.1f, blur_sigma_max = 2;
  int resize = 0;  // evaluation: short side in pixels before the centre crop; 0: the output size
  float mean[3] = {0, 0, 0}, std[3] = {1, 1, 1};
};
struct AugmentBatch {
  std::vector<int64_t> images;     // indices into the store; B of them
  std::vector<uint64_t> draw_ids;  // which draw for each image; (seed, epoch, draw id) keys the random numbers
  uint64_t seed = 0, epoch = 0;
};
// Fills images [B,H,W,3] with the augmented, normalised views. The same draws on every backend. [queued]
void augment(const PixelStorePtr& store, const AugmentRecipe& recipe, AugmentBatch batch, const TensorPtr& images);

// ---- semantic head --------------------------------------------------------------------------------------------------
struct SemanticOptions {
  int64_t dimension = 0, categories = 0;       // D; K (0: no banks, queue only)
  int64_t queue_size = 0;                      // Q; 0: no queue
  bool use_textual = true, use_visual = true;  // which banks take part in the loss
  // 1 - cosine of student and teacher in the place of both parts (semantic/feature_loss.h)
  bool feature = false;
  float alpha = 0.5f;  // weight of the visual part; the textual part has 1 - alpha
  float student_temperature = 0.2f, teacher_temperature = 0.01f;
  float momentum = 0.99f;  // of the visual anchors
  bool bfloat16 = false;   // operands of the similarity products; CUDA only
};
// One step's numbers; means over the batch unless said otherwise. Entropies in nats.
struct SemanticMetrics {
  double loss = 0, loss_visual = 0, loss_textual = 0, kl_visual = 0, kl_textual = 0;
  double entropy_visual = 0, entropy_textual = 0;  // of the teacher's targets
  double own_mass = 0;                             // target mass on the own-embedding entry of the visual part
  // share of images whose student and teacher have the same nearest category
  double agreement = 0;
  double categories_hit = 0, categories_seen = 0;  // counts: by this batch; so far
};
SemanticHeadPtr make_semantic_head(const DevicePtr& device, const SemanticOptions& options);
// Bank state. textual and visual [K,D] unit/anchor rows, seen [K] (0 or 1), queue [Q,D], queue_position < Q,
// queue_filled <= Q.
struct SemanticState {
  std::vector<float> textual, visual, queue;
  std::vector<uint8_t> seen;
  int64_t queue_position = 0, queue_filled = 0;
};
void write_semantic_state(const SemanticHeadPtr& head, SemanticState state);  // [queued]
// device's thread [waits]
void read_semantic_state(const SemanticHeadPtr& head, SemanticState& state);
// Loss over the banks and its gradient. student, teacher: raw embeddings, float32 [B,D]; d_student float32 [B,D] =
// scale * dL/d student. The visual part's softmax runs over [own teacher embedding | visual bank (use_visual) | filled
// queue]; with neither textual nor visual bank this is SEED. A head keeps the metrics of the last metric_slots calls:
// slot in [0, metric_slots). [queued]
void bank_loss(const SemanticHeadPtr& head, const TensorPtr& student, const TensorPtr& teacher,
               const TensorPtr& d_student, float scale, int slot);
// LGKA (step 7) and the queue, from the teacher embeddings of the last bank_loss. Several batches (gradient
// accumulation) count as one: call bank_update once per optimiser step with all of them; it adds categories_hit and
// categories_seen to the slot. [queued]
void bank_update(const SemanticHeadPtr& head, const std::vector<TensorPtr>& teacher_batches, int slot);
// Metrics of the calls that wrote the slot; waits for them only, not for work queued after them on the device. A zero
// embedding or a non-finite value throws ZERO_EMBEDDING / NON_FINITE. device's thread [waits]
SemanticMetrics read_metrics(const SemanticHeadPtr& head, int slot);

// For each row of queries [N,D], the k most similar rows of bank [K,D] by cosine (both normalised here): indices [N,k]
// and scores [N,k]. The arrays are read where they lie. device's thread [waits]
void top_similar(const DevicePtr& device, std::span<const float> queries, std::span<const float> bank,
                 int64_t dimension, int k, std::vector<int32_t>& indices, std::vector<float>& scores);

// ---- embeddings kept in a file (semantic/row_file.h) ----------------------------------------------------------------
struct RowFileOptions {
  std::string path;                 // exists, and may be written; grown to hold all rows
  int64_t offset = 0;               // bytes before the first row
  int64_t rows = 0, dimension = 0;  // D
};
struct RowFileInfo {
  std::vector<uint8_t> present;  // [rows], 0 or 1
  int64_t damaged = 0;           // rows that are not what their checksums say; they are absent
};
// device's thread [waits]
RowFilePtr open_rows(const DevicePtr& device, const RowFileOptions& options);
RowFileInfo row_file_info(const RowFilePtr& file);  // device's thread
// tensor [n,D] <- rows that are there. [queued]
void load_rows(const RowFilePtr& file, std::vector<int64_t> rows, const TensorPtr& tensor);
// tensor [n,D] <- its rows scaled to length 1 and rounded to binary16; those that the file lacks are written to it,
// those that it has come from it. A row number below 0 is not kept. [queued; waits for the tensor on the device's
// thread]
void keep_rows(const RowFilePtr& file, std::vector<int64_t> rows, const TensorPtr& tensor);

// ---- linear classifiers on frozen features --------------------------------------------------------------------------
// H classifiers of K classes side by side on the same rows (semantic/classifier.h): softmax cross entropy and its
// gradient.
struct ClassifierArguments {
  TensorPtr features;           // [N,D]
  TensorPtr weights, bias;      // [H K, D], [1, H K]
  TensorPtr d_weights, d_bias;  // <- scale * gradient of the losses' sum; null: not wanted
  // [rows, 3 H] <- of each row and classifier: its loss, the class with the largest logit, how many come before the
  // right one; may be null
  TensorPtr results;
  std::vector<int32_t> labels;  // of each row
  std::vector<int32_t> rows;    // which rows of features; empty: all
  int heads = 1;                // H
  bool unit = false;            // rows are divided by their lengths first; a zero row stays
  float scale = 1;
};
void classifier_loss(ClassifierArguments arguments);  // [queued]
// Cross entropy of logits [B,K], such as an encoder's output or, a row a pixel, a map: d_logits [B,K] <- scale *
// gradient of the losses' sum, results [B,3]; either may be null. A row of label -1 has no class: no loss, no gradient.
// [queued]
void softmax_loss(const TensorPtr& logits, std::vector<int32_t> labels, const TensorPtr& d_logits,
                  const TensorPtr& results, float scale);
// The loss of a detector and its gradient (semantic/detection_loss.h). The output holds for each level the class scores
// [B,h,w,K] and then distances and centre-ness [B,h,w,5].
struct DetectionArguments {
  TensorPtr output, d_output;   // d_output <- gradient; may be null
  TensorPtr results;            // [locations, 3] <- each location's losses: classes, box, centre-ness
  std::vector<int64_t> levels;  // B h w of each
  int classes = 0;              // K
  std::vector<int32_t> labels;  // of each location: its class; -1: none; -2: does not count
  // of each location: left, top, right, bottom in units of the level's stride; above 0 where there is a class
  std::vector<float> boxes;
  float class_scale = 1, box_scale = 1, centre_scale = 1;  // of the gradients
};
void detection_loss(DetectionArguments arguments);  // [queued]
// SGD on the values [begin, end) of a tensor: learning rate, momentum, weight decay and scale of a step. [queued]
void sgd_tensor(const TensorPtr& value, const TensorPtr& gradient, const TensorPtr& velocity, const OptimizerStep& step,
                int64_t begin, int64_t end);
// Whole rows of a tensor [N,D], from `row` on. [queued]
void write_rows(const TensorPtr& tensor, int64_t row, std::vector<float> values);

// ---- the same for callers with arrays of their own ------------------------------------------------------------------
// They are read and written where they lie, and must stay there until the call returns.
struct BankLossArguments {
  std::span<const float> student, teacher;  // [B,D] raw
  std::span<const float> textual, visual;   // [K,D]; an empty one is left out of the loss (needs alpha 0 or 1)
  std::span<const float> queue;             // [Q,D]; empty: none
  std::span<float> gradient;                // [B,D] <- dL/d raw student
  int64_t dimension = 0;
  float student_temperature = 0.2f, teacher_temperature = 0.01f, alpha = 0.5f;
  bool bfloat16 = false;
};
struct BankLossResult {
  double loss = 0, loss_visual = 0, loss_textual = 0, kl_visual = 0, kl_textual = 0;
};
// device's thread [waits]
BankLossResult bank_loss(const DevicePtr& device, const BankLossArguments& arguments);
struct FeatureLossArguments {
  std::span<const float> student, teacher;  // [B,D] raw
  std::span<float> gradient;                // [B,D] <- dL/d raw student
  int64_t dimension = 0;
};
// mean of 1 - cosine(student, teacher). device's thread [waits]
double feature_loss(const DevicePtr& device, const FeatureLossArguments& arguments);
struct BankUpdateArguments {
  std::span<const float> teacher, textual, visual;  // [B,D] raw, [K,D], [K,D]
  std::span<const uint8_t> seen;                    // [K]
  std::span<int32_t> assignment;                    // [B] <- each image's category
  std::span<float> visual_after;                    // [K,D] <- the bank after the update
  std::span<uint8_t> seen_after;                    // [K] <- 0 or 1
  int64_t dimension = 0;
  float momentum = 0.99f;
};
// device's thread [waits]
void bank_update(const DevicePtr& device, const BankUpdateArguments& arguments);

}  // namespace lgd
