// The loss of a one-stage detector without anchors (FCOS: Tian et al., ICCV 2019) and its gradient. The network says of
// each location of each level: K class scores x, four distances d = exp(o) in units of the level's stride to the sides
// of a box (left, top, right, bottom), and a centre-ness score z. A location has a class y >= 0 with distances t, or
// none (-1), or does not count (-2).
//
//   focal loss (Lin et al. 2017), alpha 1/4, gamma 2, over all classes of a location that counts:
//     p = sigmoid(x);  right class -a (1 - p)^2 log p,  slope a (1 - p)^2 (2 p log p + p - 1);
//     others -(1 - a) p^2 log(1 - p),  slope (1 - a) p^2 (p - 2 (1 - p) log(1 - p))
//   boxes, where there is a class, weighted by centre-ness c:  c (1 - GIoU)  (Rezatofighi et al. 2019)
//     GIoU = I / U + U / C - 1, with I the intersection, U the union, C the hull of both boxes;
//     dGIoU = dI/U - I dU/U^2 + dU/C - U dC/C^2,  d/do = d * d/dd
//   centre-ness, where there is a class:  cross entropy of sigmoid(z) with c
//     c = sqrt(min(l,r)/max(l,r) min(t,b)/max(t,b)) of t
//
// The output holds, level by level, the class scores [B,h,w,K] and then boxes with centre-ness [B,h,w,5]; locations are
// numbered in that order. Least work: the output is read and the gradient written once.
#pragma once
#include <cmath>

#include "core/context.h"
#include "core/philox.h"  // LGD_HOST_DEVICE

namespace lgd {

constexpr int most_levels = 8;

struct DetectionLevel {
  int64_t locations = 0;          // B h w
  int64_t first = 0;              // number of its first location
  int64_t scores = 0, boxes = 0;  // where they start in the output, in floats
};

struct DetectionLoss {
  int levels = 0, classes = 0;
  DetectionLevel level[most_levels];
  int64_t locations = 0;
  const float* output = nullptr;
  const int32_t* labels = nullptr;                         // [locations]
  const float* boxes = nullptr;                            // [locations, 4]; read where there is a class
  float class_scale = 1, box_scale = 1, centre_scale = 1;  // of the gradients
  float* d_output = nullptr;                               // like output; may be null
  float* results = nullptr;  // [locations, 3]: focal loss, c (1 - GIoU), cross entropy of the centre-ness
};
void detection_loss_cpu(Context&, const DetectionLoss&);
void detection_loss_cuda(Context&, const DetectionLoss&);

// ---- one location, the same source for the host and the device ------------------------------------------------------
struct LossAndSlope {
  float loss, slope;
};

LGD_HOST_DEVICE float softplus(float x) { return (x > 0 ? x : 0) + log1pf(expf(x > 0 ? -x : x)); }

LGD_HOST_DEVICE LossAndSlope focal_loss(float x, bool right) {
  const float log_p = -softplus(-x), log_q = -softplus(x), p = expf(log_p), q = expf(log_q);
  if (right) return {-0.25f * q * q * log_p, 0.25f * q * q * (2 * p * log_p - q)};
  return {-0.75f * p * p * log_q, 0.75f * p * p * (p - 2 * q * log_q)};
}

LGD_HOST_DEVICE LossAndSlope centre_loss(float z, float target) {
  return {softplus(z) - target * z, expf(-softplus(-z)) - target};
}

LGD_HOST_DEVICE float centre_ness(const float* t) {
  const float across = (t[0] < t[2] ? t[0] / t[2] : t[2] / t[0]), down = (t[1] < t[3] ? t[1] / t[3] : t[3] / t[1]);
  return sqrtf(across * down);
}

// 1 - GIoU of the boxes around one point, d = exp(o) and t; slopes in o. Beyond `most` an o counts as that and has no
// slope.
LGD_HOST_DEVICE float giou_loss(const float* o, const float* t, float* slopes) {
  constexpr float most = 10;
  float d[4], inner[4], outer[4];
  for (int i = 0; i < 4; ++i) {
    d[i] = expf(o[i] > most ? most : o[i]);  // of a NaN that, and so is the loss
    inner[i] = d[i] < t[i] ? d[i] : t[i];
    outer[i] = d[i] > t[i] ? d[i] : t[i];
  }
  const float iw = inner[0] + inner[2], ih = inner[1] + inner[3], cw = outer[0] + outer[2], ch = outer[1] + outer[3];
  const float dw = d[0] + d[2], dh = d[1] + d[3];
  const float intersection = iw * ih, hull = cw * ch, both = dw * dh + (t[0] + t[2]) * (t[1] + t[3]) - intersection;
  for (int i = 0; i < 4; ++i) {
    const bool across = i % 2 == 0, inside = d[i] < t[i];
    const float d_intersection = inside ? (across ? ih : iw) : 0, d_hull = inside ? 0 : (across ? ch : cw),
                d_both = (across ? dh : dw) - d_intersection;
    const float d_giou =
        d_intersection / both - intersection * d_both / (both * both) + d_both / hull - both * d_hull / (hull * hull);
    slopes[i] = o[i] < most ? -d_giou * d[i] : 0;
  }
  return 2 - intersection / both - both / hull;
}

// Where a location's level is.
LGD_HOST_DEVICE int level_of(const DetectionLoss& work, int64_t location) {
  int level = 0;
  while (level + 1 < work.levels && location >= work.level[level + 1].first) ++level;
  return level;
}

// Boxes and centre-ness of one location: five numbers of the output and of its gradient.
LGD_HOST_DEVICE void box_terms(const DetectionLoss& work, int64_t location, int32_t label, const float* output,
                               float* d_output, float* result) {
  float slopes[5] = {0, 0, 0, 0, 0};
  result[1] = result[2] = 0;
  if (label >= 0) {
    const float* target = work.boxes + location * 4;
    const float centre = centre_ness(target);
    result[1] = centre * giou_loss(output, target, slopes);
    for (int i = 0; i < 4; ++i) slopes[i] *= centre * work.box_scale;
    const LossAndSlope centred = centre_loss(output[4], centre);
    result[2] = centred.loss;
    slopes[4] = centred.slope * work.centre_scale;
  }
  if (d_output)
    for (int i = 0; i < 5; ++i) d_output[i] = slopes[i];
}

}  // namespace lgd
