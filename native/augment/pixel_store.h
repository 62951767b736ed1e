// Decoded images, kept as uint8 RGB rows in memory and, past a limit, in a memory-mapped file.
//
// Pixels never move and are never freed before the store, so a pointer to them stays good while others append.
// Every chunk ends with `overread` spare bytes: vector code may read that far past an image's last pixel.
#pragma once
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

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
  Image image(int64_t index) const;  // BAD_OPTION for an index that the store lacks
  PixelStoreInfo info() const;

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
  std::vector<Chunk> chunks_;          // all mapped
  Chunk memory_, file_;                // the ones being filled
  size_t memory_bytes_ = 0, spilled_bytes_ = 0;
  int spill_ = -1;                     // file descriptor
  size_t spill_length_ = 0;
  std::string spill_path_;             // for messages; the name is gone from the folder as soon as the file is open
};

}  // namespace lgd
