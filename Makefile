# Two commands on a fresh machine do everything: `make demo` and `make test`. `make` alone lists what there is.

TARGET_DIR := $(abspath $(or $(CARGO_TARGET_DIR),target))
RELEASE := $(TARGET_DIR)/release
EXTENSION := $(if $(filter Darwin,$(shell uname -s)),dylib,so)
CARGO ?= cargo
PREFIX ?= $(or $(PAJAMAS_HOME),$(HOME)/.pajamas)
# All but the backends for GPUs, which are built one at a time: cargo would unite their features.
WORKSPACE := --workspace $(foreach gpu,cuda vulkan metal rocm,--exclude pajamas-gguf-$(gpu))
TEMPLATE := --manifest-path plugin-template/Cargo.toml --target-dir "$(TARGET_DIR)"
API_1_0 := --manifest-path tests/plugins/api-1.0.0/Cargo.toml --target-dir "$(TARGET_DIR)"

# The MLX backend is tested where MLX can be had.
ifneq ($(MLX),0)
ifneq ($(filter Linux-x86_64 Linux-aarch64 Darwin-arm64,$(shell uname -sm | tr ' ' -)),)
TEST_MLX := tools/build-plugin-mlx cargo test --release -- --test-threads=1
LINT_MLX := tools/build-plugin-mlx cargo clippy --release --all-targets -- -D warnings
endif
endif

ifeq ($(shell uname -sm),Linux x86_64)
# What runs where the CPU is old is tested on an emulated one, and Vulkan on Mesa's device in software.
TEST_LEVEL := cpu-level-x86-64-v2
ifneq ($(VULKAN),0)
TEST_VULKAN := plugin-vulkan
endif
endif

# The plugins for this machine, and the CPU backends that are handed out.
OWN_PLUGINS := "$(RELEASE)/levels/libgguf_cpu-native.$(EXTENSION)=libgguf_cpu.$(EXTENSION)" "$(RELEASE)/libmlx_quantize.$(EXTENSION)"
NOTICES := $(TARGET_DIR)/THIRD-PARTY-NOTICES.txt
ifeq ($(shell uname -m),x86_64)
LEVELS := $(foreach v,2 3 4,cpu-level-x86-64-v$(v))
LEVEL_LIBRARIES := $(foreach v,2 3 4,"$(RELEASE)/levels/libgguf_cpu-x86-64-v$(v).$(EXTENSION)")
else
LEVELS := plugin-gguf-cpu
LEVEL_LIBRARIES := "$(RELEASE)/levels/libgguf_cpu-native.$(EXTENSION)=libgguf_cpu.$(EXTENSION)"
endif

# The backends for GPUs that were asked for in the same call: `make plugin-vulkan install`.
GPU_PLUGINS := $(foreach gpu,cuda vulkan metal rocm,$(if $(filter plugin-$(gpu),$(MAKECMDGOALS)),"$(RELEASE)/libgguf_$(gpu).$(EXTENSION)")) \
	$(if $(filter plugin-mlx,$(MAKECMDGOALS)),"$(RELEASE)/plugins/mlx$(if $(filter 1,$(MLX_CUDA)),-cuda)")

# One compiler cache for every build of llama.cpp, where there is one.
ifneq ($(shell command -v ccache),)
export CMAKE_C_COMPILER_LAUNCHER := ccache
export CMAKE_CXX_COMPILER_LAUNCHER := ccache
endif

.PHONY: help deps build host tested plugins plugin-gguf-cpu plugin-mlx-quantize plugin-mlx plugin-vulkan plugin-cuda plugin-metal plugin-rocm demo test fuzz memcheck quality lint bench bench-plugins bench-gguf bench-mlx bench-convert goldens reference install uninstall dist wheel notices audit book soak clean

help: ## list these targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 20

deps: ## install what is missing: cmake, a C++ compiler, libclang
	@tools/install-deps

build: host plugins ## build the programs and the plugins

host: deps ## build pajamas and pajamas-worker
	$(CARGO) build --release --locked -p pajamas

plugins: plugin-gguf-cpu plugin-mlx-quantize ## build the plugins that need nothing from elsewhere

plugin-gguf-cpu: cpu-level-native ## build the CPU backend, for this machine's CPU

cpu-level-%: deps # the CPU backend for an x86-64 level: cpu-level-x86-64-v2, -v3, -v4, or cpu-level-native
	@install -d "$(RELEASE)/levels"
	@tools/cpu-level $* sh -ec '$(CARGO) build --release --locked -p pajamas-gguf-cpu --target-dir "$$0/levels/$$CPU_LEVEL_FOLDER"; \
		install -m 755 "$$0/levels/$$CPU_LEVEL_FOLDER/release/libgguf_cpu.$(EXTENSION)" "$$1"' \
		"$(TARGET_DIR)" "$(RELEASE)/levels/libgguf_cpu-$*.$(EXTENSION)"

