// engine.h's JPEG files: libjpeg-turbo through TurboJPEG's interface, from a shared library that is loaded at run time,
// so that neither a build nor a package needs it. The few names that are used have been the same since version 2.1
// (turbojpeg.h of libjpeg-turbo is their reference).
#include <dlfcn.h>

#include <atomic>
#include <memory>
#include <mutex>

#include "augment/pixel_store.h"
#include "augment/profile.h"
#include "augment/reduce.h"

namespace lgd {

namespace {

using Handle = void*;
constexpr int rgb_pixels = 0;                            // TJPF_RGB
constexpr int accurate_dct = 4096, limit_scans = 32768;  // TJFLAG_ACCURATEDCT, TJFLAG_LIMITSCANS
constexpr int gray = 2, cmyk = 3, ycck = 4;              // TJCS_*
// a progressive file has coefficients for each, six bytes, in many parts; sharp has a time limit
constexpr int64_t most_pixels = int64_t(1) << 26;

struct Library {
  Handle (*init)();
  int (*read_header)(Handle, const unsigned char* file, unsigned long bytes, int* width, int* height, int* subsampling,
                     int* colours);
  int (*decode)(Handle, const unsigned char* file, unsigned long bytes, unsigned char* pixels, int width, int pitch,
                int height, int format, int flags);
  int (*destroy)(Handle);
  char* (*error)(Handle);
};

std::atomic<const Library*> library = nullptr;  // never unloaded

template <class Function>
void find(void* file, const char* name, Function& function, const std::string& path) {
  void* symbol = dlsym(file, name);
  LGD_CHECK(symbol != nullptr, "DEPENDENCY_MISSING", path, " has no ", name);
  function = reinterpret_cast<Function>(symbol);
}

// Pixels on their way from the decoder to the reduction, kept for the thread's next image unless they are very many.
class Scratch {
 public:
  uint8_t* reserve(size_t bytes) {
    if (bytes > bytes_) {
      memory_.reset();
      memory_ = std::make_unique_for_overwrite<uint8_t[]>(bytes);
      bytes_ = bytes;
    }
    return memory_.get();
  }
  void trim() {
    constexpr size_t kept = size_t(8) << 20;
    if (bytes_ <= kept) return;
    memory_.reset();
    bytes_ = 0;
  }

 private:
  std::unique_ptr<uint8_t[]> memory_;
  size_t bytes_ = 0;
};

// The decoder shrinks by halves while it transforms, which costs less than decoding all. Its way of shrinking is
// coarse, so it leaves the cubic at least a factor of 2: then the result is within about a level of a cubic of
// everything.
int shrink_within(int width, int height, int wanted_width, int wanted_height) {
  int divisor = 1;
  while (divisor < 8 && width >= 4 * divisor * wanted_width && height >= 4 * divisor * wanted_height) divisor *= 2;
  return divisor;
}

}  // namespace

void open_jpeg_decoder(const std::string& path) {
  static std::mutex mutex;
  const std::lock_guard lock(mutex);
  void* file = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  LGD_CHECK(file != nullptr, "DEPENDENCY_MISSING", dlerror());
  auto found = std::make_unique<Library>();
  find(file, "tjInitDecompress", found->init, path);
  find(file, "tjDecompressHeader3", found->read_header, path);
  find(file, "tjDecompress2", found->decode, path);
  find(file, "tjDestroy", found->destroy, path);
  find(file, "tjGetErrorStr2", found->error, path);
  library = found.release();
}

void decode_jpeg(std::span<const uint8_t> file, std::span<const uint8_t> profile, int width, int height, uint8_t* rgb) {
  const Library* turbo = library;
  LGD_CHECK(turbo != nullptr, "DEPENDENCY_MISSING", "no JPEG decoder was opened");
  const std::unique_ptr<void, int (*)(Handle)> decoder(turbo->init(), turbo->destroy);
  LGD_CHECK(decoder != nullptr, "OUT_OF_MEMORY", "the JPEG decoder could not be made");
  int full_width, full_height, subsampling, colours;
  const int header =
      turbo->read_header(decoder.get(), file.data(), file.size(), &full_width, &full_height, &subsampling, &colours);
  LGD_CHECK(header == 0, "BAD_IMAGE", turbo->error(decoder.get()));
  LGD_CHECK(colours != gray && colours != cmyk && colours != ycck, "BAD_IMAGE", "it has not three colours");
  LGD_CHECK(int64_t(full_width) * full_height <= most_pixels, "BAD_IMAGE", "it has more than ", most_pixels,
            " pixels: ", full_width, " x ", full_height);
  LGD_CHECK(width >= 1 && height >= 1 && width <= full_width && height <= full_height, "BAD_IMAGE", "an image of ",
            full_width, " x ", full_height, " pixels cannot be reduced to ", width, " x ", height);

  Shrunk image{nullptr, full_width, full_height, shrink_within(full_width, full_height, width, height)};
  const bool reduced = image.width() != width || image.height() != height;
  thread_local Scratch scratch;
  uint8_t* pixels = reduced ? scratch.reserve(size_t(image.width()) * image.height() * 3 + PixelStore::overread) : rgb;
  // A file that ends early, or with a damaged part, is an error too: another decoder may judge it milder.
  const int decoded = turbo->decode(decoder.get(), file.data(), file.size(), pixels, image.width(), 0, image.height(),
                                    rgb_pixels, accurate_dct | limit_scans);
  LGD_CHECK(decoded == 0, "BAD_IMAGE", turbo->error(decoder.get()));
  image.pixels = pixels;
  if (reduced) reduce_cpu(image, width, height, rgb);
  scratch.trim();
  if (!profile.empty()) convert_to_srgb(profile.data(), profile.size(), rgb, int64_t(width) * height);
}

}  // namespace lgd
