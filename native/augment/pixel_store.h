// Decoded images: uint8 RGB rows in memory and, past a limit, in a memory-mapped file; or a file of raw pixels, where
// it lies.
//
// Images are appended one after the other, or placed under indices of their own, until clear() forgets them all for the
// next ones. Pixels never move and are never freed before the store, so a pointer to them stays good while others
// append. Every chunk ends with `overread` spare bytes: vector code may read that far past an image's last pixel.
#pragma once
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "augment/pixel_file.h"
#include "engine.h"

namespace lgd {

struct PixelStore {
  static constexpr size_t overread = 64;

  struct Image {
    const uint8_t* pixels = nullptr;  // [height][width][3]
    int width = 0, height = 0;
  };

  explicit PixelStore(PixelStoreOptions options);
  ~PixelStore();
  PixelStore(const PixelStore&) = delete;
  PixelStore& operator=(const PixelStore&) = delete;

  // Thread-safe, all of them.
  int64_t append(int width, int height, const uint8_t* rgb);
  // several may fill theirs at once; what throws leaves no image
  void place(int64_t index, int width, int height, const std::function<void(uint8_t* pixels)>& fill);
  void map(PixelFileOptions options);  // BAD_OPTION where the store holds images already
  // keeps the memory for what comes next; BAD_OPTION while work that was queued may read the pixels
  void clear();
  Image image(int64_t index) const;  // BAD_OPTION for an index that the store lacks
  PixelStoreInfo info() const;
  void read_ahead(std::vector<int64_t> images);
  void check(std::span<const int64_t> images, ThreadPool& pool) const;  // see PixelFile; nothing without one
  std::shared_ptr<void> pin() const { return pins_; }                   // whoever holds it reads pixels, now or later

 private:
  struct Chunk {
    uint8_t* data = nullptr;
    size_t bytes = 0, used = 0;  // bytes without the spare ones
  };
  uint8_t* reserve(size_t bytes);
  Chunk map_memory(size_t bytes) const;
  Chunk map_file(size_t bytes);
  void open_spill_file();

  const PixelStoreOptions options_;
  mutable std::mutex mutex_;
  std::vector<Image> images_;
  std::unordered_map<int64_t, Image> placed_;
  std::unique_ptr<PixelFile> pixel_file_;
  std::shared_ptr<char> pins_ = std::make_shared<char>();
  std::vector<Chunk> chunks_;  // all mapped
  std::vector<Chunk> free_;    // of those, ones in memory that clear() has emptied
  Chunk memory_, file_;        // the ones being filled
  size_t memory_bytes_ = 0, spilled_bytes_ = 0;
  int spill_ = -1;  // file descriptor
  size_t spill_length_ = 0;
  std::string spill_path_;  // for messages; the name is gone from the folder as soon as the file is open
};

}  // namespace lgd
