// What the rows of the table are made of: an operation at a shape, the least it must move and compute, and its time
// against that.
#pragma once
#include <cstdio>
#include <functional>
#include <string>

#include "cuda_ops/progress.h"
#include "operands.h"

namespace lgd::bench {

enum class Unit { tensor, cores };  // which unit's rate bounds the operations

struct Work {
  double bytes = 0;       // each input read once, each output written once, as stored
  double operations = 0;  // two a multiply-add
  Unit unit = Unit::tensor;
  const char* model = "";  // what `bytes` counts
};

struct Timing {
  double p20, p50, p80;
};  // microseconds a call

struct Options {
  bool small = false;  // shapes that an emulated GPU computes
  std::string only;    // names that hold this
  std::string rows;    // file that rows are added to as JSON, a line each
  // operations a second: the datasheet's dense bfloat16 and float32 of an H100, unless measured ones are given
  double tensor = 989e12, cores = 67e12;
};

using Call = std::function<void()>;
using Body = std::function<Call(Operands&)>;  // allocates, and returns the call to be checked and timed

class Table {
 public:
  Table(const Options& options, const testing::Progress& progress);

  const Options options;
  testing::Progress progress;
  const std::shared_ptr<Device> cpu, gpu;

  int batch() const { return options.small ? 4 : 256; }
  int side(int full) const { return options.small ? std::max(1, full / 16) : full; }
  int channels(int full) const { return options.small ? std::min(full, 72) : full; }
  bool wants(const std::string& name) const { return name.find(options.only) != std::string::npos; }

  // Runs what one or a few rows come of, if its turn has come. An error is a failed row and ends nothing else.
  void attempt(const std::string& name, const Work& work, const std::function<void()>& body);
  // Checks an operation of the table of kernels against the CPU, times it, prints its row. Timed in a graph of many
  // calls, over as many sets of operands as exceed the L2 cache, since a step streams through its activations.
  void operation(const std::string& name, const Work& work, const Body& body);
  // A row of calls that the caller checked: error against the reference, its limit, and the time of one. The target is
  // an H100's, and of no other card.
  void add(const std::string& name, const Work& work, double error, double tolerance, const Timing& timing,
           double target_us = 0);
  // Times `call`, which queues engine work of one step, by steps that start as graphs.
  Timing time_steps(const std::function<void()>& call);
  // Times calls by graphs of at most so many of them; input that they send was sent when the graph was built, and is on
  // the device. Device thread only.
  Timing time_graph(const std::vector<Call>& calls, size_t most = 2000);

 private:
  double measure_copy();
  const bool judged_;  // the targets are for this card
  double bandwidth_ = 0;
};

// Groups of rows, a file each.
void convolutions(Table&);
void depthwise(Table&);
void convnext(Table&);
void elements(Table&);
void semantic(Table&);
void augmentation(Table&);

}  // namespace lgd::bench
