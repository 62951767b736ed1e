// A file of raw pixels, mapped read-only: any number of processes share the operating system's one copy of it, and
// nothing is copied before the crop.
//
// Each image's checksum is looked at once, before its pixels are used for the first time: by the thread that reads
// ahead if it came by, else by whoever needs them. The file must be followed by PixelStore::overread bytes or more
// after its last image (a pack's index is).
#pragma once
#include <sys/types.h>

#include <atomic>
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "core/thread_pool.h"
#include "engine.h"

namespace lgd {

class PixelFile {
 public:
  explicit PixelFile(PixelFileOptions options);  // BAD_FILE, BAD_SHAPE, OUT_OF_MEMORY
  ~PixelFile();
  PixelFile(const PixelFile&) = delete;
  PixelFile& operator=(const PixelFile&) = delete;

  int64_t images() const { return int64_t(options_.offsets.size()); }
  double pixel_bytes() const { return pixel_bytes_; }
  // index in [0, images())
  const uint8_t* pixels(int64_t index) const { return data_ + size_t(options_.offsets[size_t(index)]); }
  int width(int64_t index) const { return options_.widths[size_t(index)]; }
  int height(int64_t index) const { return options_.heights[size_t(index)]; }

  // Thread-safe, both of them.
  // Throws BAD_FILE, naming the image, where one of them is not what its checksum says, or the file became shorter or
  // is not to be had any more.
  void check(std::span<const int64_t> images, ThreadPool& pool);
  // Asks for the pixels of images that will be needed soon; returns at once.
  void read_ahead(std::vector<int64_t> images);

 private:
  size_t image_bytes(int64_t index) const { return size_t(width(index)) * size_t(height(index)) * 3; }
  bool is_whole(int64_t index) const;
  off_t length() const;  // -1 with errno
  std::string name(int64_t index) const;
  void read_loop();

  const PixelFileOptions options_;
  int file_ = -1;
  uint8_t* data_ = nullptr;
  size_t bytes_ = 0;
  double pixel_bytes_ = 0;
  std::unique_ptr<std::atomic<bool>[]> checked_;
  std::mutex mutex_;  // of what follows
  std::condition_variable changed_;
  std::deque<std::vector<int64_t>> wanted_;
  bool ended_ = false;
  std::thread reader_;  // starts with the first read_ahead()
};

}  // namespace lgd
