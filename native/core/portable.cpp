// Of an addon that carries libstdc++ along (LGD_PORTABLE in CMakeLists.txt): two names that libstdc++ asks of glibc
// 2.32 and 2.36. With these of its own the addon asks nothing of glibc and loads with older ones.
#ifdef LGD_PORTABLE
#include <stdint.h>
#include <sys/random.h>

extern "C" {
__attribute__((visibility("hidden"))) extern char __libc_single_threaded;
/** Whether the process has one thread, so that atomic operations may be left out: never said. */
char __libc_single_threaded = 0;

__attribute__((visibility("hidden"))) uint32_t arc4random();
/** A seed for std::random_device. */
uint32_t arc4random() {
  uint32_t value = 0;
  while (getrandom(&value, sizeof value, 0) != sizeof value) {}
  return value;
}
}
#endif
