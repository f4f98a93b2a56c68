# MiMo Mobile. `make` alone prints what there is; every target sets up what it needs, once.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help quantize test test-lowest test-slow test-arm test-gpu android test-android screenshots check lint types docs bench bench-7b bench-convert bench-growth phone-tools \
	bench-phone bench-npu-phone emulator-test lint-actions nano verify-optimum fuzz clean

VENV ?= .venv
LOWEST_VENV ?= .venv-lowest
VERIFY_VENV ?= .venv-verify
PEERS_VENV ?= .venv-peers
# llama.cpp's own programs, unpatched, which have to run our files, and to quantize as we do.
LLAMA_SERVER ?= .venv-llama-server
BIN := $(VENV)/bin

# Files of the long tests, or an option of pytest that leaves some out; by default all run.
SLOW ?=

# So long `make fuzz` fuzzes each reader.
FUZZ_SECONDS ?= 600

# Debian for arm64, aarch64 wheels and libraries, for `make test-arm`.
ARM_ROOT ?= .venv-arm
# Debian 13 with Mesa's lavapipe and the wheels that our runtime imports, for `make test-gpu`.
GPU_ROOT ?= .venv-gpu
# What `make bench-phone` sends to a phone, and the model that it measures there.
PHONE_TOOLS ?= .venv-phone-tools
PHONE_MODEL ?= $(OUT)/mimo-nano/mimo-nano-q4_0.gguf
# What `make bench-npu-phone` measures: a folder that `mimo quantize --target qnn` wrote. By default MiMo-nano, for all chips.
NPU_MODEL ?= $(OUT)/npu/mimo-nano

# What `make quantize` works on: `nano` (embedded), a folder, or a Hugging Face id.
MODEL ?= nano
RECIPE ?= q8_0,q4_k_m,q4_0,int4_b32
OUT ?= out
# A phone to choose the recipe for, instead of RECIPE, and a file that says what recipes may lose (docs/gate.md).
DEVICE ?=
THRESHOLDS ?=

# Quick tests wait for one core most of the time; those of a file share what they make.
BESIDE := --numprocesses auto --maxprocesses 4 --dist loadfile

# Long ones of what no library's version changes: our own files, processes, signals, threads and drafts. What they call of
# libraries, others call, too.
OWN := $(patsubst %,tests/%.py,runtime/decode/test_speculation runtime/test_ends runtime/test_turns runtime/test_soak test_ends \
	test_cache test_hostile test_hostile_documents test_hostile_manifests quantize/test_ends quantize/test_gate \
	quantize/test_kept_work quantize/test_redone quantize/test_given quantize/test_served quantize/test_written convert/test_hostile \
	runtime/decode/test_conversation_file runtime/devices/test_first_use runtime/test_mapped_files test_chat_loop test_formats)

help:  ## what there is
	@echo "MiMo Mobile: MiMo-7B on phones. Start with: make quantize"
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "  Variables: MODEL=nano|folder|hub-id  RECIPE=q4_0,int4_b32,… or DEVICE=phone-12gb  OUT=folder  THRESHOLDS=file.toml"

quantize: $(VENV)/.installed  ## checkpoint → GGUF and ONNX int4, scored, with a first answer from each
	@$(BIN)/mimo quantize "$(MODEL)" $(if $(DEVICE),--device "$(DEVICE)",--recipe "$(RECIPE)") --out "$(OUT)" \
		$(if $(THRESHOLDS),--thresholds "$(THRESHOLDS)")

test: $(VENV)/.installed-dev  ## the quick tests, offline, a few minutes
	@$(BIN)/python -m pytest $(BESIDE) -m "not slow and not arm and not gpu and not android"

