#include "augment/draw.h"

#include <algorithm>
#include <cmath>

#include "core/philox.h"

namespace lgd {

namespace {

constexpr int crop_tries = 10;

struct Words {
  uint64_t key, epoch, draw_id;
  Philox4 block(int number) const { return philox(key, (epoch << 8) | uint64_t(number), draw_id); }
};

double unit(uint32_t word) { return double(word) * (1.0 / 4294967296.0); }
double between(double low, double high, uint32_t word) { return low + (high - low) * unit(word); }
int whole_below(int count, uint32_t word) { return int((uint64_t(word) * uint64_t(count)) >> 32); }
int rounded(double x) { return int(std::nearbyint(x)); }  // halves to even, as Python rounds

void draw_crop(const AugmentRecipe& recipe, int width, int height, const Words& words, Draw& draw) {
  const double area = double(width) * height;
  const double log_low = std::log(double(recipe.ratio_min)), log_high = std::log(double(recipe.ratio_max));
  for (int attempt = 0; attempt < crop_tries; ++attempt) {
    const Philox4 random = words.block(attempt);
    const double target = area * between(recipe.scale_min, recipe.scale_max, random.word[0]);
    const double ratio = std::exp(between(log_low, log_high, random.word[1]));
    const int w = rounded(std::sqrt(target * ratio)), h = rounded(std::sqrt(target / ratio));
    if (w < 1 || w > width || h < 1 || h > height) continue;
    draw.width = w;
    draw.height = h;
    draw.top = whole_below(height - h + 1, random.word[2]);
    draw.left = whole_below(width - w + 1, random.word[3]);
    return;
  }
  const double ratio = double(width) / height;
  draw.width = width;
  draw.height = height;
  if (ratio < recipe.ratio_min) draw.height = std::clamp(rounded(width / double(recipe.ratio_min)), 1, height);
  else if (ratio > recipe.ratio_max) draw.width = std::clamp(rounded(height * double(recipe.ratio_max)), 1, width);
  draw.top = (height - draw.height) / 2;
  draw.left = (width - draw.width) / 2;
}

// Permutation number `index` of 24, in lexicographic order.
void draw_order(int index, ColourOp order[4]) {
  ColourOp rest[4] = {ColourOp::brightness, ColourOp::contrast, ColourOp::saturation, ColourOp::hue};
  const int weight[4] = {6, 2, 1, 1};
  for (int place = 0; place < 4; ++place) {
    const int chosen = index / weight[place];
    index %= weight[place];
    order[place] = rest[chosen];
    for (int i = chosen; i + 1 < 4 - place; ++i) rest[i] = rest[i + 1];
  }
}

}  // namespace

Draw draw_view(const AugmentRecipe& recipe, int width, int height, uint64_t seed, uint64_t epoch, uint64_t draw_id) {
  const Words words{seed ^ augment_key, epoch, draw_id};
  Draw draw;
  draw_crop(recipe, width, height, words, draw);

  const Philox4 flags = words.block(crop_tries);
  draw.flip = unit(flags.word[0]) < recipe.flip_probability;
  draw.jitter = unit(flags.word[1]) < recipe.jitter_probability;
  draw.grey = unit(flags.word[2]) < recipe.grey_probability;
  draw.blur = unit(flags.word[3]) < recipe.blur_probability;

  const Philox4 factors = words.block(crop_tries + 1);
  const float strength[3] = {recipe.brightness, recipe.contrast, recipe.saturation};
  for (int i = 0; i < 3; ++i)
    draw.factor[i] = float(between(std::max(0.0, 1.0 - strength[i]), 1.0 + strength[i], factors.word[i]));
  draw.factor[3] = float(between(-double(recipe.hue), recipe.hue, factors.word[3]));

  const Philox4 last = words.block(crop_tries + 2);
  draw_order(whole_below(24, last.word[0]), draw.order);
  draw.sigma = float(between(recipe.blur_sigma_min, recipe.blur_sigma_max, last.word[1]));
  return draw;
}

}  // namespace lgd
