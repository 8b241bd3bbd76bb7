# What mlx-c's find_package(MLX) finds: the wheel's headers. The wheel's own config would ask a CUDA build for the
# whole CUDA toolkit and cuDNN, of which mlx-c includes nothing.
add_library(mlx SHARED IMPORTED)
set_target_properties(mlx PROPERTIES
    IMPORTED_LOCATION "${PAJAMAS_MLX}/lib/libmlx.so"
    INTERFACE_INCLUDE_DIRECTORIES "${PAJAMAS_MLX}/include")
# Error messages name their source file; whose cache it was compiled in is nobody's business.
set_property(TARGET mlx PROPERTY INTERFACE_COMPILE_OPTIONS
    "SHELL:-include \"${CMAKE_CURRENT_LIST_DIR}/format.h\""
    "-ffile-prefix-map=${CMAKE_SOURCE_DIR}/=")
set(MLX_FOUND TRUE)
