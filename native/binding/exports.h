// The functions behind the export list (addon.cpp), by area.
#pragma once
#include <napi.h>

namespace lgd::binding {

#define LGD_DECLARE(name) Napi::Value name(const Napi::CallbackInfo& info);
// devices.cpp
LGD_DECLARE(js_build_info)
LGD_DECLARE(js_cuda_driver)
LGD_DECLARE(js_cuda_status)
LGD_DECLARE(js_open_device)
LGD_DECLARE(js_device_info)
LGD_DECLARE(js_wgmma_difference)
LGD_DECLARE(js_programmatic_launch_time)
LGD_DECLARE(js_synchronize)
LGD_DECLARE(js_make_step)
LGD_DECLARE(js_begin_step)
LGD_DECLARE(js_end_step)
LGD_DECLARE(js_check_step)
LGD_DECLARE(js_step_info)
LGD_DECLARE(js_begin_branch)
LGD_DECLARE(js_end_branch)
LGD_DECLARE(js_join_branch)
LGD_DECLARE(js_make_tensor)
LGD_DECLARE(js_make_images)
LGD_DECLARE(js_write_tensor)
LGD_DECLARE(js_copy_tensor)
LGD_DECLARE(js_read_tensor)
LGD_DECLARE(js_write_images)
LGD_DECLARE(js_read_images)
// encoders.cpp
LGD_DECLARE(js_make_encoder)
LGD_DECLARE(js_encoder_info)
LGD_DECLARE(js_write_parameter)
LGD_DECLARE(js_read_parameter)
LGD_DECLARE(js_forward)
LGD_DECLARE(js_encoder_output)
LGD_DECLARE(js_zero_gradients)
LGD_DECLARE(js_backward)
LGD_DECLARE(js_sgd_step)
// images.cpp
LGD_DECLARE(js_make_pixel_store)
LGD_DECLARE(js_append_pixels)
LGD_DECLARE(js_place_pixels)
LGD_DECLARE(js_clear_pixels)
LGD_DECLARE(js_map_pixels)
LGD_DECLARE(js_read_ahead)
LGD_DECLARE(js_checksum)
LGD_DECLARE(js_pixel_store_info)
LGD_DECLARE(js_augment)
LGD_DECLARE(js_open_jpeg_decoder)
LGD_DECLARE(js_decode_jpeg)
LGD_DECLARE(js_place_jpeg)
// semantic.cpp
LGD_DECLARE(js_bank_loss)
LGD_DECLARE(js_feature_loss)
LGD_DECLARE(js_bank_update)
LGD_DECLARE(js_make_semantic_head)
LGD_DECLARE(js_write_semantic_state)
LGD_DECLARE(js_read_semantic_state)
LGD_DECLARE(js_head_loss)
LGD_DECLARE(js_head_update)
LGD_DECLARE(js_read_metrics)
LGD_DECLARE(js_top_similar)
// row_file.cpp
LGD_DECLARE(js_open_rows)
LGD_DECLARE(js_load_rows)
LGD_DECLARE(js_keep_rows)
// classifier.cpp
LGD_DECLARE(js_classifier_loss)
LGD_DECLARE(js_softmax_loss)
LGD_DECLARE(js_detection_loss)
LGD_DECLARE(js_sgd_tensor)
LGD_DECLARE(js_write_rows)
#undef LGD_DECLARE

}  // namespace lgd::binding
