#include "core/tape.h"

#include <algorithm>
#include <cstring>

namespace lgd {

namespace {

constexpr size_t argument_alignment = 16;

void append_new(std::vector<int>& to, const std::vector<int>& from) {
  for (const int piece : from)
    if (std::find(to.begin(), to.end(), piece) == to.end()) to.push_back(piece);
}

bool same(const Extent& a, const Extent& b) { return a.x == b.x && a.y == b.y && a.z == b.z; }

}  // namespace

void Tape::add(const Work& work, bool branch) {
  std::vector<int>& tail = tails_[branch];
  entries_.push_back({work, bytes_.size(), uint32_t(edges_.size()), uint32_t(tail.size()), branch});
  edges_.insert(edges_.end(), tail.begin(), tail.end());
  tail.assign(1, int(entries_.size()) - 1);
}

void Tape::launch(const Launch& launch, bool branch) {
  bytes_.resize((bytes_.size() + argument_alignment - 1) / argument_alignment * argument_alignment);
  Work work;
  work.launch = launch;
  add(work, branch);
  bytes_.insert(bytes_.end(), launch.arguments, launch.arguments + launch.parameters->bytes);
}

void Tape::fork() { append_new(tails_[1], tails_[0]); }
void Tape::join() { append_new(tails_[0], tails_[1]); }

void Tape::clear() {
  entries_.clear();
  bytes_.clear();
  edges_.clear();
  for (std::vector<int>& tail : tails_) tail.clear();
}

Work Tape::operator[](size_t i) const {
  Work work = entries_[i].work;
  if (work.kind == Work::Kind::kernel) work.launch.arguments = bytes_.data() + entries_[i].arguments;
  return work;
}

bool Tape::branches() const {
  return std::any_of(entries_.begin(), entries_.end(), [](const Entry& entry) { return entry.branch; });
}

std::vector<int> Tape::before(size_t i, bool in_order) const {
  if (in_order) return i > 0 ? std::vector<int>{int(i) - 1} : std::vector<int>{};
  const auto first = edges_.begin() + entries_[i].first_edge;
  return {first, first + entries_[i].edges};
}

bool Tape::may_start_early(size_t i, bool in_order) const {
  const std::vector<int> others = before(i, in_order);
  return entries_[i].work.kind == Work::Kind::kernel && others.size() == 1 &&
         entries_[size_t(others[0])].work.kind == Work::Kind::kernel;
}

bool Tape::has_shape_of(const Tape& other) const {
  return edges_ == other.edges_ &&
         std::equal(entries_.begin(), entries_.end(), other.entries_.begin(), other.entries_.end(),
                    [](const Entry& a, const Entry& b) {
                      return a.work.kind == b.work.kind && a.edges == b.edges && a.branch == b.branch &&
                             a.work.launch.kernel == b.work.launch.kernel &&
                             (a.work.kind == Work::Kind::kernel || a.work.bytes == b.work.bytes);
                    });
}

bool Tape::has_work_of(const Tape& other, size_t i) const {
  const Work a = (*this)[i], b = other[i];
  if (a.kind != Work::Kind::kernel) return a.to == b.to && a.from == b.from;
  return same(a.launch.grid, b.launch.grid) && same(a.launch.block, b.launch.block) &&
         a.launch.shared_bytes == b.launch.shared_bytes &&
         std::memcmp(a.launch.arguments, b.launch.arguments, a.launch.parameters->bytes) == 0;
}

}  // namespace lgd