test-lowest: $(LOWEST_VENV)/.installed  ## the package's quick tests of what calls libraries, with the lowest versions that pyproject.toml allows
	@MIMO_LOWEST=1 $(LOWEST_VENV)/bin/python -m pytest $(BESIDE) -m "not slow and not arm and not gpu and not android and not newest" \
		$(filter-out $(OWN),$(wildcard tests/*.py)) tests/convert tests/quantize tests/runtime $(OWN:%=--ignore=%)

test-slow: $(VENV)/.installed-dev $(VERIFY_VENV)/.installed $(LLAMA_SERVER)/.built $(PHONE_TOOLS)/.built  ## the tests that take long or download something
	@MIMO_OPTIMUM_PYTHON="$(abspath $(VERIFY_VENV))/bin/python" \
		MIMO_PHONE_TOOLS="$(abspath $(PHONE_TOOLS))/bin" \
		MIMO_LLAMA_PROGRAMS="$(abspath $(LLAMA_SERVER))/build/bin" $(BIN)/python -m pytest -m slow $(SLOW)

test-arm: $(VENV)/.installed-dev $(ARM_ROOT)/.ready  ## our runtime on four emulated ARM CPUs (QEMU; Debian)
	@MIMO_ARM_ROOT="$(abspath $(ARM_ROOT))" $(BIN)/python -m pytest -m arm

fuzz: $(VENV)/.installed-fuzz  ## atheris on every reader of files of others, FUZZ_SECONDS=600 each, two at once (Linux, x86-64)
	@$(BIN)/python -m tests.fuzz --seconds "$(FUZZ_SECONDS)" --out "$(OUT)/fuzz"

test-gpu: $(VENV)/.installed-dev $(GPU_ROOT)/.ready  ## our runtime on WebGPU over a Vulkan driver in software (Debian, x86-64)
	@MIMO_GPU_ROOT="$(abspath $(GPU_ROOT))" $(BIN)/python -m pytest -m gpu

android: quantize  ## the app (APK) and the library (AARs), in build/android, without an Android SDK
	@PYTHON3="$(abspath $(BIN))/python" android_demo/build.sh apk build/android "$(OUT)/mimo-nano"
	@PYTHON3="$(abspath $(BIN))/python" android_demo/build.sh aar build/android
	@du --human-readable --apparent-size build/android/*.apk build/android/maven/*/*/*/*/*/*

test-android: $(VENV)/.installed-dev android  ## the Kotlin library on the JVM, then what `make android` builds
	@PYTHON3="$(abspath $(BIN))/python" android_demo/build.sh lint build/android
	@$(BIN)/python -m tools.npu_fixture "$(OUT)/mimo-nano" build/android/npu
	@$(BIN)/python -m tools.hot_fixture build/android/hot
	@rm -rf build/android/gguf && $(BIN)/python -m tools.gguf_fixture "$(OUT)/mimo-nano" build/android/gguf
	@$(BIN)/python -m tools.conversation_fixture "$(OUT)/mimo-nano" build/android/conversations
	@PYTHON3="$(abspath $(BIN))/python" android_demo/build.sh test build/android "$(OUT)/mimo-nano"
	@MIMO_ANDROID_BUILD="$(abspath build/android)" $(BIN)/python -m pytest -m android
	@PYTHON3="$(abspath $(BIN))/python" android_demo/build.sh test-release build/android "$(OUT)/mimo-nano"
	@PYTHON3="$(abspath $(BIN))/python" android_demo/build.sh test-dex build/android "$(OUT)/mimo-nano"
	@PYTHON3="$(abspath $(BIN))/python" android_demo/build.sh test-app build/android "$(OUT)/mimo-nano"

screenshots: android  ## after a change of the app: draws its screens anew for docs/images
	@SCREENSHOTS="$(abspath docs/images)" PYTHON3="$(abspath $(BIN))/python" android_demo/build.sh test-app build/android "$(OUT)/mimo-nano"

check: lint types  ## before a commit: lint and types

lint: $(VENV)/.installed-dev  ## ruff: style and mistakes
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

lint-actions:  ## actionlint on the GitHub workflows (Go 1.18 or newer)
	@go run github.com/rhysd/actionlint/cmd/actionlint@v1.7.7

types: $(VENV)/.installed-dev  ## mypy, strict
	@$(BIN)/mypy

docs: $(VENV)/.installed-dev  ## after a change of the command line, the public API or the imports: writes what is generated
	@$(BIN)/python -m tools.cli_reference docs/cli.md
	@$(BIN)/python -m tools.python_reference docs/python.md
	@$(BIN)/python -m tools.architecture docs/images

bench: $(VENV)/.installed-bench  ## speed and memory beside llama.cpp and onnxruntime-genai: MiMo-nano, two layers of 7B shapes
	@$(BIN)/python -m benchmarks.speed --recipes q4_0,int4_b32 --rounds 3 --out "$(OUT)/bench"
	@$(BIN)/python -m benchmarks.loading "$(OUT)"/bench/models/mimo-7b-shapes-2-layers/*-{q4_0.gguf,int4_b32-onnx}

bench-7b: $(VENV)/.installed-bench  ## the same with all 36 layers of random weights (45 GB of disk, two hours on two cores)
	@$(BIN)/python -m benchmarks.speed --layers 36 --no-nano --rounds 3 --out "$(OUT)/bench-7b"
	@$(BIN)/python -m benchmarks.loading "$(OUT)"/bench-7b/models/mimo-7b-shapes-36-layers/*-{q4_0.gguf,int4_b32-onnx}

bench-convert: $(VENV)/.installed-bench $(PEERS_VENV)/.installed  ## quantizing beside the peers' converters, all 36 layers (40 GB of disk, an hour)
	@[ -d "$(OUT)/bench-7b/mimo-7b-shapes-36-layers" ] || $(BIN)/mimo synth "$(OUT)/bench-7b/mimo-7b-shapes-36-layers"
	@$(BIN)/python -m benchmarks.conversion "$(OUT)/bench-7b/mimo-7b-shapes-36-layers" --peers "$(PEERS_VENV)" --work "$(OUT)"
	@$(BIN)/python -m benchmarks.conversion "$(OUT)/bench-7b/mimo-7b-shapes-36-layers" --peers "$(PEERS_VENV)" --work "$(OUT)" \
		--recipe q4_k_m --rounds 1
	@for layers in 2 4; do $(BIN)/mimo synth "$(OUT)/bench/layers-$$layers" --layers $$layers --force && \
		$(BIN)/python -m benchmarks.conversion "$(OUT)/bench/layers-$$layers" --peers "$(PEERS_VENV)" --recipe int4_b32; done

bench-growth: $(VENV)/.installed-bench  ## time and memory against layers and context (40 GB of disk, half an hour)
	@$(BIN)/python -m benchmarks.growth --json "$(OUT)/growth.json"

phone-tools: $(PHONE_TOOLS)/.built  ## llama.cpp's static programs for a phone, cross-built once

bench-phone: $(VENV)/.installed $(PHONE_TOOLS)/.built  ## speed, memory, heat and battery on the phone that adb sees; PHONE_MODEL=file.gguf
	@[ "$(origin PHONE_MODEL)" != file ] || [ -f "$(PHONE_MODEL)" ] || \
		$(BIN)/mimo quantize nano --recipe q4_0 --out "$(OUT)"
	@$(BIN)/python -m benchmarks.phone "$(PHONE_MODEL)" --tools "$(PHONE_TOOLS)/bin" --out "$(OUT)/phone" $(PHONE_OPTIONS)

bench-npu-phone: $(VENV)/.installed-dev  ## the same of the NPU, by the demo app: NPU, split and CPU; NPU_MODEL=folder
	@[ "$(origin NPU_MODEL)" != file ] || ls "$(NPU_MODEL)"/*/qnn-SM8850/npu.json >/dev/null 2>&1 || $(BIN)/mimo quantize nano --recipe int4_b32 --target qnn \
		--soc SM8450,SM8550,SM8650,SM8750,SM8850 --context 2048 --problems 0 --no-answer --out "$(OUT)/npu"
	@$(BIN)/python -m benchmarks.phone.npu "$(NPU_MODEL)" --out "$(OUT)/phone" $(PHONE_OPTIONS)

emulator-test: android $(VENV)/.installed  ## the app's instrumented tests on the emulator or phone that adb sees
	@$(BIN)/python -m tools.emulator_test build/android/mimo-mobile-debug.apk \
		build/android/mimo-mobile-debug-androidTest.apk --out "$(OUT)/emulator"

nano: $(VERIFY_VENV)/.installed  ## train MiMo-nano again, from nothing (about an hour on two cores)
	@PYTHONPATH=src:. $(VERIFY_VENV)/bin/python -W ignore -m tools.nano.train

verify-optimum: $(VENV)/.installed $(VERIFY_VENV)/.installed  ## compare our ONNX graph with the one that optimum exports through PyTorch
	@MIMO_OPTIMUM_PYTHON="$(abspath $(VERIFY_VENV))/bin/python" $(BIN)/python -m tools.verify_optimum $(MODEL)

clean:  ## remove outputs and caches, keep the environments
	rm -rf "$(OUT)" build *.egg-info src/*.egg-info .pytest_cache .mypy_cache .ruff_cache

$(VENV)/.installed: pyproject.toml setup.py quantize/kernels.c tools/setup.sh
	@bash tools/setup.sh "$(VENV)" gguf,onnx,hub,serve
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	@bash tools/setup.sh "$(VENV)" dev
	@touch $@

$(VENV)/.installed-bench: $(VENV)/.installed-dev
	@bash tools/setup.sh "$(VENV)" bench
	@touch $@

$(VENV)/.installed-fuzz: $(VENV)/.installed-dev
	@bash tools/setup.sh "$(VENV)" fuzz
	@touch $@

$(LOWEST_VENV)/.installed: pyproject.toml setup.py quantize/kernels.c tools/setup.sh $(VENV)/.installed
	@bash tools/setup.sh "$(LOWEST_VENV)" lowest "$(VENV)/wheels"
	@touch $@

$(LLAMA_SERVER)/.built: tools/llama_server.sh tools/llama_sparingly.cmake $(VENV)/.installed-dev
	@bash tools/llama_server.sh "$(LLAMA_SERVER)" "$(abspath $(BIN))/python"
	@touch $@

$(ARM_ROOT)/.ready: tools/arm.sh tools/llama_sparingly.cmake $(VENV)/.installed-dev
	@bash tools/arm.sh "$(ARM_ROOT)" "$(abspath $(BIN))/python"
	@touch $@

$(GPU_ROOT)/.ready: tools/gpu.sh $(VENV)/.installed-dev
	@bash tools/gpu.sh "$(GPU_ROOT)" "$(abspath $(BIN))/python"
	@touch $@

$(PHONE_TOOLS)/.built: tools/phone_tools.sh tools/llama_sparingly.cmake | $(VENV)/.installed
	@bash tools/phone_tools.sh "$(PHONE_TOOLS)" "$(abspath $(BIN))/python"
	@touch $@

$(PEERS_VENV)/.installed: benchmarks/peers/requirements.txt
	@bash tools/setup.sh "$(PEERS_VENV)" peers
	@touch $@

$(VERIFY_VENV)/.installed: tools/nano/requirements.txt
	@bash tools/setup.sh "$(VERIFY_VENV)" verify
	@touch $@
