// engine.h's augment(): checks, plans a batch of views and hands it to the device's backend.
#include <algorithm>
#include <cmath>

#include "augment/view.h"

namespace lgd {

namespace {

void check_probability(float value, const char* name) {
  LGD_CHECK(value >= 0 && value <= 1, "BAD_OPTION", "recipe.", name, " must be from 0 to 1, found ", value);
}

void check_recipe(const AugmentRecipe& recipe) {
  check_probability(recipe.flip_probability, "flipProbability");
  check_probability(recipe.jitter_probability, "jitterProbability");
  check_probability(recipe.grey_probability, "greyProbability");
  check_probability(recipe.blur_probability, "blurProbability");
  LGD_CHECK(recipe.scale_min > 0 && recipe.scale_min <= recipe.scale_max && recipe.scale_max <= 1, "BAD_OPTION",
            "recipe.scaleMin and scaleMax must satisfy 0 < min <= max <= 1, found ", recipe.scale_min, " and ",
            recipe.scale_max);
  LGD_CHECK(recipe.ratio_min > 0 && recipe.ratio_min <= recipe.ratio_max && std::isfinite(recipe.ratio_max),
            "BAD_OPTION", "recipe.ratioMin and ratioMax must satisfy 0 < min <= max, found ", recipe.ratio_min, " and ",
            recipe.ratio_max);
  for (float strength : {recipe.brightness, recipe.contrast, recipe.saturation})
    LGD_CHECK(strength >= 0 && std::isfinite(strength), "BAD_OPTION",
              "recipe.brightness, contrast and saturation must be 0 or more, found ", strength);
  LGD_CHECK(recipe.hue >= 0 && recipe.hue <= 0.5f, "BAD_OPTION", "recipe.hue must be from 0 to 0.5, found ",
            recipe.hue);
  LGD_CHECK(recipe.blur_sigma_min > 0 && recipe.blur_sigma_min <= recipe.blur_sigma_max &&
                std::isfinite(recipe.blur_sigma_max),
            "BAD_OPTION", "recipe.blurSigmaMin and blurSigmaMax must satisfy 0 < min <= max, found ",
            recipe.blur_sigma_min, " and ", recipe.blur_sigma_max);
  LGD_CHECK(recipe.resize >= 0, "BAD_OPTION", "recipe.resize must be 0 or more, found ", recipe.resize);
  for (int c = 0; c < 3; ++c)
    LGD_CHECK(std::isfinite(recipe.mean[c]) && recipe.std[c] > 0, "BAD_OPTION", "recipe.std must be above 0, found ",
              recipe.std[c]);
}

// A tenth of the side in taps, but no further than where a tap weighs less than float32 resolves (6 sigma), nor past
// the reflected border.
int blur_radius(int side, float sigma) {
  const int reach = int(std::ceil(6 * sigma));
  return std::min({std::max(1, side / 20), reach, side - 1});
}

void plan_training_view(const AugmentRecipe& recipe, const Draw& draw, int height, int width, View& view) {
  view.x = {draw.width, width, 0};
  view.y = {draw.height, height, 0};
  view.flip = draw.flip;
  if (draw.jitter) {
    const float strength[4] = {recipe.brightness, recipe.contrast, recipe.saturation, recipe.hue};
    for (ColourOp op : draw.order)
      if (strength[int(op)] > 0) view.steps[view.step_count++] = {op, draw.factor[int(op)]};
  }
  if (draw.grey) view.steps[view.step_count++] = {ColourOp::grey, 0};
  if (draw.blur) {
    view.sigma = draw.sigma;
    view.radius_x = blur_radius(width, draw.sigma);
    view.radius_y = blur_radius(height, draw.sigma);
  }
}

// torchvision's Resize(short side) and CenterCrop.
void plan_evaluation_view(const AugmentRecipe& recipe, const PixelStore::Image& image, int height, int width,
                          View& view) {
  const int shorter = recipe.resize > 0 ? recipe.resize : std::max(height, width);
  LGD_CHECK(shorter >= height && shorter >= width, "BAD_OPTION", "recipe.resize must be at least the output's size ",
            std::max(height, width), ", found ", recipe.resize);
  const bool tall = image.height >= image.width;
  const int64_t length = int64_t(shorter) * (tall ? image.height : image.width) / (tall ? image.width : image.height);
  LGD_CHECK(length <= 1 << 30, "BAD_SHAPE", "an image of ", image.width, "x", image.height,
            " pixels is too long to be resized to ", shorter, " on its shorter side");
  const int longer = int(length);
  const int resized_height = tall ? longer : shorter, resized_width = tall ? shorter : longer;
  view.filter = Filter::cubic;
  view.x = {image.width, resized_width, int(std::nearbyint((resized_width - width) / 2.0))};
  view.y = {image.height, resized_height, int(std::nearbyint((resized_height - height) / 2.0))};
}

}  // namespace

ViewBatch plan_views(const PixelStore& store, const AugmentRecipe& recipe, const AugmentBatch& batch, int height,
                     int width) {
  ViewBatch plan;
  plan.height = height;
  plan.width = width;
  for (int c = 0; c < 3; ++c) {
    plan.scale[c] = 1 / recipe.std[c];
    plan.shift[c] = -recipe.mean[c] / recipe.std[c];
  }
  plan.views.resize(batch.images.size());
  for (size_t i = 0; i < plan.views.size(); ++i) {
    View& view = plan.views[i];
    const PixelStore::Image image = store.image(batch.images[i]);
    view.row_bytes = int64_t(image.width) * 3;
    view.pixels = image.pixels;
    if (recipe.train) {
      const Draw draw = draw_view(recipe, image.width, image.height, batch.seed, batch.epoch, batch.draw_ids[i]);
      view.pixels += draw.top * view.row_bytes + int64_t(draw.left) * 3;
      plan_training_view(recipe, draw, height, width, view);
    } else {
      plan_evaluation_view(recipe, image, height, width, view);
    }
    view.contrast_at = view.step_count;
    for (int step = 0; step < view.step_count; ++step)
      if (view.steps[step].op == ColourOp::contrast) view.contrast_at = step;
  }
  return plan;
}

void gaussian_weights(int radius, float sigma, float* weights) {
  double sum = 0;
  for (int i = -radius; i <= radius; ++i) sum += std::exp(-0.5 * (i / double(sigma)) * (i / double(sigma)));
  for (int i = 0; i <= radius; ++i)
    weights[i] = float(std::exp(-0.5 * (i / double(sigma)) * (i / double(sigma))) / sum);
}

void augment(const PixelStorePtr& store, const AugmentRecipe& recipe, AugmentBatch batch, const TensorPtr& images) {
  LGD_CHECK(images->shape.size() == 4 && images->shape[3] == 3, "BAD_SHAPE",
            "augment needs a batch of images [B,H,W,3]");
  LGD_CHECK(int64_t(batch.images.size()) == images->shape[0], "BAD_SHAPE", "batch.images: expected ", images->shape[0],
            " indices, found ", batch.images.size());
  LGD_CHECK(!recipe.train || batch.draw_ids.size() == batch.images.size(), "BAD_SHAPE", "batch.drawIds: expected ",
            batch.images.size(), ", found ", batch.draw_ids.size());
  check_recipe(recipe);
  for (int64_t index : batch.images) store->image(index);  // throws for one that is not there

  images->device->submit("augment", [store, pin = store->pin(), recipe, batch = std::move(batch), images] {
    Device& device = *images->device;
    store->check(batch.images, device.pool);
    const ViewBatch plan = plan_views(*store, recipe, batch, int(images->shape[1]), int(images->shape[2]));
    if (device.kind == DeviceKind::cpu) {
      augment_cpu(device, plan, *images);
      return;
    }
#if LGD_WITH_CUDA
    augment_cuda(device, plan, *images);
#else
    throw Error("DEVICE_UNAVAILABLE", "this addon was built without CUDA");
#endif
  });
}

}  // namespace lgd