# What tests and benchmarks run: the CPU backend for x86-64-v3, whatever the machine, so that its numbers are the same.
tested: host plugin-mlx-quantize
	$(CARGO) build --release --locked -p pajamas-gguf-cpu

plugin-vulkan: deps ## build the backend for AMD, Intel and NVIDIA GPUs through Vulkan (needs its headers, glslc and the loader)
	@tools/install-deps vulkan
	@# At a place that is the same for every clone, so that a compiler cache serves them all.
	@cmp -s plugins/gguf-vulkan/include/layer_settings.h "$(TARGET_DIR)/vulkan/layer_settings.h" || \
		install -D -m 644 plugins/gguf-vulkan/include/layer_settings.h "$(TARGET_DIR)/vulkan/layer_settings.h"
	CXXFLAGS="$$CXXFLAGS -include $(TARGET_DIR)/vulkan/layer_settings.h" \
		$(CARGO) build --release --locked -p pajamas-gguf-vulkan

plugin-cuda: deps ## build the backend for NVIDIA GPUs, with an installed CUDA or, by CUDA_FROM=pip, PyPI's
	@tools/build-plugin-cuda

plugin-metal: deps ## build the backend for Apple GPUs (macOS)
	$(CARGO) build --release --locked -p pajamas-gguf-metal

plugin-rocm: deps ## build the backend for AMD GPUs through ROCm (needs ROCm)
	$(CARGO) build --release --locked -p pajamas-gguf-rocm

plugin-mlx-quantize: ## build the quantizer for MLX models, which needs no MLX
	$(CARGO) build --release --locked -p pajamas-mlx-quantize

plugin-mlx: deps ## build the MLX backend (Apple silicon; on Linux for the CPU, or NVIDIA GPUs with MLX_CUDA=1)
	@tools/install-deps mlx
	@tools/build-plugin-mlx

demo: host plugin-gguf-cpu ## quantize the bundled model and let it answer
	@tools/demo "$(RELEASE)" "$(EXTENSION)"

test: tested $(TEST_LEVEL) $(TEST_VULKAN) $(if $(TEST_MLX),plugin-mlx) ## build everything and run every test (MLX=0 leaves the MLX backend out, VULKAN=0 the Vulkan one)
	@tools/install-deps test
	$(CARGO) build --release --locked $(WORKSPACE) --all-targets
	$(CARGO) build --release --locked $(TEMPLATE)
	$(CARGO) build --release --locked $(API_1_0)
	$(CARGO) test --release --locked $(TEMPLATE)
	$(TEST_MLX)
	$(CARGO) test --release --locked $(WORKSPACE) -- --test-threads=1
	@tools/test-python "$(RELEASE)" "$(EXTENSION)"
	@tools/memcheck
	@FUZZ_SECONDS=$${FUZZ_SECONDS:-3} tests/fuzz/run

fuzz: deps ## feed damaged files to every reader of models, FUZZ_SECONDS seconds each (default: 10)
	@tests/fuzz/run

memcheck: deps ## run the tests of the binary interface under valgrind, where there is one
	$(CARGO) build --release --locked -p pajamas-misbehaving
	@tools/memcheck

quality: tested ## make the bundled model by every method, validate and measure each, and print the tables
	$(CARGO) build --release --locked -p pajamas-tests --example quality_table
	@"$(RELEASE)/examples/quality_table" "$(RELEASE)" tests/fixtures/pajama-tiny

lint: deps ## formatting, clippy, documentation
	$(CARGO) fmt --all --check
	$(CARGO) fmt --check --manifest-path plugins/mlx/Cargo.toml
	$(CARGO) fmt --check --manifest-path plugin-template/Cargo.toml
	$(CARGO) fmt --check --manifest-path tests/fuzz/Cargo.toml
	$(CARGO) clippy --release --locked $(WORKSPACE) --all-targets -- -D warnings
	$(CARGO) clippy --release --locked --all-targets $(TEMPLATE) -- -D warnings
	$(CARGO) clippy --locked --manifest-path tests/fuzz/Cargo.toml --target-dir "$(TARGET_DIR)/fuzz" -- -D warnings
	$(LINT_MLX)
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --release --locked $(WORKSPACE) --no-deps

bench: bench-plugins bench-gguf bench-mlx bench-convert ## speed and memory beside bare llama.cpp, mlx-lm, and llama.cpp's converter (an hour, 10 GB)

bench-plugins: tested ## how long it takes to list ten plugins, cold and warm
	$(CARGO) build --release --locked -p pajamas-misbehaving
	@$(CARGO) run --release --locked -q -p pajamas-tests --example plugin_listing

bench-gguf: tested
	$(CARGO) build --release --locked -p pajamas-gguf --example speed
	@tests/bench/gguf.sh "$(RELEASE)" "$(TARGET_DIR)/bench"

