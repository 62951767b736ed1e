#include "faults.h"

#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>
#include <thread>

#include "streams.h"

namespace {

struct ErrorWords {
  cudaError_t status;
  const char *name, *words;
  bool lasts;
};
constexpr ErrorWords errors[] = {
#define LGD_ENTRY(name, number, words, lasts) {name, #name, words, lasts},
    LGD_CUDA_ERRORS(LGD_ENTRY)
#undef LGD_ENTRY
};

const ErrorWords& words_of(cudaError_t status) {
  for (const ErrorWords& error : errors)
    if (error.status == status) return error;
  std::abort();
}

}  // namespace

const char* cudaGetErrorName(cudaError_t status) { return words_of(status).name; }
const char* cudaGetErrorString(cudaError_t status) { return words_of(status).words; }

namespace lgd::emulation {

namespace {

// None of these is ever destroyed, as the streams' mutex, which guards them.
struct Told {
  std::string variable, functions;  // as the variable says it; "|cudaMalloc|cudaFree|"
  long left = 0;                    // calls until the one that fails; 0: it has failed, or none is to
  cudaError_t status = cudaSuccess;
};
auto& told = *new Told;
cudaError_t lost = cudaSuccess;  // what every call gives

// CUDA's runtime and driver take themselves down as the process exits, behind whatever asks to be called at its exit
// once they are in use. Of a call after that nothing is promised: here it is an error, for as long as that may take.
std::atomic<bool> down{false};
[[maybe_unused]] const int asked_for_exit = std::atexit([] {
  down = true;
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
});
void check_up(const char* function) {
  if (!down) return;
  std::fprintf(stderr, "emulated GPU: %s was called while the process exits\n", function);
  std::abort();
}

void read_fault() {
  const char* const text = std::getenv("LGDISTILL_EMULATION_FAULT");
  const std::string variable = text ? text : "";
  if (variable == told.variable) return;
  told = {variable, "", 0, cudaSuccess};
  lost = cudaSuccess;
  if (variable.empty()) return;
  const size_t number = variable.find(':'), name = variable.find(':', number + 1);
  LGD_CHECK(number != std::string::npos && name != std::string::npos, "BAD_OPTION",
            "$LGDISTILL_EMULATION_FAULT: function:number:error, found ", variable);
  told.functions = "|" + variable.substr(0, number) + "|";
  told.left = std::atol(variable.c_str() + number + 1);
  for (const ErrorWords& error : errors)
    if (variable.substr(name + 1) == error.name) told.status = error.status;
  LGD_CHECK(told.left > 0 && told.status != cudaSuccess, "BAD_OPTION",
            "$LGDISTILL_EMULATION_FAULT: no such number or error: ", variable);
}

bool is_the_one(const char* function) {
  if (told.left == 0 ||
      (told.functions != "|*|" && told.functions.find("|" + std::string(function) + "|") == std::string::npos))
    return false;
  return --told.left == 0;
}

void list(const char* function, cudaError_t status) {
  const char* const file = std::getenv("LGDISTILL_EMULATION_CALLS");
  if (!file || !*file) return;
  const std::string line =
      std::string(function) + (status == cudaSuccess ? "\n" : std::string(" ") + cudaGetErrorName(status) + "\n");
  const int descriptor = open(file, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644);
  LGD_CHECK(descriptor >= 0 && write(descriptor, line.data(), line.size()) == ssize_t(line.size()), "BAD_OPTION",
            "$LGDISTILL_EMULATION_CALLS: cannot write ", file);
  close(descriptor);
}

// `later`: a lasting error is not yet the call's own.
cudaError_t begin(const char* function, bool asks_gpu, bool later) {
  check_up(function);
  std::lock_guard lock(mutex);
  read_fault();
  const bool fails = is_the_one(function);
  const cudaError_t status = fails ? told.status : asks_gpu ? lost : cudaSuccess;
  list(function, status);
  if (fails && words_of(status).lasts && !later) {
    lost = status;
    drop_everything();
  }
  return status;
}

}  // namespace

bool is_lost() { return lost != cudaSuccess; }

cudaError_t begin_call(const char* function) { return begin(function, true, false); }
cudaError_t begin_question(const char* function) { return begin(function, false, false); }

cudaError_t begin_work(const char* function, Stream& stream) {
  std::lock_guard lock(mutex);
  const cudaError_t before = lost, status = begin(function, true, true);
  if (status == cudaSuccess || before != cudaSuccess || !words_of(status).lasts) return status;
  stream.queue.push_back({[status] {
                            lost = status;
                            throw Fault{status};
                          },
                          nullptr, 0, false});
  return cudaSuccess;
}

}  // namespace lgd::emulation
