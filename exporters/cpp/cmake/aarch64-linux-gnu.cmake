# Cross-compiling for 64-bit ARM (Jetson, Raspberry Pi) by Debian's g++-aarch64-linux-gnu:
#   cmake -B build -DCMAKE_TOOLCHAIN_FILE=cmake/aarch64-linux-gnu.cmake -DDASHDEPLOY_BACKENDS=onnxruntime
#     -DONNXRUNTIME_ROOT=… -DOPENSSL_ROOT_DIR=… -DNLOHMANN_JSON_INCLUDE_DIR=…
# The releases that these name are the board's: aarch64. For Android take the toolchain file of its NDK instead.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++ CACHE FILEPATH "")
# Programs are the host's; libraries and headers may lie anywhere that an option names.
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