bench-mlx: tested plugin-mlx
	$(CARGO) build --release --locked -p pajamas-tests --example answer
	@tests/bench/mlx.sh "$(RELEASE)" "$(TARGET_DIR)/bench"

bench-convert: tested ## one pass from a Hugging Face folder beside llama.cpp's converter and quantizer (about half an hour, 10 GB)
	$(CARGO) build --release --locked -p pajamas-gguf --example llama_quantize
	@tests/bench/convert.sh "$(RELEASE)" "$(TARGET_DIR)/bench"

goldens: tested ## recompute the golden files with llama.cpp's converter, transformers and mlx-lm (see tests/oracle/README.md)
	@[ -n "$$LLAMA_CPP" ] || { echo "LLAMA_CPP must name llama.cpp's source folder: see tests/oracle/README.md" >&2; exit 1; }
	python3 tests/oracle/converter_golden.py golden "$$LLAMA_CPP" tests/fixtures/pajama-tiny qwen2 tests/fixtures/golden/converter-pajama-tiny.json
	python3 tests/oracle/families.py tests/fixtures/families
	python3 tests/oracle/families_golden.py golden "$$LLAMA_CPP" tests/fixtures/families tests/fixtures/golden/families
	python3 tests/oracle/imatrix_golden.py tests/fixtures tests/fixtures/golden/imatrix.json
	python3 tests/oracle/transformers_golden.py tests/fixtures/pajama-tiny tests/fixtures/golden
	python3 tests/oracle/architectures_golden.py tests/fixtures/pajama-tiny tests/fixtures/golden
	python3 tests/oracle/mlx_quantize_golden.py tests/fixtures/pajama-tiny tests/fixtures/golden/mlx-quantize.json
	python3 tests/oracle/mlx_generation_golden.py tests/fixtures/pajama-tiny tests/fixtures/golden
	$(CARGO) build --release --locked -p pajamas-tests --example logits
	python3 tests/oracle/validate_golden.py "$(RELEASE)" tests/fixtures/pajama-tiny tests/fixtures/golden/validate.json
	python3 tests/oracle/backend_check_golden.py "$(RELEASE)" tests/fixtures/pajama-tiny host/assets/backend-check

reference: ## write docs/reference/cli.md anew, from the program's own help
	UPDATE_REFERENCE=1 $(CARGO) test --release --locked -p pajamas --lib reference

install: build ## install into $PREFIX (default: ~/.pajamas); `make plugin-cuda install` installs that backend, too
	@tools/install "$(RELEASE)" "$(PREFIX)" $(OWN_PLUGINS) $(GPU_PLUGINS)

uninstall: ## take out of $PREFIX what `make install` put there; models, settings and other plugins stay
	@tools/uninstall "$(PREFIX)"

dist: host plugin-mlx-quantize notices $(LEVELS) ## an archive and a wheel for other machines, with the CPU backend for every x86-64 level
	@tools/dist "$(RELEASE)" "$(NOTICES)" "$(TARGET_DIR)/dist" "$(RELEASE)/libmlx_quantize.$(EXTENSION)" $(LEVEL_LIBRARIES)
	@tools/build-wheel "$(RELEASE)" "$(NOTICES)" "$(TARGET_DIR)/dist" "$(RELEASE)/libmlx_quantize.$(EXTENSION)" $(LEVEL_LIBRARIES)

wheel: build notices ## the Python package for this machine, into target/wheel
	@tools/build-wheel "$(RELEASE)" "$(NOTICES)" "$(TARGET_DIR)/wheel" $(OWN_PLUGINS)

notices: deps # the licences of everything that is linked into what is handed out
	@tools/install-deps python
	@tools/notices "$(NOTICES)"

audit: ## check the licences and sources of every dependency; with ADVISORIES=1 security advisories, too
	@tools/audit

book: ## the documentation as a book, into target/book (needs mdbook, or installs it)
	@command -v mdbook >/dev/null || $(CARGO) install --locked mdbook
	mdbook build docs --dest-dir "$(TARGET_DIR)/book"

soak: tested ## 10,000 answers and 200 loadings, in this process and in workers, in memory that must not grow (ten minutes)
	$(CARGO) build --release --locked -p pajamas-tests --example soak
	@"$(RELEASE)/pajamas" quantize tests/fixtures/pajama-tiny -m Q8_0 -o "$(TARGET_DIR)/soak" --no-validate --plugin-dir "$(RELEASE)" >/dev/null
	@"$(RELEASE)/examples/soak" "$(RELEASE)" "$(TARGET_DIR)/soak/pajama-tiny-q8_0.gguf" $(or $(GENERATIONS),10000) $(or $(LOADS),200)

clean: ## remove what was built
	$(CARGO) clean
