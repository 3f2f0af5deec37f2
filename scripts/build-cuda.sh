#!/usr/bin/env bash
# Builds okapi for NVIDIA GPUs, on a machine that needs no GPU, no driver and no CUDA toolkit.
#
#     scripts/build-cuda.sh [--toolkit FOLDER] [ARGUMENTS OF CARGO BUILD...]
#
# An installed toolkit is used: that of CUDA_HOME, else that of the nvcc on PATH. If there is none, or a
# folder is given, the compiler and the libraries come from PyPI, about 1.3 GB, into FOLDER (by default
# target/cuda-toolkit), once; python3 with venv and pip is needed for that. g++ and cargo are always needed.
#
# CUDA_COMPUTE_CAP says for which GPUs: 80 (the default) runs on compute capability 8.0 and newer.
# The first build takes a quarter of an hour of a processor's time, nearly all of it for candle's own kernels.
#
# Versions: nvcc writes PTX, which a driver refuses if it is older than the nvcc. CUDA 13.0 is pinned because
# drivers from 580 on take it; a newer nvcc would ask for a newer driver.
set -euo pipefail

wheels=(
    nvidia-cuda-nvcc==13.0.88
    nvidia-nvvm==13.0.88
    nvidia-cuda-crt==13.0.88
    nvidia-cuda-runtime==13.0.96
    nvidia-cuda-cccl==13.0.85
    nvidia-cublas==13.1.0.3
    nvidia-curand==10.4.0.35
    nvidia-cuda-nvrtc==13.0.88
)

fail() {
    echo "build-cuda.sh: $*" >&2
    exit 1
}

need() {
    command -v "$1" >/dev/null || fail "$1 is missing: install $2"
}

toolkit=
if [[ ${1-} == --toolkit ]]; then
    [[ -n ${2-} ]] || fail "--toolkit needs a folder"
    mkdir -p "$2"
    toolkit=$(cd "$2" && pwd)
    shift 2
fi
cd "$(dirname "${BASH_SOURCE[0]}")/.."
need cargo "Rust from https://rustup.rs"
need g++ "a C++ compiler (Debian, Ubuntu: g++)"

# What is built goes where cargo would put it.
target=$(cargo metadata --format-version 1 --no-deps --offline |
    sed -E 's/.*"target_directory":"([^"]+)".*/\1/')

# Sets CUDA_HOME to a toolkit made of wheels in a folder.
make_toolkit() {
    local folder=$1 wanted="${wheels[*]}"
    need python3 "Python 3 with venv (Debian, Ubuntu: python3-venv)"
    if [[ $(cat "$folder/okapi-wheels" 2>/dev/null) != "$wanted" ]]; then
        echo "build-cuda.sh: installing CUDA's compiler and libraries into $folder" >&2
        [[ -x $folder/bin/python ]] || python3 -m venv "$folder"
        "$folder/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps \
            --only-binary :all: "${wheels[@]}"
        # The last step, so that what was cut off begins anew.
        echo "$wanted" >"$folder/okapi-wheels"
    fi
    CUDA_HOME=$("$folder/bin/python" -c \
        'import sysconfig; print(sysconfig.get_path("purelib") + "/nvidia/cu13")')
    # The linker looks for libNAME.so, wheels bring libNAME.so.13 only.
    local library
    for library in "$CUDA_HOME"/lib/*.so.*; do
        ln -sf "$(basename "$library")" "${library%%.so*}.so"
    done
    make_stand_in "$CUDA_HOME/lib/stubs"
}

# Makes a libcuda.so to link against. The real one is part of the driver, and no wheel brings one. Each
# function answers CUDA_ERROR_STUB_LIBRARY, as those of NVIDIA's own stand-in do, so that a program that
# loads it by mistake says so.
make_stand_in() {
    local folder=$1 sources functions
    sources=$(cargo metadata --format-version 1 --locked --features cuda |
        grep -oE '"manifest_path":"[^"]*/cudarc-[0-9.]+/Cargo\.toml"' | sed -n 1p | cut -d '"' -f 4)
    sources=$(dirname "$sources")/src/driver/sys/mod.rs
    [[ -f $sources ]] || fail "the declarations of the driver's functions are not at $sources"
    functions=$(grep -oE '\bfn cu[A-Z][A-Za-z0-9_]+' "$sources" | cut -d ' ' -f 2 | sort -u)
    mkdir -p "$folder"
    sed -E 's/(.*)/int \1(void) { return 34; }/' <<<"$functions" >"$folder/libcuda.new.c"
    if ! cmp -s "$folder/libcuda.new.c" "$folder/libcuda.c" || [[ ! -f $folder/libcuda.so.1 ]]; then
        # What linked programs ask for is libcuda.so.1, as the driver calls it.
        g++ -x c -w -shared -fPIC -Wl,-soname,libcuda.so.1 -o "$folder/libcuda.so.1" \
            "$folder/libcuda.new.c"
        ln -sf libcuda.so.1 "$folder/libcuda.so"
    fi
    mv "$folder/libcuda.new.c" "$folder/libcuda.c"
}

is_ours=
if [[ -z $toolkit && -x ${CUDA_HOME-}/bin/nvcc ]]; then
    :
elif [[ -z $toolkit ]] && command -v nvcc >/dev/null; then
    CUDA_HOME=$(dirname "$(dirname "$(readlink -f "$(command -v nvcc)")")")
else
    make_toolkit "${toolkit:-$target/cuda-toolkit}"
    is_ours=yes
fi

# cudarc asks the nvcc on PATH for the version, and looks for libraries below CUDA_HOME.
export CUDA_HOME
export PATH="$CUDA_HOME/bin:$PATH"
export CUDA_COMPUTE_CAP=${CUDA_COMPUTE_CAP:-80}
for folder in lib lib64 lib/stubs lib64/stubs; do
    if [[ -d $CUDA_HOME/$folder ]]; then
        LIBRARY_PATH="$CUDA_HOME/$folder${LIBRARY_PATH:+:$LIBRARY_PATH}"
    fi
done
export LIBRARY_PATH

cargo build --release --locked --features cuda "$@"

if [[ $is_ours ]]; then
    libraries=$CUDA_HOME/lib
else
    libraries=$(dirname "$(find -L "$CUDA_HOME" -name 'libcublas.so.*' -print -quit)")
fi
cat <<END

What was built is in $target/release. It starts where its libraries are found:
  libcuda.so.1                            comes with the driver (580 or newer for CUDA 13.0)
  libcublas, libcublasLt, libcurand .so.* of the same CUDA version, here in
                                          $libraries
On another machine these may come from its CUDA toolkit, from the same wheels, or from PyTorch's:
  libraries=\$(python3 -c 'import nvidia.cu13 as cuda; print(list(cuda.__path__)[0] + "/lib")')
  LD_LIBRARY_PATH=\$libraries okapi --version
If libcuda.so.1 is not found, add its folder too: ldconfig -p | grep libcuda.so.1
END
