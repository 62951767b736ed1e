// Conversions at the borders of a graph.
#pragma once
#include "core/context.h"

namespace lgd {

// Channels of activations as stored: multiples of 8 on CUDA (16-byte vectors), as they are on the CPU. Padded channels
// hold zeros.
inline int stored_channels(DeviceKind kind, int channels) {
  return kind == DeviceKind::cuda ? (channels + 7) / 8 * 8 : channels;
}
// Channels of images: three on the CPU; on CUDA four where two pixels side by side make a vector
// (ConvShape::pair_taps), else eight.
inline int stored_image_channels(DeviceKind kind, int width) {
  return kind != DeviceKind::cuda ? 3 : width % 2 == 0 ? 4 : 8;
}

// Images of four channels with eight: for graphs that read them by more than convolutions of even stride. out
// [pixels,8] from x [pixels,4].
void widen_images_cpu(Context&, int64_t pixels, DType type, const void* x, void* out);
void widen_images_cuda(Context&, int64_t pixels, DType type, const void* x, void* out);

// The encoder's result: out float32 [rows, channels] from x [rows, stored]; and back: dx [rows, stored] (padding
// zeroed) from d_out.
void unpack_output_cpu(Context&, int64_t rows, int channels, int stored, DType type, const void* x, float* out);
void unpack_output_cuda(Context&, int64_t rows, int channels, int stored, DType type, const void* x, float* out);
void pack_gradient_cpu(Context&, int64_t rows, int channels, int stored, DType type, const float* d_out, void* dx);
void pack_gradient_cuda(Context&, int64_t rows, int channels, int stored, DType type, const float* d_out, void* dx);

// float32 -> storage type, element by element (compute copies of parameters; float32 is a plain copy). On the CPU bf16
// is float32 rounded to bfloat16, to nearest even; `out` may be `from`.
void cast_cpu(Context&, int64_t count, DType to, const float* from, void* out);
void cast_cuda(Context&, int64_t count, DType to, const float* from, void* out);

}  // namespace lgd
