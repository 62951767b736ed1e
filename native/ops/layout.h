// Conversions at the borders of a graph.
#pragma once
#include "ops/context.h"

namespace lgd {

// Channels of images and activations as stored: multiples of 8 on CUDA (16-byte vectors), as they are on the CPU. Padded channels hold zeros.
inline int stored_channels(DeviceKind kind, int channels) { return kind == DeviceKind::cuda ? (channels + 7) / 8 * 8 : channels; }

// The encoder's result: out float32 [rows, channels] from x [rows, stored]; and back: dx [rows, stored] (padding zeroed) from d_out.
void unpack_output_cpu(Context&, int64_t rows, int channels, int stored, DType type, const void* x, float* out);
void unpack_output_cuda(Context&, int64_t rows, int channels, int stored, DType type, const void* x, float* out);
void pack_gradient_cpu(Context&, int64_t rows, int channels, int stored, DType type, const float* d_out, void* dx);
void pack_gradient_cuda(Context&, int64_t rows, int channels, int stored, DType type, const float* d_out, void* dx);

// float32 -> storage type, element by element (compute copies of parameters; float32 is a plain copy).
void cast_cpu(Context&, int64_t count, DType to, const float* from, void* out);
void cast_cuda(Context&, int64_t count, DType to, const float* from, void* out);

}  // namespace lgd
