// Language-guided knowledge aggregation: how the teacher's embeddings of a batch move the visual bank.
//   c_i = argmax_k u_i . L_k  (the lowest k among equals);  mean_k = mean of u_i over {i : c_i = k}
//   a category hit for the first time:  V_k <- mean_k, seen
//   one seen before:                    V_k <- m V_k + (1 - m) mean_k
//   one not hit:                        unchanged
// V_k is not normalised again (the published code does not), so it may be shorter than 1.
// Sums run over the images in their order, so the same batch gives the same bits.
#pragma once
#include <vector>

#include "semantic/bank_loss.h"

namespace lgd {

// What an update reads and changes, all in device memory.
struct BankTargets {
  const float* textual = nullptr;  // [K,D]; null: there are no banks
  float* visual = nullptr;         // [K,D]
  uint8_t* seen = nullptr;         // [K], on 16 bytes
  float* queue = nullptr;          // [queue_size,D]; null: there is no queue
  int64_t queue_size = 0, queue_position = 0;
  // Where the float16 rows of the visual bank and the queue lie, if they are kept (CUDA).
  void *visual_operands = nullptr, *queue_operands = nullptr;
  OperandLayout layout = {};
};
struct TeacherBatch {
  const float* embeddings;  // [rows,D], raw
  int64_t rows;
};
// What a loss left of all batches, one behind the other; see BankLossArrays.
struct KnownTeachers {
  const float *unit = nullptr, *norm = nullptr;  // null: nothing is known
  const int32_t* assignment = nullptr;
};
// The whole update from the batches of one optimiser step, which count as one. assignment [rows of all] receives c_i
// where nothing is known of them; it may be null. Categories that are not known come from float32 products, whatever
// the loss uses; known ones from the loss's scores: with float16 products an image may then go to the second of two
// categories whose scores are nearer than the rounding (operand_layout()). Enqueues and returns; takes the device's
// scratch memory.
void bank_update_cpu(Context&, int64_t dimension, int64_t categories, float momentum, const std::vector<TeacherBatch>&,
                     const BankTargets&, const KnownTeachers&, int32_t* assignment, UpdateRecord*);
void bank_update_cuda(Context&, int64_t dimension, int64_t categories, float momentum, const std::vector<TeacherBatch>&,
                      const BankTargets&, const KnownTeachers&, int32_t* assignment, UpdateRecord*);

}  // namespace lgd
