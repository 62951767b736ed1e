// The two layers of a squeeze-and-excitation gate (Hu et al. 2018), on the means of N images' channels:
//
//   hidden = w1 x + b1,   excited = w2 inner(hidden) + b2,   gate = outer(excited)
//
// What fuse_layers.cpp makes of pool -> layer -> activation -> layer -> activation -> channel scale. Unfused, these are
// four operations forward and six backward on next to nothing: what they cost is their launches.
#pragma once
#include "core/activation.h"
#include "core/context.h"

namespace lgd {

struct Excitation {
  // N, C, S; on CUDA multiples of 8, and C + S elements of at most excitation_widest bytes
  int images, channels, squeezed;
  Act inner, outer;      // no GELU
  const void *w1, *w2;   // [S][C], [C][S], storage type
  const float *b1, *b2;  // [S], [C]
};
constexpr int excitation_widest = 7680;  // of each image that a block has in shared memory, on every GPU since sm_80

// What backward adds to, like w1, b1, w2, b2.
struct ExcitationGradients {
  float *w1, *b1, *w2, *b2;
};

// x [N,C]; hidden [N,S], excited [N,C] and gate [N,C] are written, storage type; the activations are of hidden and
// excited as stored.
void excitation_forward_cpu(Context&, const Excitation&, DType type, const void* x, void* hidden, void* excited,
                            void* gate);
void excitation_forward_cuda(Context&, const Excitation&, DType type, const void* x, void* hidden, void* excited,
                             void* gate);

// From d_gate [N,C], storage type: d_x [N,C], storage type, written, and the gradients of the layers, added to.
void excitation_backward_cpu(Context&, const Excitation&, DType type, const void* x, const void* hidden,
                             const void* excited, const void* d_gate, void* d_x, const ExcitationGradients&);
void excitation_backward_cuda(Context&, const Excitation&, DType type, const void* x, const void* hidden,
                              const void* excited, const void* d_gate, void* d_x, const ExcitationGradients&);

}  // namespace lgd
