#include "binding/async.h"
#include "binding/exports.h"
#include "binding/marshal.h"

namespace lgd::binding {

// Every row is looked at, which takes as long as reading the file does: on the device's thread.
Napi::Value js_open_rows(const Napi::CallbackInfo& info) {
  const DevicePtr device = unwrap<Device>(info[0]);
  const Fields fields(info[1], "openRows");
  RowFileOptions options;
  fields.read("path", options.path);
  fields.read("offset", options.offset);
  fields.read("rows", options.rows);
  fields.read("dimension", options.dimension);
  return run_async<RowFilePtr>(
      info.Env(), device, "rows.open", [device, options](RowFilePtr& file) { file = open_rows(device, options); },
      [](Napi::Env env, const RowFilePtr& file) -> Napi::Value {
        const RowFileInfo found = row_file_info(file);
        auto out = Napi::Object::New(env);
        out.Set("file", wrap(env, file));
        out.Set("present", to_js(env, found.present));
        out.Set("damaged", double(found.damaged));
        return out;
      });
}

static std::vector<int64_t> rows_of(const Napi::CallbackInfo& info) {
  std::vector<int64_t> rows;
  Fields(info[1], "batch").read("rows", rows);
  return rows;
}

Napi::Value js_load_rows(const Napi::CallbackInfo& info) {
  load_rows(unwrap<RowFile>(info[0]), rows_of(info), unwrap<Tensor>(info[2]));
  return info.Env().Undefined();
}

Napi::Value js_keep_rows(const Napi::CallbackInfo& info) {
  keep_rows(unwrap<RowFile>(info[0]), rows_of(info), unwrap<Tensor>(info[2]));
  return info.Env().Undefined();
}

}  // namespace lgd::binding
