// What has to be computed for one output image: the common ground of the backends. A batch is planned once on the host;
// the backends resample, colour, blur and write.
//
// Order of a training view: crop and resize, jitter, greyscale, blur, flip, normalise (MoCo v2; the flip commutes with
// all before it and is done while writing). Images are float RGB in [0, 1] from the first resample on; nothing is
// rounded to 8 bits in between.
//   resize      antialiased bilinear in training, antialiased bicubic (clamped to [0, 1]) in evaluation, as CLIP's
//               preprocessing; resample.h
//   jitter      torchvision's definitions in the drawn order, each clamped to [0, 1]; colour.inl
//   blur        separable Gaussian of 2 radius + 1 taps, radius = side / 20, at least 1 and less than the side
//               (SimCLR's tenth of the side; 23 taps at 224 px, 7 at 64 px); reflected borders; sigma in output pixels
//   normalise   (value - mean) / std
#pragma once
#include <vector>

#include "augment/draw.h"
#include "augment/pixel_store.h"
#include "augment/resample.h"
#include "core/tensor.h"

namespace lgd {

struct ColourStep {
  ColourOp op;
  float factor;  // unused by grey
};

struct View {
  const uint8_t* pixels = nullptr;  // first pixel of the crop
  int64_t row_bytes = 0;            // from one row of the source to the next
  Axis x, y;                        // x.in, y.in: size of the crop
  Filter filter = Filter::triangle;
  ColourStep steps[5] = {};
  int step_count = 0;
  // index of the contrast step, which needs the image's mean before it; step_count if there is none
  int contrast_at = 0;
  int radius_x = 0, radius_y = 0;  // of the blur; both 0: none
  float sigma = 1;
  bool flip = false;

  bool blurred() const { return radius_x > 0 || radius_y > 0; }
};

struct ViewBatch {
  std::vector<View> views;
  int height = 0, width = 0;  // of the output
  float scale[3], shift[3];   // normalise: value * scale + shift
};

// BAD_OPTION for an image that the store lacks, or an evaluation crop larger than the resized image.
ViewBatch plan_views(const PixelStore& store, const AugmentRecipe& recipe, const AugmentBatch& batch, int height,
                     int width);

// Weights of the taps 0..radius of a Gaussian with 2 radius + 1 taps, normalised over all of them. radius >= 0, sigma >
// 0.
void gaussian_weights(int radius, float sigma, float* weights);

void augment_cpu(Device& device, const ViewBatch& batch, const Tensor& images);
void augment_cuda(Device& device, const ViewBatch& batch, const Tensor& images);  // in builds with CUDA only

}  // namespace lgd
