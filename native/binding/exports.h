// The export list of the addon: the functions, by the file they stand in, and their names in JavaScript. lib/addon/native.ts
// mirrors it; a test compares the two.
#pragma once
#include <napi.h>

#define LGD_EXPORTS(X)                                     \
  /* marshal.cpp */                                        \
  X(release_handle, "release")                             \
  /* devices.cpp */                                        \
  X(js_build_info, "buildInfo")                            \
  X(js_cuda_driver, "cudaDriver")                          \
  X(js_cuda_status, "cudaStatus")                          \
  X(js_open_device, "openDevice")                          \
  X(js_device_info, "deviceInfo")                          \
  X(js_wgmma_difference, "wgmmaDifference")                \
  X(js_programmatic_launch_time, "programmaticLaunchTime") \
  X(js_synchronize, "synchronize")                         \
  X(js_make_step, "makeStep")                              \
  X(js_begin_step, "beginStep")                            \
  X(js_end_step, "endStep")                                \
  X(js_begin_update, "beginUpdate")                        \
  X(js_end_update, "endUpdate")                            \
  X(js_check_step, "checkStep")                            \
  X(js_step_info, "stepInfo")                              \
  X(js_begin_branch, "beginBranch")                        \
  X(js_end_branch, "endBranch")                            \
  X(js_join_branch, "joinBranch")                          \
  X(js_make_tensor, "makeTensor")                          \
  X(js_write_tensor, "writeTensor")                        \
  X(js_copy_tensor, "copyTensor")                          \
  X(js_read_tensor, "readTensor")                          \
  X(js_make_images, "makeImages")                          \
  X(js_write_images, "writeImages")                        \
  X(js_read_images, "readImages")                          \
  /* encoders.cpp */                                       \
  X(js_make_encoder, "makeEncoder")                        \
  X(js_encoder_info, "encoderInfo")                        \
  X(js_write_parameter, "writeParameter")                  \
  X(js_read_parameter, "readParameter")                    \
  X(js_forward, "forward")                                 \
  X(js_keep_statistics, "keepStatistics")                  \
  X(js_encoder_output, "encoderOutput")                    \
  X(js_zero_gradients, "zeroGradients")                    \
  X(js_backward, "backward")                               \
  X(js_optimizer_step, "optimizerStep")                    \
  X(js_read_gradient_norm, "readGradientNorm")             \
  /* images.cpp */                                         \
  X(js_make_pixel_store, "makePixelStore")                 \
  X(js_append_pixels, "appendPixels")                      \
  X(js_place_pixels, "placePixels")                        \
  X(js_clear_pixels, "clearPixels")                        \
  X(js_map_pixels, "mapPixels")                            \
  X(js_read_ahead, "readAhead")                            \
  X(js_checksum, "checksum")                               \
  X(js_pixel_store_info, "pixelStoreInfo")                 \
  X(js_augment, "augment")                                 \
  X(js_open_jpeg_decoder, "openJpegDecoder")               \
  X(js_decode_jpeg, "decodeJpeg")                          \
  X(js_place_jpeg, "placeJpeg")                            \
  /* semantic.cpp */                                       \
  X(js_bank_loss, "bankLoss")                              \
  X(js_feature_loss, "featureLoss")                        \
  X(js_bank_update, "bankUpdate")                          \
  X(js_make_semantic_head, "makeSemanticHead")             \
  X(js_write_semantic_state, "writeSemanticState")         \
  X(js_read_semantic_state, "readSemanticState")           \
  X(js_head_loss, "headLoss")                              \
  X(js_head_update, "headUpdate")                          \
  X(js_read_metrics, "readMetrics")                        \
  X(js_top_similar, "topSimilar")                          \
  /* row_file.cpp */                                       \
  X(js_open_rows, "openRows")                              \
  X(js_load_rows, "loadRows")                              \
  X(js_keep_rows, "keepRows")                              \
  /* classifier.cpp */                                     \
  X(js_classifier_loss, "classifierLoss")                  \
  X(js_softmax_loss, "softmaxLoss")                        \
  X(js_detection_loss, "detectionLoss")                    \
  X(js_sgd_tensor, "sgdTensor")                            \
  X(js_write_rows, "writeRows")

namespace lgd::binding {

#define LGD_DECLARE(function, name) Napi::Value function(const Napi::CallbackInfo& info);
LGD_EXPORTS(LGD_DECLARE)
#undef LGD_DECLARE

}  // namespace lgd::binding
