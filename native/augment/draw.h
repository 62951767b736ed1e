// All random decisions of one augmented view. They are drawn on the host, so every backend gets the same.
//
// Random numbers are Philox words under the key seed ^ augment_key with the counter (epoch * 256 + block, draw id):
// which image is drawn when, and by which thread, changes nothing. Blocks: 0-9 one try of the crop each (area, ratio,
// top, left); 10 flags (flip, jitter, grey, blur); 11 factors (brightness, contrast, saturation, hue); 12 order of the
// jitter, sigma of the blur. Every decision has a word of its own: changing one option leaves all other draws as they
// were.
#pragma once
#include <cstdint>

#include "engine.h"

namespace lgd {

constexpr uint64_t augment_key = 0x61756d656e742121ull;  // keeps these numbers apart from other uses of the same seed

enum class ColourOp : uint8_t { brightness, contrast, saturation, hue, grey };

struct Draw {
  int top = 0, left = 0, height = 1, width = 1;  // crop box, in pixels of the source
  bool flip = false, jitter = false, grey = false, blur = false;
  float factor[4] = {1, 1, 1, 0};  // brightness, contrast, saturation; hue shift in turns
  ColourOp order[4] = {ColourOp::brightness, ColourOp::contrast, ColourOp::saturation, ColourOp::hue};
  float sigma = 0;  // of the blur, in output pixels
};

// The crop is torchvision's RandomResizedCrop: up to ten tries of area ~ U(scale) and log ratio ~ U(log ratio), then
// the largest central box within the allowed ratios. Factors are ColorJitter's: U(max(0, 1 - b), 1 + b), hue U(-h, h).
Draw draw_view(const AugmentRecipe& recipe, int width, int height, uint64_t seed, uint64_t epoch, uint64_t draw_id);

}  // namespace lgd
