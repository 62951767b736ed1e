// Small records that steps leave in the host's memory, read without a wait for what was queued after them.
#pragma once
#include <algorithm>
#include <memory>
#include <utility>

#include "core/device.h"

namespace lgd {

// Those of the last `count` steps. On CUDA the memory is pinned, and kernels write it themselves: a copy from the
// device would stand between two kernels, and the second could not start before it had ended. Kernels only ever write
// records, whole.
template <class Record, int count>
struct Records {
  explicit Records(const Context& device) : kind(device.kind), slots(allocate(device)) {
    std::fill_n(slots, count, Record{});
  }
  ~Records() {  // waits for those who write
    if (kind == DeviceKind::cpu) {
      delete[] slots;
      return;
    }
    for (void* event : events) {
      if (!event) continue;
      try {
        cuda::wait_event(event);
      } catch (const Error&) {
        // a device that failed has stopped writing
      }
      cuda::destroy_event(event);
    }
    cuda::release_pinned(slots);
  }
  Records(const Records&) = delete;
  Records& operator=(const Records&) = delete;

  const DeviceKind kind;
  Record* slots;
  void* events[count] = {};  // of CUDA: behind the work that wrote a slot last; null until there was any

 private:
  static Record* allocate(const Context& device) {
    if (device.kind == DeviceKind::cpu) return new Record[count];
    cuda::set_device(device.index);  // whose memory this becomes: the thread may have used another since
    return static_cast<Record*>(cuda::allocate_pinned(sizeof(Record) * count));
  }
};

// Reading a slot waits for that slot's work and for nothing queued after it.
template <class Record, int count>
class RecordRing {
 public:
  explicit RecordRing(const std::shared_ptr<Device>& device)
      : device_(device), records_(std::make_shared<Records<Record, count>>(*device)) {}
  // Any thread. Work that writes the records may be held back in a step that is open on the device's thread: they go
  // there, after all that was submitted.
  ~RecordRing() {
    device_->submit("records.release", [records = std::move(records_)] {});
  }
  RecordRing(const RecordRing&) = delete;
  RecordRing& operator=(const RecordRing&) = delete;

  // Throws BAD_OPTION.
  static void check(int slot) {
    LGD_CHECK(slot >= 0 && slot < count, "BAD_OPTION", "metrics slot ", slot, "; slots 0 to ", count - 1, " exist");
  }
  Record* at(int slot) const { return records_->slots + slot; }
  // After the work that writes the slot was enqueued; device thread.
  void publish(int slot) {
    if (device_->kind != DeviceKind::cuda) return;
    void*& event = records_->events[slot];
    // Training waits here for most of a step, while another is on the device and decoders want the cores. Other waits
    // of the host are short, or something is late when they are over: copies, and reads with nothing queued behind
    // them.
    if (!event) event = cuda::create_event(true);
    device_->record_event(event);
  }
  const Record& read(int slot) {  // waits; device thread
    if (records_->events[slot]) cuda::wait_event(records_->events[slot]);
    return *at(slot);
  }

 private:
  std::shared_ptr<Device> device_;
  std::shared_ptr<Records<Record, count>> records_;
};

}  // namespace lgd
