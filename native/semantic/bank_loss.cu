// The loss on CUDA: which kernels, in which order.
//
// Launches, with what each moves and multiplies and what that should take an H100 (2.98 TB/s, L2 5.5 TB/s, mma.sync 400
// TF, and 2 us at least for a launch); K names in two banks, N = 2 K. Estimates, all but the 17 us: a prototype of that
// tile, measured.
//                              B 256, D 1024, K 1000: stored           B 2048, D 512, K 21,841: long banks
//   1 normalise_pairs          4 MB                      3 us          19 MB                          8 us
//   2 form_scores, 2 B N D     2.1 GFLOP, L2 64 MB       17 us
//   3 softmax                  4 MB + 1 MB, from L2      5 us
//   4 form_sums, B N D         1.0 GFLOP, L2 33 MB       8-10 us
//   2 stream_sums, 2 B N D                                             183 GFLOP, L2 2.8 GB           0.5-0.6 ms
//   3 merge                                                            0.6 MB                         4 us
//   4 stream_weights, 2 B N D                                          183 GFLOP, L2 2.8 GB           0.5-0.6 ms
//   5 form_sums, B N D                                                 92 GFLOP, L2 1.4 GB            0.25-0.3 ms
//     (4 and 5 once a chunk of anchors: 4 chunks)
//   last: finish, means        4 + 3 MB, from L2         4 us          25 MB                          9 us
//   all                        5 launches, 37-39 us                    12 launches, 1.3-1.5 ms
//   memory                     4 + 4 + 1 + 4 MB                        4 + 45 + 16 + 0.5 MB
// Float32 products (the checking mode) are fused multiply-adds in launches 1 to 5, once a block of images whose scores
// fit the budget. Nothing waits for the device, nothing is added up in an order that may change.
#include <algorithm>

#include "semantic/loss_kernels.cuh"

namespace lgd {

namespace {

using namespace loss_cuda;

// Of scores that are stored, as float32, or else of a chunk's weights, as float16. Beyond the L2 cache forming scores
// twice takes about as long as writing and reading them (bank_stream.cu), and needs no memory.
constexpr int64_t f16_score_bytes = int64_t(64) << 20;

int64_t round_up(int64_t count, int64_t to) { return (count + to - 1) / to * to; }

// Arrays of a whole batch, whatever the products.
struct BatchMemory {
  float *teacher_unit, *student_norm, *teacher_norm, *own_score, *own_weight;
  RowStats* stats;

  BatchMemory(Carver& carver, const BankLossShape& shape, const BankLossArrays& arrays) {
    teacher_unit = arrays.teacher_unit ? arrays.teacher_unit : carver.take<float>(shape.batch * shape.dimension);
    student_norm = carver.take<float>(shape.batch);
    teacher_norm = arrays.teacher_norm ? arrays.teacher_norm : carver.take<float>(shape.batch);
    own_score = carver.take<float>(shape.batch);
    own_weight = carver.take<float>(shape.batch);
    stats = carver.take<RowStats>(shape.batch);
  }
};

// The problems of `rows` images from `first` on; weights are stored `weight_scale` times too large.
struct Block {
  Pairs pairs;
  Softmax softmax;
  Finish finish;

