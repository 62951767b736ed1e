{
  # CPU backend only; for machines with Python but without CMake. CMakeLists.txt is the full build.
  "variables": { "lgd_version": "<!(node -p \"require('./package.json').version\")" },
  "targets": [{
    "target_name": "lgdistill",
    "sources": ["<!@(node scripts/sources.mjs cpu)"],
    "include_dirs": ["native", "<!(node -p \"require('node-addon-api').include_dir\")"],
    "defines": ["NAPI_VERSION=8", "NAPI_CPP_EXCEPTIONS", "NODE_API_SWALLOW_UNTHROWABLE_EXCEPTIONS", "LGD_VERSION=\"<(lgd_version)\"", "LGD_BUILD_ID=\"node-gyp cpu\""],
    "cflags!": ["-fno-exceptions"],
    "cflags_cc!": ["-fno-exceptions", "-fno-rtti", "-std=gnu++17"],
    "cflags_cc": ["-std=gnu++20", "-O3", "-fexceptions", "-frtti", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast", "-fvisibility=hidden", "-Wno-cast-function-type"],
    "ldflags": ["-pthread", "-Wl,-z,nodelete"]
  }]
}
