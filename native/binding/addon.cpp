// The export list of the addon. lib/native.ts mirrors it; a test compares the two.
#include "binding/exports.h"
#include "binding/marshal.h"

namespace lgd::binding {

// A C++ exception that leaves a function becomes a JavaScript error with its code.
template <Napi::Value (*function)(const Napi::CallbackInfo&)>
static Napi::Value entry(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&] { return function(info); });
}

template <Napi::Value (*function)(const Napi::CallbackInfo&)>
static void add(Napi::Object exports, const char* name) {
  exports.Set(name, Napi::Function::New<entry<function>>(exports.Env(), name));
}

static Napi::Object init(Napi::Env, Napi::Object exports) {
  add<js_build_info>(exports, "buildInfo");
  add<js_cuda_driver>(exports, "cudaDriver");
  add<js_cuda_status>(exports, "cudaStatus");
  add<release_handle>(exports, "release");

  add<js_open_device>(exports, "openDevice");
  add<js_device_info>(exports, "deviceInfo");
  add<js_wgmma_difference>(exports, "wgmmaDifference");
  add<js_programmatic_launch_time>(exports, "programmaticLaunchTime");
  add<js_synchronize>(exports, "synchronize");

  add<js_make_step>(exports, "makeStep");
  add<js_begin_step>(exports, "beginStep");
  add<js_end_step>(exports, "endStep");
  add<js_check_step>(exports, "checkStep");
  add<js_step_info>(exports, "stepInfo");
  add<js_begin_branch>(exports, "beginBranch");
  add<js_end_branch>(exports, "endBranch");
  add<js_join_branch>(exports, "joinBranch");

  add<js_make_tensor>(exports, "makeTensor");
  add<js_write_tensor>(exports, "writeTensor");
  add<js_copy_tensor>(exports, "copyTensor");
  add<js_read_tensor>(exports, "readTensor");
  add<js_make_images>(exports, "makeImages");
  add<js_write_images>(exports, "writeImages");
  add<js_read_images>(exports, "readImages");

  add<js_make_encoder>(exports, "makeEncoder");
  add<js_encoder_info>(exports, "encoderInfo");
  add<js_write_parameter>(exports, "writeParameter");
  add<js_read_parameter>(exports, "readParameter");
  add<js_forward>(exports, "forward");
  add<js_encoder_output>(exports, "encoderOutput");
  add<js_zero_gradients>(exports, "zeroGradients");
  add<js_backward>(exports, "backward");
  add<js_sgd_step>(exports, "sgdStep");

  add<js_make_pixel_store>(exports, "makePixelStore");
  add<js_append_pixels>(exports, "appendPixels");
  add<js_place_pixels>(exports, "placePixels");
  add<js_clear_pixels>(exports, "clearPixels");
  add<js_map_pixels>(exports, "mapPixels");
  add<js_read_ahead>(exports, "readAhead");
  add<js_checksum>(exports, "checksum");
  add<js_pixel_store_info>(exports, "pixelStoreInfo");
  add<js_augment>(exports, "augment");
  add<js_open_jpeg_decoder>(exports, "openJpegDecoder");
  add<js_decode_jpeg>(exports, "decodeJpeg");
  add<js_place_jpeg>(exports, "placeJpeg");

  add<js_bank_loss>(exports, "bankLoss");
  add<js_feature_loss>(exports, "featureLoss");
  add<js_bank_update>(exports, "bankUpdate");
  add<js_make_semantic_head>(exports, "makeSemanticHead");
  add<js_write_semantic_state>(exports, "writeSemanticState");
  add<js_read_semantic_state>(exports, "readSemanticState");
  add<js_head_loss>(exports, "headLoss");
  add<js_head_update>(exports, "headUpdate");
  add<js_read_metrics>(exports, "readMetrics");
  add<js_top_similar>(exports, "topSimilar");

  add<js_open_rows>(exports, "openRows");
  add<js_load_rows>(exports, "loadRows");
  add<js_keep_rows>(exports, "keepRows");

  add<js_classifier_loss>(exports, "classifierLoss");
  add<js_softmax_loss>(exports, "softmaxLoss");
  add<js_detection_loss>(exports, "detectionLoss");
  add<js_sgd_tensor>(exports, "sgdTensor");
  add<js_write_rows>(exports, "writeRows");
  return exports;
}

NODE_API_MODULE(lgdistill, init)

}  // namespace lgd::binding
