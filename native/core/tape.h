// Work of a step that is held back: what two streams would run, and what each piece comes after.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/launch.h"

namespace lgd {

struct Work {
  enum class Kind : uint8_t { kernel, copy, zero };
  Kind kind = Kind::kernel;
  Launch launch;               // of a kernel
  void* to = nullptr;          // of a copy or zeros
  const void* from = nullptr;  // of a copy
  size_t bytes = 0;            // of both
};

class Tape {
 public:
  // branch: which of the two streams gets it
  void launch(const Launch& launch, bool branch);
  void copy(void* to, const void* from, size_t bytes, bool branch) {
    add({Work::Kind::copy, {}, to, from, bytes}, branch);
  }
  void zero(void* to, size_t bytes, bool branch) { add({Work::Kind::zero, {}, to, nullptr, bytes}, branch); }
  void fork();  // the branch goes on after what the other stream has so far
  void join();  // the other stream goes on after what the branch has so far
  void clear();

  size_t size() const { return entries_.size(); }
  Work operator[](size_t i) const;  // the launch's arguments live as long as the tape is not changed
  bool on_branch(size_t i) const { return entries_[i].branch; }
  bool branches() const;  // is any piece on the branch?
  // The pieces that piece i comes after, all smaller than i. in_order: only the one before it on the tape, whichever
  // stream it is of.
  std::vector<int> before(size_t i, bool in_order = false) const;
  // Is piece i a kernel behind one other kernel and nothing else? It may be started before that one ends, and waits
  // itself (wait_for_inputs()).
  bool may_start_early(size_t i, bool in_order = false) const;

  // May another tape's graph take over this one's arguments? Kernels, kinds and order are the same; grids, addresses
  // and numbers may differ.
  bool has_shape_of(const Tape& other) const;
  bool has_work_of(const Tape& other, size_t i) const;  // is piece i, of the same shape, the same to the byte?

 private:
  struct Entry {
    Work work;
    size_t arguments;            // offset in bytes_
    uint32_t first_edge, edges;  // in edges_
    bool branch;
  };
  void add(const Work& work, bool branch);

  std::vector<Entry> entries_;
  std::vector<char> bytes_;  // arguments of kernels
  std::vector<int> edges_;
  std::vector<int> tails_[2];  // what the next piece of each stream comes after
};

}  // namespace lgd
