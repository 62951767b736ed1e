#include "core/graph_tuner.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "core/cuda_streams.h"
#include "core/device.h"

namespace lgd {

namespace {

constexpr size_t untimed = 8;        // launches before any is timed: clocks rise and caches fill
constexpr size_t rounds = 3;         // of all ways, so that a card that slows down meanwhile slows all of them
constexpr size_t in_a_row = 4;       // launches of a way in a round; the first is of a new graph, and not timed
constexpr double least_gain = 0.01;  // for another way than the usual one

}  // namespace

GraphWay GraphTuner::next(const std::vector<GraphWay>& ways, bool repeated) {
  timed_ = false;
  if (stage_ == Stage::waiting) {
    launches_ = repeated ? launches_ + 1 : 0;
    if (launches_ < untimed) return ways.front();
    ways_ = ways;
    stage_ = ways.size() > 1 ? Stage::measuring : Stage::settled;
    launches_ = 0;
  }
  if (stage_ == Stage::measuring) {
    const size_t turn = launches_ / in_a_row;
    if (turn < rounds * ways_.size()) {
      way_ = turn % ways_.size();
      if (repeated) timed_ = launches_++ % in_a_row > 0;
      return ways_[way_];
    }
    stage_ = Stage::reading;
  }
  if (stage_ == Stage::reading)
    or_give_up([&] {
      if (read()) stage_ = Stage::settled;
    });
  return ways_[way_];
}

void GraphTuner::refuse() {
  forget();
  const GraphWay refused = ways_[way_];
  // A driver to which nodes may not tell a carve-out takes it in no way.
  std::erase_if(ways_,
                [&](const GraphWay& way) { return way == refused || (refused.one_carveout && way.one_carveout); });
  // it was found before, and is refused for a step of another shape
  if (stage_ != Stage::measuring) stage_ = Stage::settled;
  times_.clear();
  way_ = launches_ = 0;
  timed_ = false;
}

void GraphTuner::settle() {
  forget();
  times_.clear();
  timed_ = false;
  way_ = 0;
  stage_ = Stage::settled;
}

// Without times there is nothing to compare.
template <class Body>
void GraphTuner::or_give_up(Body&& body) {
  try {
    body();
  } catch (const cuda::Refusal&) { settle(); }
}

void GraphTuner::begin(void* stream) {
  if (!timed_) return;
  or_give_up([&] {
    open_.way = way_;
    for (void** event : {&open_.begin, &open_.end})
      if (!*event) *event = cuda::create_timed_event();
    cuda::enqueue_event(open_.begin, stream);
  });
}

void GraphTuner::end(void* stream) {
  if (!timed_) return;
  or_give_up([&] {
    cuda::enqueue_event(open_.end, stream);
    samples_.push_back(std::exchange(open_, {}));
  });
}

// Once the last launch is over: what each way took, and which is the fastest.
bool GraphTuner::read() {
  times_.clear();  // of a read that failed
  if (!samples_.empty() && !cuda::is_over(samples_.back().end)) return false;
  for (size_t way = 0; way < ways_.size(); ++way) {
    std::vector<double> taken;
    for (const Sample& sample : samples_)
      if (sample.way == way) taken.push_back(cuda::milliseconds_between(sample.begin, sample.end));
    if (taken.empty()) taken.push_back(INFINITY);  // its launches failed
    const auto middle = taken.begin() + int64_t(taken.size() / 2);
    std::nth_element(taken.begin(), middle, taken.end());
    times_.push_back({ways_[way], *middle});
  }
  const auto fastest = std::min_element(times_.begin(), times_.end(),
                                        [](const Time& a, const Time& b) { return a.milliseconds < b.milliseconds; });
  way_ = fastest->milliseconds < (1 - least_gain) * times_.front().milliseconds ? size_t(fastest - times_.begin()) : 0;
  forget();
  return true;
}

void GraphTuner::forget() {
  samples_.push_back(std::exchange(open_, {}));
  for (const Sample& sample : samples_)
    for (void* event : {sample.begin, sample.end})
      if (event) cuda::destroy_event(event);
  samples_.clear();
}

}  // namespace lgd
