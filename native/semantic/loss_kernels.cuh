// The kernels of the loss on CUDA, as functions that enqueue them; bank_loss.cu says in which order and why.
#pragma once
#include "core/cuda_device.cuh"
#include "semantic/kernels.h"

namespace lgd::loss_cuda {

// weights are stored so many times larger: float16 then keeps 1e-8, a share of a hundred million names
constexpr float f16_weight_scale = 1024;

// One launch per function below, unless it says otherwise. B images, N anchors.
struct Pairs {
  int64_t batch, dimension;
  const float *student, *teacher;      // raw [B,D]
  float* teacher_unit;                 // [B,D]
  float *student_norm, *teacher_norm;  // [B]: 0 of a zero row, NaN of one that is not finite
  float* own_score;                    // [B]: student . teacher, both of length 1
};
// Unit rows as operands, [2 B, ..]: students, then teachers.
void normalise_pairs(Context&, const Pairs&, float* rows);
void normalise_pairs(Context&, const Pairs&, OperandLayout, f16* rows);

struct ScoreProduct {
  int64_t batch, anchor_count;
  OperandLayout layout;
  const f16 *rows, *anchors;
};
void form_scores(Context&, const ScoreProduct&, float* scores, int64_t stride);

// Everything the softmaxes need besides scores, and what they leave.
struct Softmax {
  int64_t batch;
  int64_t textual, total;  // columns [0, textual) and [textual, total)
  bool textual_part, visual_part;
  float student_factor, teacher_factor;  // 1 / temperature
  float textual_weight, visual_weight;   // factor of (q - p)
  const float* own_score;                // [B]
  float* own_weight;                     // [B]
  RowStats* stats;                       // [B]
  int32_t* assignment;                   // [B] nearest category of the teacher; may be null
};
// Weights of the gradient from stored scores [.., stride]: over the student's scores, or those of columns [begin, end)
// as float16 to `weights`, filled with zeros up to a multiple of 8.
void softmax_in_place(Context&, const Softmax&, float* student, const float* teacher, int64_t stride);
void softmax_to_f16(Context&, const Softmax&, const float* student, const float* teacher, int64_t stride, int64_t begin,
                    int64_t end, f16* weights, int64_t weight_stride);

struct SumProduct {
  int64_t batch, dimension, anchor_count;
  OperandLayout layout;
  const f16* weights;  // [B, weight_stride], zeros behind anchor_count up to a multiple of 8
  int64_t weight_stride;
  const f16* anchors;  // [anchor_count, layout]
  int64_t parts;       // shares of the anchors
  bool add;            // to what is there
  float* sums;         // [parts, B, D]
};
int64_t sum_parts(const Context&, int64_t batch, int64_t dimension, int64_t anchor_count);
void form_sums(Context&, const SumProduct&);

// The same with float32 operands, for the checking mode; `add` is never wanted there.
int64_t sum_parts_f32(int64_t batch, int64_t dimension, int64_t anchor_count);
void form_sums_f32(Context&, int64_t batch, int64_t dimension, int64_t anchor_count, const float* weights,
                   int64_t stride, const float* anchors, int64_t parts, float* sums);

// The softmaxes without stored scores: what every image and part needs for its weights, from scores that live in
// registers alone.
struct StreamMemory {
  struct Sums;
  Sums* partial;    // [splits, B]
  float4* factors;  // [2, B]
};
// Takes its memory from `carver`.
StreamMemory stream_memory(const Context&, Carver&, const ScoreProduct&, const Softmax&);
void stream_softmax(Context&, const ScoreProduct&, const Softmax&, const StreamMemory&);  // 2 launches
// Weights of `count` columns from `begin` on, all of one part, to weights [B, weight_stride]; fills up to a multiple of
// 128 columns.
constexpr int64_t stream_columns = 128;
void stream_weights(Context&, const ScoreProduct&, const Softmax&, const StreamMemory&, int64_t begin, int64_t count,
                    f16* weights, int64_t weight_stride);

struct Finish {
  int64_t rows, dimension, parts, part_size;
  const float* sums;  // [parts, ..]
  float factor;       // of the sums and of the own entry's weight
  const float* own_weight;
  const float *student, *teacher_unit, *norm;
  float* d_student;
  // The batch's means, when record is not null: one block more.
  int64_t batch;
  const RowStats* stats;
  const float *student_norm, *teacher_norm;
  LossRecord* record;
  UpdateRecord* cleared;  // may be null
};
void finish_loss(Context&, const Finish&);

}  // namespace lgd::loss_cuda