  Block(const BankLossShape& shape, const BankLossSettings& settings, const BankLossArrays& arrays,
        const BatchMemory& memory, float weight_scale, int64_t first, int64_t rows) {
    const int64_t at = first * shape.dimension;
    pairs = {rows,
             shape.dimension,
             arrays.student + at,
             arrays.teacher + at,
             memory.teacher_unit + at,
             memory.student_norm + first,
             memory.teacher_norm + first,
             memory.own_score + first};
    softmax = {rows,
               shape.textual,
               shape.anchors(),
               shape.textual_part,
               shape.visual_part,
               1 / settings.student_temperature,
               1 / settings.teacher_temperature,
               float(weight_scale * (1 - double(settings.alpha))),
               weight_scale * settings.alpha,
               memory.own_score + first,
               memory.own_weight + first,
               memory.stats + first,
               arrays.assignment ? arrays.assignment + first : nullptr};
    finish = {};
    finish.rows = rows;
    finish.dimension = shape.dimension;
    finish.factor = float(double(settings.scale) / (double(shape.batch) * settings.student_temperature * weight_scale));
    finish.own_weight = softmax.own_weight;
    finish.student = pairs.student;
    finish.teacher_unit = pairs.teacher_unit;
    finish.norm = pairs.student_norm;
    finish.d_student = arrays.d_student + at;
    finish.batch = shape.batch;
    finish.stats = memory.stats;
    finish.student_norm = memory.student_norm;
    finish.teacher_norm = memory.teacher_norm;
    if (first + rows < shape.batch) return;
    finish.record = arrays.record;
    finish.cleared = arrays.cleared;
  }
  void take_sums(int64_t parts, const float* sums) {
    finish.parts = parts;
    finish.part_size = finish.rows * finish.dimension;
    finish.sums = sums;
  }
};

// What a way to form the loss keeps besides BatchMemory, laid out twice: for its size, then in the scratch memory.
template <class Run>
void with_scratch(Context& device, const Run& run) {
  Carver sizes(nullptr);
  run(sizes, false);
  Carver carver(device.scratch(sizes.used()));
  run(carver, true);
}

void run_f32(Context& device, const BankLossShape& shape, const BankLossSettings& settings,
             const BankLossArrays& arrays) {
  const int64_t dimension = shape.dimension, stride = score_stride(shape.anchors());
  const int64_t most = rows_at_a_time(shape.batch, 2 * stride);
  const GradientRange range(shape, 1 - settings.alpha, settings.alpha);
  const int64_t parts = range.size() == 0 ? 0 : sum_parts_f32(most, dimension, range.size());
  with_scratch(device, [&](Carver& carver, bool ready) {
    const BatchMemory memory(carver, shape, arrays);
    float* rows = carver.take<float>(2 * most * dimension);
    float* scores = carver.take<float>(2 * most * stride);
    float* sums = carver.take<float>(parts * most * dimension);
    for (int64_t first = 0; ready && first < shape.batch; first += most) {
      const int64_t count = std::min(most, shape.batch - first);
      Block block(shape, settings, arrays, memory, 1, first, count);
      normalise_pairs(device, block.pairs, rows);
      similarities_cuda(device, 2 * count, shape.anchors(), dimension, rows, arrays.anchors, scores, stride);
      softmax_in_place(device, block.softmax, scores, scores + count * stride, stride);
      if (parts > 0)
        form_sums_f32(device, count, dimension, range.size(), scores + range.begin, stride,
                      arrays.anchors + range.begin * dimension, parts, sums);
      block.take_sums(parts, sums);
      finish_loss(device, block.finish);
    }
  });
}

// The parts of the sums' product for a chunk of `columns` anchors from `begin` on.
SumProduct sum_product(const ScoreProduct& scores, int64_t dimension, int64_t begin, int64_t columns,
                       const f16* weights, int64_t weight_stride, int64_t parts, bool add, float* sums) {
  return {scores.batch,
          dimension,
          columns,
          scores.layout,
          weights,
          weight_stride,
          scores.anchors + begin * scores.layout.stride(),
          parts,
          add,
          sums};
}

void run_stored(Context& device, const BankLossShape& shape, const BankLossSettings& settings,
                const BankLossArrays& arrays, OperandLayout layout) {
  const int64_t stride = score_stride(shape.anchors());
  const GradientRange range(shape, 1 - settings.alpha, settings.alpha);
  const int64_t weight_stride = round_up(range.size(), 8),
                parts = range.size() == 0 ? 0 : sum_parts(device, shape.batch, shape.dimension, range.size());
  with_scratch(device, [&](Carver& carver, bool ready) {
    const BatchMemory memory(carver, shape, arrays);
    f16* rows = carver.take<f16>(2 * shape.batch * layout.stride());
    float* scores = carver.take<float>(2 * shape.batch * stride);
    f16* weights = carver.take<f16>(shape.batch * weight_stride);
    float* sums = carver.take<float>(parts * shape.batch * shape.dimension);
    if (!ready) return;
    Block block(shape, settings, arrays, memory, f16_weight_scale, 0, shape.batch);
    const ScoreProduct product = {shape.batch, shape.anchors(), layout, rows, static_cast<const f16*>(arrays.operands)};
    normalise_pairs(device, block.pairs, layout, rows);
    form_scores(device, product, scores, stride);
    softmax_to_f16(device, block.softmax, scores, scores + shape.batch * stride, stride, range.begin, range.end,
                   weights, weight_stride);
    if (parts > 0)
      form_sums(device, sum_product(product, shape.dimension, range.begin, range.size(), weights, weight_stride, parts,
                                    false, sums));
    block.take_sums(parts, sums);
    finish_loss(device, block.finish);
  });
}

void run_streamed(Context& device, const BankLossShape& shape, const BankLossSettings& settings,
                  const BankLossArrays& arrays, OperandLayout layout, int64_t budget) {
  const GradientRange range(shape, 1 - settings.alpha, settings.alpha);
  // Columns of both parts in chunks of equal width that fit the budget.
  const int64_t longest = std::max(shape.textual, shape.anchors() - shape.textual);
  const int64_t most = std::max<int64_t>(
      stream_columns, budget / (shape.batch * int64_t(sizeof(f16))) / stream_columns * stream_columns);
  const int64_t chunks = (longest + most - 1) / most,
                width = chunks == 0 ? 0 : round_up((longest + chunks - 1) / chunks, stream_columns);
  const int64_t parts = range.size() == 0 ? 0 : sum_parts(device, shape.batch, shape.dimension, width);
  with_scratch(device, [&](Carver& carver, bool ready) {
    const BatchMemory memory(carver, shape, arrays);
    f16* rows = carver.take<f16>(2 * shape.batch * layout.stride());
    f16* weights = carver.take<f16>(shape.batch * width);
    float* sums = carver.take<float>(parts * shape.batch * shape.dimension);
    Block block(shape, settings, arrays, memory, f16_weight_scale, 0, shape.batch);
    const ScoreProduct product = {shape.batch, shape.anchors(), layout, rows, static_cast<const f16*>(arrays.operands)};
    const StreamMemory stream = stream_memory(device, carver, product, block.softmax);
    if (!ready) return;
    normalise_pairs(device, block.pairs, layout, rows);
    stream_softmax(device, product, block.softmax, stream);
    for (int64_t begin = range.begin; begin < range.end;) {
      const int64_t end = std::min({begin + width, range.end, begin < shape.textual ? shape.textual : range.end});
      stream_weights(device, product, block.softmax, stream, begin, end - begin, weights, width);
      form_sums(device, sum_product(product, shape.dimension, begin, end - begin, weights, width, parts,
                                    begin > range.begin, sums));
      begin = end;
    }
    block.take_sums(parts, sums);
    finish_loss(device, block.finish);
  });
}

}  // namespace

void bank_loss_cuda(Context& device, const BankLossShape& shape, const BankLossSettings& settings,
                    const BankLossArrays& arrays) {
  if (settings.products == Products::f32) return run_f32(device, shape, settings, arrays);
  const OperandLayout layout =
      operand_layout(shape.dimension, settings.student_temperature, settings.teacher_temperature);
  const int64_t budget = score_budget(f16_score_bytes);
  if (2 * shape.batch * score_stride(shape.anchors()) * int64_t(sizeof(float)) <= budget)
    run_stored(device, shape, settings, arrays, layout);
  else run_streamed(device, shape, settings, arrays, layout, budget);
}

}  // namespace lgd
