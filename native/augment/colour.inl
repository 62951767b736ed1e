// Colour steps on one pixel, or on a vector of pixels: torchvision's ColorJitter and rgb_to_grayscale on float images.
// Included inside a namespace, once per instruction set and once for CUDA; LGD_COLOUR holds the function qualifiers. T
// is float or a vector of floats, r, g, b in [0, 1]; an includer with an instruction for it may define lesser, greater
// and reciprocal of its T before.
//   brightness  x f                              contrast    x f + (1 - f) m, m the mean grey of the image
//   saturation  x f + (1 - f) grey(x)            hue         hue of HSV turned by f turns
//   grey        0.2989 r + 0.587 g + 0.114 b in all channels

template <class T>
LGD_COLOUR T lesser(T a, T b) {
  return a < b ? a : b;
}
template <class T>
LGD_COLOUR T greater(T a, T b) {
  return a > b ? a : b;
}
template <class T>
LGD_COLOUR T reciprocal(T v) {
  return (T{} + 1.0f) / v;
}
template <class T>
LGD_COLOUR T clamp01(T v) {
  return lesser(greater(v, T{} + 0.0f), T{} + 1.0f);
}

template <class T>
LGD_COLOUR T grey_of(T r, T g, T b) {
  return r * 0.2989f + g * 0.587f + b * 0.114f;
}

// x <- clamp(x f + other)
template <class T>
LGD_COLOUR void blend(T& r, T& g, T& b, float factor, T other) {
  r = clamp01(r * factor + other);
  g = clamp01(g * factor + other);
  b = clamp01(b * factor + other);
}

// A channel of HSV with hue h in sixths of a turn: v - c max(0, min(k, 4 - k, 1)), k = (n + h) mod 6, n = 5, 3, 1 for
// r, g, b; c = v s = max - min.
template <class T>
LGD_COLOUR T hsv_channel(T hue, float n, T value, T chroma) {
  const T six = T{} + 6.0f, four = T{} + 4.0f;
  T k = hue + n;
  k = k >= six ? k - six : k;
  const T down = four - k;
  return clamp01(value - chroma * clamp01(lesser(k, down)));
}

template <class T>
LGD_COLOUR void turn_hue(T& r, T& g, T& b, float turns) {
  const T zero = T{} + 0.0f, one = T{} + 1.0f, six = T{} + 6.0f;
  const T high = greater(greater(r, g), b), low = lesser(lesser(r, g), b);
  const T chroma = high - low;
  const T inverse = reciprocal(chroma > zero ? chroma : one);
  T hue = (r - g) * inverse + 4.0f;  // the greatest channel is b; ties go to r, then g
  hue = high == g ? (b - r) * inverse + 2.0f : hue;
  hue = high == r ? (g - b) * inverse : hue;
  hue = hue + turns * 6.0f;  // in [-4, 8] for |turns| <= 1/2
  hue = hue < zero ? hue + six : hue;
  hue = hue >= six ? hue - six : hue;
  r = hsv_channel(hue, 5.0f, high, chroma);
  g = hsv_channel(hue, 3.0f, high, chroma);
  b = hsv_channel(hue, 1.0f, high, chroma);
}

template <class T>
LGD_COLOUR void apply_step(const ColourStep& step, float mean, T& r, T& g, T& b) {
  switch (step.op) {
    case ColourOp::brightness: blend(r, g, b, step.factor, T{} + 0.0f); return;
    case ColourOp::contrast: blend(r, g, b, step.factor, T{} + (1 - step.factor) * mean); return;
    case ColourOp::saturation: blend(r, g, b, step.factor, grey_of(r, g, b) * (1 - step.factor)); return;
    case ColourOp::hue: turn_hue(r, g, b, step.factor); return;
    case ColourOp::grey: r = g = b = grey_of(r, g, b); return;
  }
}
